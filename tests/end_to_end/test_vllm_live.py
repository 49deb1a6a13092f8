"""A real vLLM server takes publications: answers change, come back bit for bit, and nothing else happens.

A second plugin, of this server only, breaks a load in its middle when a file says so.

The model is a tiny random Llama built here; the whole module starts one server.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file

from daemon.core.errors import ProofError
from daemon.publish.proof import Proof
from daemon.publish.proving.passages import Passage
from daemon.publish.serving import ServingError
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.processes import ManagedProcess
from daemon.supervise.vllm import VllmOptions
from editing.memory.delta import materialise, tensor_sha256, write_tensors
from tests.attacks.hostile import ATTACKS, write_manifest
from tests.end_to_end.carried import carried, models, nearest, recomputed, spoken
from tests.tiny_models import save_checkpoint
from tests.waiting import until

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(1200)]

TOKEN = "an-admin-token"
PROMPT = "alpha beta gamma delta"
#: vLLM's CPU kernels want heads of 64.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 4096,
         "initializer_range": 0.02}  # fmt: skip
#: Makes the worker load through vLLM's own loader, and that fail half-way, once, when the file is there.
FAULTY = """
import os
from pathlib import Path


def register():
    from daemon.plugin import worker as vllm_plugin

    order, publisher = Path(os.environ["FACTD_TEST_FAULT"]), vllm_plugin._Rank
    pack, load = vllm_plugin._pack, publisher._load
    if pack.__module__ == __name__:
        return

    def pack_unless_ordered(module, weight):
        return None if order.exists() else pack(module, weight)

    def broken_load(self, tensors):
        if not order.exists():
            return load(self, tensors)
        order.unlink()
        honest = self.model.load_weights

        def half(items):
            honest([next(iter(items))])
            raise RuntimeError("broken in mid-load")

        self.model.load_weights = half
        try:
            load(self, tensors)
        finally:
            del self.model.load_weights

    vllm_plugin._pack, publisher._load = pack_unless_ordered, broken_load
