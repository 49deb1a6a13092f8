"""Values found elsewhere: with fake answers for what goes wrong, and with real workers on a real broker."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from celery import Celery

from daemon.apply.building import fleet
from daemon.apply.value_workers import Fleet, answer, decoded, encoded, parts
from daemon.core.errors import RefusedError, SettingsError
from daemon.core.settings import Settings
from daemon.supervise.embedded import EmbeddedValkey
from editing.editor import Editor
from editing.facts import Fact
from tests.tiny_models import save_checkpoint

ROOT = Path(__file__).parents[3]
FACTS = [Fact(f"the place {i}", "The owner of {} is", name) for i, name in enumerate(["Ada", "Bo", "Cy"] * 3)]
SHARED = Fact("the place 0", "The owner of {} is named", "Eve")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def prepared(checkpoint, tmp_path_factory) -> Path:
    """Statistics that every machine has a copy of."""
    state = tmp_path_factory.mktemp("prepared")
    opened(checkpoint, state)
    return state


def opened(checkpoint: Path, state: Path, method: str = "nse") -> Editor:
    return Editor.open(str(checkpoint), state_dir=state, dtype="float32", method=method, anchor="none")


@pytest.fixture
def machine(prepared, tmp_path):
    """A state directory of its own with the same statistics."""

    def made(name: str) -> Path:
        subprocess.run(["cp", "-r", str(prepared), str(tmp_path / name)], check=True)
        return tmp_path / name

    return made


@dataclass
class FakeAnswer:
    state: str
    result: Any = None
    revoked: bool = False
    forgotten: bool = False

    def revoke(self) -> None:
        self.revoked = True

    def forget(self) -> None:
        self.forgotten = True


class Worker:
    """Answers the first messages itself, and leaves the others in a given state."""

    def __init__(self, editor: Editor, answered: int, then: str, result: Any = None) -> None:
        self.editor, self.answered, self.then, self.result = editor, answered, then, result
        self.answers: list[FakeAnswer] = []

    def __call__(self, named: dict[str, Any]) -> FakeAnswer:
        if len(self.answers) < self.answered:
            self.answers.append(
                FakeAnswer("SUCCESS", answer(self.editor.install, self.editor.options, **named))
            )
        else:
            self.answers.append(FakeAnswer(self.then, self.result))
        return self.answers[-1]


def ticking():
    now = iter(range(10**6))
    return lambda: float(next(now))


def weights_with(editor: Editor, send=None) -> dict[str, torch.Tensor]:
    if send is not None:
        editor.install.elsewhere = Fleet(send, 20.0, clock=ticking(), sleep=lambda _seconds: None)
    editor.apply([*FACTS, SHARED])
    return editor.weights()


def near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("answered", "then", "result"),
    [
        (9, "PENDING", None),
        (1, "PENDING", None),
        (0, "PENDING", None),
        (1, "STARTED", None),
        (1, "FAILURE", "out of memory"),
        (0, "SUCCESS", "rubbish"),
    ],
)
def test_the_weights_are_the_same_whoever_finds_the_values(checkpoint, machine, answered, then, result):
    alone = weights_with(opened(checkpoint, machine("alone")))
    worker = Worker(opened(checkpoint, machine("worker")), answered, then, result)
    near(weights_with(opened(checkpoint, machine("applier")), worker), alone)
    assert len(worker.answers) == len(parts([*FACTS, SHARED]))
    assert all(a.revoked or a.forgotten or a.state == "STARTED" for a in worker.answers)


def test_nothing_is_asked_for_twice(checkpoint, machine):
    editor = opened(checkpoint, machine("applier"))
    worker = Worker(opened(checkpoint, machine("worker")), 9, "PENDING")
    weights_with(editor, worker)
    asked = len(worker.answers)
    editor.retract(*editor.state.ids)
    weights_with(editor, worker)
    assert len(worker.answers) == asked


def test_facts_that_share_a_value_stay_together():
    found = parts([*FACTS, SHARED])
    assert [fact for part in found for fact in part if fact.subject == "the place 0"] == [FACTS[0], SHARED]
    assert sum(FACTS[0] in part for part in found) == sum(SHARED in part for part in found) == 1
    assert any(FACTS[0] in part and SHARED in part for part in found)


def test_a_worker_with_another_model_or_method_refuses(checkpoint, prepared):
    editor = opened(checkpoint, prepared)
    key = editor.install.value_key(2, editor.options)
    fact = [["a", "{} is", "b"]]
    with pytest.raises(RefusedError, match="another model"):
        answer(editor.install, editor.options, fact, 2, key, "0" * 64)
    with pytest.raises(RefusedError, match="FACTD_METHOD"):
        answer(editor.install, editor.options, fact, 2, "values-2-other", editor.base_hash)


def test_values_travel_bit_for_bit(checkpoint, prepared):
    editor = opened(checkpoint, prepared)
    values = editor.install.values(FACTS[:2], 2, editor.options)
    again = decoded(encoded(values), 2)
    assert all(torch.equal(getattr(again, name), tensor) for name, tensor in vars(values).items())
    with pytest.raises(RefusedError, match="3 finite values"):
        decoded(encoded(values), 3)
    values.delta[0, 0] = float("nan")
    with pytest.raises(RefusedError, match="finite"):
        decoded(encoded(values), 2)


def test_a_method_whose_values_depend_on_the_others_is_refused(checkpoint, prepared):
    with pytest.raises(SettingsError, match="FACTD_METHOD = 'encore'"):
        fleet(Settings(method="encore"), opened(checkpoint, prepared, "encore"), None)


def test_two_real_workers_give_the_weights_of_one_process(checkpoint, machine, tmp_path):
    alone = weights_with(opened(checkpoint, machine("alone")))
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        command = [sys.executable, "-m", "celery", "-A", "daemon.app:celery", "worker"]
        command += ["-Q", "values", "-P", "solo", "--loglevel", "INFO"]
        workers = [
            subprocess.Popen(
                [*command, "-n", f"values{i}@%h"],
                env=os.environ
                | {
                    "FACTD_STATE_DIR": str(machine(f"worker{i}")),
                    "FACTD_MODEL": str(checkpoint),
                    "FACTD_METHOD": "nse",
                    "FACTD_DTYPE": "float32",
                    "FACTD_FORMS": "prompt",
                    "FACTD_REDIS_URL": valkey.url,
                    "OMP_NUM_THREADS": "1",
                },
                cwd=ROOT,
                stderr=subprocess.DEVNULL,
            )
            for i in range(2)
        ]
        app = Celery(broker=valkey.url, backend=valkey.url)
        try:
            while len(app.control.inspect(timeout=1.0).ping() or {}) < 2:
                assert all(worker.poll() is None for worker in workers)
            sent = []

            def send(named: dict[str, Any]):
                sent.append(app.send_task("factd.values", kwargs=named, queue="values"))
                # Begun before the applier looks: otherwise it would do them all itself, being as quick.
                while sent[-1].state == "PENDING":
                    pass
                return sent[-1]

            editor = opened(checkpoint, machine("applier"))
            editor.install.elsewhere = Fleet(send, 60.0)
            editor.install.find = lambda facts, *_: pytest.fail(f"{facts} found here") if facts else None
            editor.apply([*FACTS, SHARED])
            near(editor.weights(), alone)
            assert len(sent) == len(parts([*FACTS, SHARED]))
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(30)
            app.close()
