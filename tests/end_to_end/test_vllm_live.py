"""A real vLLM server takes publications: answers change, come back bit for bit, and nothing else happens.

The model is a tiny random Llama built here; the whole module starts one server (some 30-60 s).
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file

from daemon.embedded import ManagedProcess, VllmOptions, free_port, vllm_command, vllm_process
from daemon.serving import ServingError, VllmReplica
from editing.delta import materialise, tensor_sha256, write_tensors
from tests.tiny_models import save_checkpoint

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(400)]

TOKEN = "an-admin-token"
PROMPT = "alpha beta gamma delta"
#: vLLM's CPU kernels want heads of 64.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 1024,
         "initializer_range": 0.02}  # fmt: skip
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
        }  # fmt: skip
        (directory / "manifest.json").write_text(json.dumps(manifest))

    def spoil(self, source: Path, version: str, change) -> None:
        """Copies a version under another id and lets `change(directory, manifest)` damage the copy."""
        directory = source.with_name(version)
        shutil.copytree(source, directory)
        manifest = json.loads((directory / "manifest.json").read_text()) | {"version": version}
        change(directory, manifest)
        (directory / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    root = tmp_path_factory.mktemp("live")
    model = save_checkpoint(root / "model", **SIZES)
    store = Store(root / "store", model)
    store.write("v000001", NAMES, seed=1)
    store.write("v000002", NAMES[:1], seed=2)
    port = free_port()
    options = VllmOptions(store=store.root, admin_token=TOKEN, base_hash="base", served_name="tiny")
    argv, env = vllm_command(model, port, options)
    with vllm_process(argv, env, port=port, log=root / "vllm.log") as process:
        process.wait_until_ready(300)
        replica = VllmReplica(f"http://127.0.0.1:{port}", TOKEN)
        yield replica, store, process
        replica.close()


def logprobs(replica: VllmReplica, tokens: int = 8) -> list:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "logprobs": 5}
    answer = httpx.post(f"{replica.name}/v1/completions", json=body, timeout=300)
    answer.raise_for_status()
    found = answer.json()["choices"][0]["logprobs"]
    return [found["tokens"], found["token_logprobs"], found["top_logprobs"]]


def test_publications_change_answers_and_the_base_comes_back_bit_for_bit(live):
    replica, _, _ = live
    assert replica.served().version == "default"
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


def test_staging_does_not_serve(live):
    replica, _, _ = live
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


SPOILERS = [
    _flip, _other_base, _other_tensor_base, _wrong_result, _wrong_shape, _nan, _thin, _no_manifest_json,
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(SPOILERS)), ids=[s.__name__ for s in SPOILERS])
def test_a_damaged_version_is_refused_and_the_server_answers_as_before(live, number):
    replica, store, _ = live
    before, version = logprobs(replica), replica.served().version
    store.spoil(store.root / "versions" / "v000001", f"v0001{number:02d}", SPOILERS[number])
    for attempt in (replica.stage, replica.publish):
        with pytest.raises(ServingError) as refusal:
            attempt(f"v0001{number:02d}", 1)
        assert refusal.value.code == "refused"
        assert not refusal.value.retryable
    assert logprobs(replica) == before
    assert replica.served().version == version


def test_half_of_a_fused_weight_is_refused(live):
    replica, store, _ = live
    before = logprobs(replica)
    store.write("v000200", ("model.layers.0.mlp.gate_proj.weight",), seed=3)
    with pytest.raises(ServingError, match="fused"):
        replica.publish("v000200", 1)
    assert logprobs(replica) == before


def test_missing_version_wrong_token_and_malformed_requests(live):
    replica, store, _ = live
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
    replica, _, _ = live
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


def test_a_stale_fence_is_refused(live):
    replica, _, _ = live
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
        "import sys, time; from pathlib import Path; from daemon.embedded import ManagedProcess\n"
        'child = \'import subprocess, time; p = subprocess.Popen(["sleep", "300"]);\'\n'
        "child += 'print(p.pid, flush=True); time.sleep(300)'\n"
        f"p = ManagedProcess('x', [sys.executable, '-c', child], "
        f"log=Path({str(tmp_path / 'log')!r}), grace=1)\n"
        "p.start(); time.sleep(300)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / "log"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.05)
    grandchild = int(log.read_text())
    assert os.path.exists(f"/proc/{grandchild}")
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{grandchild}") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{grandchild}")
    assert isinstance(ManagedProcess, type)