"""
NAMES = ("model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight")


class Store:
    """Writes versions as the daemon does."""

    def __init__(self, root: Path, model: Path) -> None:
        self.root, self.base = root, load_file(model / "model.safetensors")

    def write(self, version: str, names: tuple[str, ...], seed: int, scale: float = 0.5) -> Path:
        directory = self.root / "versions" / version
        directory.mkdir(parents=True)
        generator = torch.Generator().manual_seed(seed)
        factors, entries = {}, {}
        for name in names:
            base = self.base[name]
            a = torch.randn(base.shape[0], 4, generator=generator) * scale
            b = torch.randn(base.shape[1], 4, generator=generator) * scale
            factors |= {f"{name}/A": a, f"{name}/B": b}
            entries[name] = {
                "shape": list(base.shape),
                "dtype": "float32",
                "base_sha256": tensor_sha256(base.float()),
                "sha256": tensor_sha256(materialise(base, a, b)),
            }
        self.seal(directory, entries, factors)
        return directory

    def seal(self, directory: Path, entries: dict, factors: dict, base_hash: str = "base") -> None:
        digest = write_tensors(directory / "factors.safetensors", factors, {})
        manifest = {
            "schema": 1, "version": directory.name, "parent": None, "base_hash": base_hash,
            "tensors": entries, "files": {"factors.safetensors": digest}, "fence": 1,
            "snapshot": False, "facts_added": [], "facts_removed": [],
        }  # fmt: skip
        (directory / "manifest.json").write_text(json.dumps(manifest))

    def spoil(self, source: Path, version: str, change) -> None:
        """Copies a version under another id and lets `change(directory, manifest)` damage the copy."""
        directory = source.with_name(version)
        shutil.copytree(source, directory)
        manifest = json.loads((directory / "manifest.json").read_text()) | {"version": version}
        write_manifest(directory, manifest, change)


@pytest.fixture(scope="module")
def live(servers, tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    model = save_checkpoint(root / "model", **SIZES)
    store = Store(root / "store", model)
    store.write("v000001", NAMES, seed=1)
    store.write("v000002", NAMES[:1], seed=2)
    store.write("v000003", NAMES, seed=3, scale=0.2)
    options = VllmOptions(
        store.root, TOKEN, served_name="tiny", base_hash="base", max_model_len=4096, threads=1
    )
    servers.plugin("faulty", FAULTY)
    faulty = {"VLLM_PLUGINS": "factd,faulty", "FACTD_TEST_FAULT": str(root / "fault")}
    with servers.serving(model, options, root / "vllm.log", faulty) as url:
        replica = VllmReplica(url, TOKEN)
        yield replica, store
        replica.close()


def logprobs(replica: VllmReplica, tokens: int = 8) -> list:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "logprobs": 5}
    answer = httpx.post(f"{replica.name}/v1/completions", json=body, timeout=300)
    answer.raise_for_status()
    found = answer.json()["choices"][0]["logprobs"]
    return [found["tokens"], found["token_logprobs"], found["top_logprobs"]]


def version_of(answer: httpx.Response) -> str:
    return answer.headers["x-factd-version"]


def test_not_ready_before_the_first_version(live):
    replica, _ = live
    assert replica.healthy()
    answer = httpx.get(f"{replica.name}/plugins/factd/ready")
    assert (answer.status_code, version_of(answer)) == (503, "default")
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    with ThreadPoolExecutor(1) as client:
        held = client.submit(httpx.post, f"{replica.name}/v1/completions", json=body, timeout=300)
        with pytest.raises(TimeoutError):
            held.result(2.0)
        assert httpx.get(f"{replica.name}/v1/models").status_code == 200
        replica.publish("v000000", 1)
        assert version_of(held.result()) == "v000000"
    assert httpx.get(f"{replica.name}/plugins/factd/ready").status_code == 200


def test_publications_change_answers_and_the_base_comes_back_bit_for_bit(live):
    replica, _ = live
    base = logprobs(replica)
    replica.publish("v000001", 1)
    assert replica.served().version == "v000001"
    edited = logprobs(replica)
    assert edited != base
    assert set(replica.served().sha256) == set(NAMES)
    replica.publish("v000002", 1)
    assert logprobs(replica) not in (base, edited)
    assert set(replica.served().sha256) == set(NAMES[:1])
    replica.publish("v000001", 1)
    assert logprobs(replica) == edited
    replica.publish("v000000", 1)
    assert logprobs(replica) == base
    assert replica.served().version == "v000000"


def test_every_answer_names_its_version(live):
    replica, _ = live
    replica.publish("v000001", 1)
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}
    asked = [("completions", body), ("completions", body | {"stream": True}), ("chat/completions", chat)]
    for path, content in asked:
        answer = httpx.post(f"{replica.name}/v1/{path}", json=content, timeout=300)
        assert version_of(answer) == "v000001"
    # A long answer is under way when the version changes: it names both.
    long = body | {"max_tokens": 60, "ignore_eos": True}
    told: list[str] = []
    client = threading.Thread(
        target=lambda: told.append(
            version_of(httpx.post(f"{replica.name}/v1/completions", json=long, timeout=300))
        )
    )
    client.start()
    time.sleep(0.3)
    replica.publish("v000000", 1)
    client.join()
    assert told in (["v000001, v000000"], ["v000001"])  # the latter when the answer was quicker
    assert version_of(httpx.get(f"{replica.name}/v1/models")) == "v000000"


def test_log_probabilities_are_those_of_the_staged_model(live):
    """The proof of a publication, and that it notices weights which are not those staged."""
    from transformers import AutoModelForCausalLM

    replica, store = live
    model = AutoModelForCausalLM.from_pretrained(store.root.parent / "model", dtype=torch.float32).eval()
    passages = [(i, 255 - i, i + 7) for i in range(2, 98, 4)]

    def score(pairs) -> list[Passage]:
        found = []
        for ids in passages:
            with torch.no_grad():
                told = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            picked = told[:-1].gather(1, torch.tensor(ids[1:])[:, None])
            found.append(Passage(ids, 1, tuple(picked[:, 0].tolist())))
        return found

    proof = Proof(score, [("a", "b")])
    replica.publish("v000000", 1)
    base = proof.challenge()
    proof.measure(replica, "v000000", base)
    print(f"\nnoise {proof.noise[replica.name]}, tolerance {proof.tolerance(replica.name)}")
    replica.publish("v000001", 1)
    factors = load_file(store.root / "versions" / "v000001" / "factors.safetensors")
    for name in NAMES:
        a, b = factors[f"{name}/A"], factors[f"{name}/B"]
        model.get_parameter(name).data.copy_(materialise(store.base[name], a, b))
    proof.check(replica, "v000001", proof.challenge())
    with pytest.raises(ProofError, match="does not compute what was staged"):
        proof.check(replica, "v000001", base)
    replica.publish("v000000", 1)


def test_staging_does_not_serve(live):
    replica, _ = live
    before, version = logprobs(replica), replica.served().version
    replica.stage("v000001", 1)
    assert replica.served().version == version
    assert logprobs(replica) == before


def _flip(directory: Path, manifest: dict) -> None:
    path = directory / "factors.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _other_base(directory: Path, manifest: dict) -> None:
    manifest["base_hash"] = "another"


def _other_tensor_base(directory: Path, manifest: dict) -> None:
    manifest["tensors"][NAMES[0]]["base_sha256"] = "0" * 64


def _wrong_result(directory: Path, manifest: dict) -> None:
    manifest["tensors"][NAMES[0]]["sha256"] = "0" * 64


def _wrong_shape(directory: Path, manifest: dict) -> None:
    manifest["tensors"][NAMES[0]]["shape"] = [1, 2]


def _refactor(manifest: dict, directory: Path, change) -> None:
    factors = load_file(directory / "factors.safetensors")
    change(factors)
    digest = write_tensors(directory / "factors.safetensors", factors, {})
    manifest["files"]["factors.safetensors"] = digest


def _nan(directory: Path, manifest: dict) -> None:
    _refactor(manifest, directory, lambda f: f[f"{NAMES[0]}/A"].fill_(float("nan")))


def _thin(directory: Path, manifest: dict) -> None:
    def cut(factors):
        factors[f"{NAMES[0]}/A"] = factors[f"{NAMES[0]}/A"][:5].clone()

    _refactor(manifest, directory, cut)


def _no_manifest_json(directory: Path, manifest: dict) -> None:
    manifest.clear()


def _no_such_parent(directory: Path, manifest: dict) -> None:
    manifest["parent"] = "v000099"


def _younger_parent(directory: Path, manifest: dict) -> None:
    manifest["parent"] = "v000999"


def _parent_of_a_newer_writer(directory: Path, manifest: dict) -> None:
    manifest |= {"parent": "v000002", "fence": 0}


SPOILERS = [
    _flip, _other_base, _other_tensor_base, _wrong_result, _wrong_shape, _nan, _thin, _no_manifest_json,
    _no_such_parent, _younger_parent, _parent_of_a_newer_writer, *ATTACKS,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SPOILERS)), ids=[s.__name__ for s in SPOILERS])
def test_a_damaged_version_is_refused_and_the_server_answers_as_before(live, number):
    replica, store = live
    before, version = logprobs(replica), replica.served().version
    store.spoil(store.root / "versions" / "v000001", f"v0001{number:02d}", SPOILERS[number])
    for attempt in (replica.stage, replica.publish):
        with pytest.raises(ServingError) as refusal:
            attempt(f"v0001{number:02d}", 1)
        assert refusal.value.code == "refused"
        assert not refusal.value.retryable
    assert logprobs(replica) == before
    assert replica.served().version == version


@pytest.mark.parametrize(("number", "part"), [(200, "mlp.gate_proj"), (201, "self_attn.q_proj")])
def test_half_of_a_fused_weight_is_refused(live, number, part):
    replica, store = live
    before = logprobs(replica)
    store.write(f"v000{number}", (f"model.layers.0.{part}.weight",), seed=3)
    with pytest.raises(ServingError, match="fused"):
        replica.publish(f"v000{number}", 1)
    assert logprobs(replica) == before


def test_an_exception_in_mid_load_brings_the_old_version_back(live):
    replica, store = live
    replica.publish("v000002", 1)
    before = logprobs(replica)
    fault = store.root.parent / "fault"
    fault.touch()
    with pytest.raises(ServingError, match=r"v000002 was restored.*broken in mid-load") as failure:
        replica.publish("v000001", 1)
    assert not fault.exists()
    assert (failure.value.code, failure.value.retryable) == ("swap_failed", True)
    assert replica.served().version == "v000002"
    assert logprobs(replica) == before
    assert replica.healthy()
    replica.publish("v000001", 1)
    assert logprobs(replica) != before
    replica.publish("v000002", 1)
    assert logprobs(replica) == before
    replica.publish("v000000", 1)


def test_missing_version_wrong_token_and_malformed_requests(live):
    replica, store = live
    before = logprobs(replica)
    with pytest.raises(ServingError) as missing:
        replica.publish("v000999", 1)
    assert missing.value.code == "missing"
    assert missing.value.status == 404
    stranger = VllmReplica(replica.name, "wrong")
    for call in (
        lambda: stranger.publish("v000001", 1),
        lambda: stranger.stage("v000001", 1),
        stranger.served,
    ):
        with pytest.raises(ServingError) as refused:
            call()
        assert refused.value.code == "unauthorised"
    stranger.close()
    admin = {"Authorization": f"Bearer {TOKEN}"}
    bodies = [
        {}, {"version": "../../x", "fence": 1}, {"version": "v000001"}, {"version": "v000001", "fence": -1},
        {"version": "v000001", "fence": "1"}, {"version": "v000001", "fence": 1, "path": "/etc"}, [],
    ]  # fmt: skip
    for body in bodies:
        answer = httpx.post(f"{replica.name}/plugins/factd/publish", json=body, headers=admin)
        assert answer.status_code in (400, 422), body
    (store.root / "versions" / "v000300").symlink_to(store.root / "versions" / "v000001")
    with pytest.raises(ServingError, match="symbolic link"):
        replica.publish("v000300", 1)
    for path in ("/collective_rpc", "/pause", "/update_weights"):
        assert httpx.post(f"{replica.name}{path}", json={}).status_code == 404
    assert logprobs(replica) == before


def test_clients_see_no_failed_request_during_publications(live):
    replica, _ = live
    stop, statuses, failures = threading.Event(), [], []

    def ask() -> None:
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"{replica.name}/v1/completions", json=body)
                    statuses.append(answer.status_code)
                    if answer.json()["usage"]["completion_tokens"] != 24:
                        failures.append(answer.text)
                except Exception as error:
                    failures.append(repr(error))

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    pauses, swaps = [], []
    for turn in range(20):
        result = replica.publish(("v000001", "v000002", "v000000")[turn % 3], 1)
        pauses.append(result.pause_seconds)
        swaps.append(result.swap_seconds)
        time.sleep(0.1)
    stop.set()
    for client in clients:
        client.join()
    print(f"\n{len(statuses)} requests; pause p50 {sorted(pauses)[10]:.4f} max {max(pauses):.4f} s; "
          f"swap p50 {sorted(swaps)[10]:.4f} max {max(swaps):.4f} s")  # fmt: skip
    assert not failures
    assert set(statuses) == {200}


def stream(replica: VllmReplica, begun: threading.Event) -> tuple[str, str | None]:
    """A long answer's text and why it ended; `begun` is set at its first token."""
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 600, "temperature": 0, "ignore_eos": True}
    text, ended = "", None
    with httpx.stream(
        "POST", f"{replica.name}/v1/completions", json=body | {"stream": True}, timeout=300
    ) as s:
        for line in s.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                text, ended = text + choice["text"], choice["finish_reason"] or ended
                begun.set()
    return text, ended


