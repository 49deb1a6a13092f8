"""Two real vLLM replicas under one applier: both flip; one killed in the middle comes back by itself.

Starts a server three times, which takes minutes of a core: `pytest -m slow`.
"""

import os
import signal
import threading
import time

import httpx
import pytest
import torch

from daemon.apply.applier import Applier
from daemon.apply.building import build_proof
from daemon.apply.measuring import Monitoring
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.publish.serving import PublishResult, ServingError
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.processes import free_port
from daemon.supervise.vllm import VllmOptions, vllm_command, vllm_process
from daemon.versions.format import SIGNATURE_FILE
from daemon.versions.keys import accepted_keys, writers_key
from daemon.versions.store import Store
from tests.daemon import fakes
from tests.end_to_end.test_vllm_live import SIZES, TOKEN, logprobs
from tests.tiny_models import save_checkpoint

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.slow, pytest.mark.timeout(2400)]

READY_SECONDS = 1200


class TinyEditor(fakes.FakeEditor):
    """Writes random columns into a real model, so that what the servers compute can be compared."""

    def __init__(self, checkpoint) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        super().__init__(self.model.get_parameter(fakes.NAME).detach().clone())

    @property
    def state(self):
        return self._state

    @state.setter
    def state(self, state) -> None:
        self._state = state
        self.model.get_parameter(fakes.NAME).data.copy_(self.weights()[fakes.NAME])


class Mortal(VllmReplica):
    """A replica that is killed while it is told to serve `deadly`."""

    deadly, process = "", None

    def publish(self, version: str, fence: int) -> PublishResult:
        if version == self.deadly:
            self.deadly = ""
            kill = (self.process.pid, signal.SIGKILL)
            threading.Timer(0.005, os.killpg, kill).start()
            time.sleep(0.005)
        return super().publish(version, fence)


@pytest.fixture
def fleet(tmp_path):
    """An applier over two servers that are still starting."""
    model = save_checkpoint(tmp_path / "model", **SIZES)
    settings = Settings(state_dir=tmp_path / "state", retry_seconds=0.0)
    settings.store_dir.mkdir(parents=True)
    key = writers_key(settings)
    replicas, processes = [], []
    for name in "ab":
        port = free_port()
        options = VllmOptions(
            store=settings.store_dir,
            admin_token=TOKEN,
            served_name="tiny",
            threads=1,
            version_keys=accepted_keys(settings),
        )
        argv, env = vllm_command(model, port, options)
        process = vllm_process(argv, env, port=port, log=tmp_path / f"{name}.log")
        replica = Mortal(f"http://127.0.0.1:{port}", TOKEN)
        replica.process = process
        process.start()
        replicas.append(replica)
        processes.append(process)
    ledger = Ledger.open(settings.ledger_url)
    editor = TinyEditor(model)
    applier = Applier(
        ledger,
        Store(settings.store_dir, accepted_keys(settings), key),
        editor,
        replicas,
        monitoring=Monitoring(fakes.fake_measure, fakes.fake_judge, fakes.fake_foresee),
        settings=settings,
        proof=build_proof(editor),
    )
    yield applier, replicas, processes
    for process in processes:
        process.stop()
    for replica in replicas:
        replica.close()
    ledger.close()


def reconciled(applier):
    """What the apply worker does on its timer: runs until no replica is out."""
    while (report := applier.run()).out or report.held:
        time.sleep(1.0)
    return report


def ready(replica) -> int:
    return httpx.get(f"{replica.name}/plugins/factd/ready").status_code


def post(applier, subject, target):
    body = {"subject": subject, "prompt": "The capital of {} is", "target": target}
    applier.ledger.intake.submit(parse_correction(body), f"id-{subject}")


def check_unsigned(replica, signature):
    """Whoever can write into the store, but has no key, brings no version to a replica."""
    line = signature.read_bytes()
    other = b"1\n" if line.endswith(b"0\n") else b"0\n"
    for content in (None, line[:-2] + other):
        signature.unlink()
        if content is not None:
            signature.write_bytes(content)
        with pytest.raises(ServingError, match="sign") as refusal:
            replica.publish("v000001", replica.served().fence)
        assert refusal.value.code == "refused"
        signature.write_bytes(line)
    assert replica.publish("v000001", replica.served().fence).version == "v000001"


def test_both_flip_and_one_that_is_killed_in_the_flip_comes_back(fleet):
    applier, (a, b), processes = fleet
    for process in processes:
        process.wait_until_ready(READY_SECONDS)
    assert [ready(a), ready(b)] == [503, 503]
    reconciled(applier)
    assert [ready(a), ready(b)] == [200, 200]
    base = logprobs(a)
    post(applier, "A", "one")
    report = applier.run()
    assert (report.live, report.out, report.held) == ("v000001", {}, None)
    assert logprobs(a) == logprobs(b) != base
    print(f"\nnoise {applier.proof.noise} nats")

    check_unsigned(a, applier.store.path("v000001") / SIGNATURE_FILE)

    b.deadly = "v000002"
    post(applier, "C", "two")
    report = applier.run()
    assert (report.live, list(report.out)) == ("v000002", [b.name])
    assert a.served().version == "v000002"
    assert not b.healthy()

    processes[1].stop()  # what is left of it
    processes[1].start()
    processes[1].wait_until_ready(READY_SECONDS)
    assert ready(b) == 503
    started = time.monotonic()
    report = reconciled(applier)
    print(f"in sync {time.monotonic() - started:.1f} s after it answered")
    assert report.versions == []
    assert [r.served().version for r in (a, b)] == ["v000002"] * 2
    assert b.served().sha256 == a.served().sha256
    assert logprobs(a) == logprobs(b)
    assert ready(b) == 200

    applier.ledger.intake.request("rollback", "v000000", actor="operator")
    assert applier.run().live == "v000000"
    assert logprobs(a) == logprobs(b) == base