#: policy → seconds of its deadline, and how the answer ends; 0 s: nothing ends in time
POLICIES = {
    "keep": (0, "length"),
    "wait": (120, "length"),
    "wait, too long": (0, "length"),
    "abort": (0, "abort"),
}


@pytest.fixture(scope="module")
def undisturbed(live) -> str:
    """The long answer of the base."""
    replica, _ = live
    replica.publish("v000000", 1)
    text, ended = stream(replica, threading.Event())
    assert ended == "length"
    return text


@pytest.mark.parametrize("policy", POLICIES)
def test_an_answer_that_runs_at_a_flip_goes_the_way_of_the_policy(live, undisturbed, policy):
    replica, _ = live
    replica.publish("v000000", 1)
    seconds, end = POLICIES[policy]
    told = VllmReplica(replica.name, TOKEN, in_flight=policy.split(",")[0], in_flight_seconds=seconds)
    begun = threading.Event()
    # Staged before, so that on a busy machine too the flip comes while the answer runs.
    told.stage("v000001", 1)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(stream, replica, begun)
        assert begun.wait(120)
        result = told.publish("v000001", 1)
        text, ended = running.result()
    told.close()
    print(f"\n{policy}: drained {result.drain_seconds:.2f} s, paused {result.pause_seconds:.3f} s")
    assert ended == end
    # Only who was waited for ends on the weights that it began with.
    assert (text == undisturbed) == (policy == "wait")
    assert undisturbed.startswith(text) == (policy in ("wait", "abort"))
    assert replica.served().version == "v000001"
    assert len(logprobs(replica)[0]) == 8  # and it still answers
    replica.publish("v000000", 1)


#: shared by many requests, some blocks long
PREFIX = "The road behind the old mill leads past the ford. " * 17


def answered(replica: VllmReplica, **more) -> tuple[list, int]:
    """What the model says after PREFIX, bit for bit, and how many tokens came from the prefix cache."""
    before = reused(replica)
    body = {"model": "tiny", "prompt": PREFIX, "max_tokens": 4, "temperature": 0, "logprobs": 5, **more}
    answer = httpx.post(f"{replica.name}/v1/completions", json=body, timeout=300).raise_for_status()
    found = answer.json()["choices"][0]["logprobs"]
    return [found["tokens"], found["token_logprobs"], found["top_logprobs"]], reused(replica) - before


def reused(replica: VllmReplica) -> int:
    lines = httpx.get(f"{replica.name}/metrics").text.splitlines()
    return sum(float(x.split()[-1]) for x in lines if x.startswith("vllm:prefix_cache_hits_total{"))


def test_no_prefix_of_other_weights_is_met_after_a_flip(live):
    replica, _ = live
    clears = VllmReplica(replica.name, TOKEN, in_flight="keep")
    carries = VllmReplica(replica.name, TOKEN, in_flight="carry")
    fresh = {}
    for version in ("v000000", "v000001"):
        clears.publish(version, 1)
        fresh[version], hits = answered(replica)
        assert hits == 0
    # Back and forth, so that each version comes again while blocks of its earlier time are in the cache. A
    # long answer that began with the prefix runs on over the flips and adds blocks of mixed weights.
    long = {"model": "tiny", "prompt": PREFIX, "max_tokens": 2700, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{replica.name}/v1/completions", json=long, timeout=300) as running:
        assert next(running.iter_lines())
        for version in ("v000000", "v000001", "v000000", "v000001"):
            carries.publish(version, 1)
            for own in ({}, {"cache_salt": "a tenant"}):
                cold, hits = answered(replica, **own)
                assert (cold, hits) == (fresh[version], 0)
                warm, hits = answered(replica, **own)
                assert (warm, hits > len(PREFIX) / 2) == (fresh[version], True)
    replica.publish("v000000", 1)
    clears.close()
    carries.close()


def test_an_answer_that_is_carried_over_a_flip_reads_its_old_cache_with_the_new_weights(live):
    replica, store = live
    carries = VllmReplica(replica.name, TOKEN, in_flight="carry")
    carries.publish("v000000", 1)
    carries.stage("v000003", 1)
    with ThreadPoolExecutor(1) as pool:
        begun = threading.Event()
        running = pool.submit(spoken, replica.name, PROMPT, begun)
        assert begun.wait(120)
        carries.publish("v000003", 1)
        ids, log_probs, prompt = running.result()
    old, new = models(store, "v000003")
    kept = nearest(lambda at: carried(old, new, ids, at), log_probs, prompt)
    anew = nearest(lambda at: recomputed(old, new, ids, at), log_probs, prompt)
    print(f"\ncarried: {kept}; computed anew: {anew}")
    assert kept.nats < 0.01
    assert anew.nats > 5 * kept.nats
    replica.publish("v000000", 1)
    carries.close()


def test_a_stale_fence_is_refused(live):
    replica, _ = live
    replica.publish("v000001", 5)
    before = logprobs(replica)
    for attempt in (replica.stage, replica.publish):
        with pytest.raises(ServingError) as stale:
            attempt("v000002", 4)
        assert stale.value.code == "stale_fence"
        assert stale.value.status == 409
    assert logprobs(replica) == before
    assert replica.served().fence == 5
    replica.publish("v000000", 6)


def test_a_killed_parent_leaves_no_process_behind(tmp_path):
    script = (
        "import sys, time; from pathlib import Path; from daemon.supervise.processes import ManagedProcess\n"
        'child = \'import subprocess, time; p = subprocess.Popen(["sleep", "300"]);\'\n'
        "child += 'print(p.pid, flush=True); time.sleep(300)'\n"
        f"p = ManagedProcess('x', [sys.executable, '-c', child], "
        f"log=Path({str(tmp_path / 'log')!r}), grace=1)\n"
        "p.start(); time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / "log"
    until(lambda: log.exists() and log.read_text().strip(), 20)
    grandchild = int(log.read_text())
    assert os.path.exists(f"/proc/{grandchild}")
    parent.kill()
    parent.wait()
    until(lambda: not os.path.exists(f"/proc/{grandchild}"), 10)
    assert isinstance(ManagedProcess, type)
