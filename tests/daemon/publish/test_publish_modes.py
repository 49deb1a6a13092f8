"""Publishing without the plugin: the same contract as with it, and what each mode is made of."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from daemon.core.errors import SettingsError
from daemon.core.settings import load_settings
from daemon.publish.folder import CheckpointDirectory
from daemon.publish.live_link import LiveLink
from daemon.publish.lora import LoraReplica, adapter
from daemon.publish.lora_server import MAX_RANK, LoraServer
from daemon.publish.publishing import Publisher
from daemon.publish.replicas import open_replicas
from daemon.publish.reports import open_reports
from daemon.publish.serving import Scores, ServingError
from daemon.publish.stub import StubServing
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.processes import ProcessError
from daemon.supervise.up import Up
from daemon.versions.store import Store
from editing.facts import Fact
from editing.model.loaded import outlined_model
from tests.daemon.written import write_version
from tests.tiny_models import save_checkpoint

FACTS = [
    Fact("the old mill", "The owner of {} is", "Ada", "f1"),
    Fact("Zoë", "The friend of {} lives in", "Rome", "f2"),
]
ROOT = Path(__file__).parents[3]
NAME = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    return outlined_model(str(save_checkpoint(root / "model")), root)


@pytest.fixture
def store(base, tmp_path) -> Store:
    """v000001 to v000003, each with more facts or other factors."""
    store = Store(tmp_path / "store")
    for number, facts in enumerate((FACTS[:1], FACTS, FACTS), 1):
        write_version(store, base, f"v{number:06d}", facts, seed=number)
    return store


class StockVllm:
    """What vLLM 0.32 does with adapters (entrypoints/openai/models/serving.py, lora/peft_helper.py)."""

    def __init__(self, max_lora_rank: int = 16, enabled: bool = True) -> None:
        self.max_lora_rank, self.enabled = max_lora_rank, enabled
        self.refuses: dict[str, tuple[int, str]] = {}
        self.adapters: dict[str, str] = {}
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        path = request.url.path
        if path == "/health":
            return httpx.Response(200)
        if path == "/v1/models":
            models = [{"id": "tiny", "root": "/models/tiny"}]
            models += [{"id": name, "root": root, "parent": "tiny"} for name, root in self.adapters.items()]
            return httpx.Response(200, json={"data": models})
        if path == "/v1/completions":
            self.asked.append(body["model"])
            choices = [{"index": i, "text": f"{body['model']}!"} for i in range(len(body["prompt"]))]
            return httpx.Response(200, json={"choices": choices})
        if not self.enabled:
            return httpx.Response(404, json={"detail": "Not Found"})
        if (fault := self.refuses.get(f"{path[4:].partition('_')[0]} {body['lora_name']}")) is not None:
            return self._error(*fault)
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], Path(body["lora_path"]))
        if self.adapters.pop(body["lora_name"], None) is None:
            return self._error(404, f"The lora adapter '{body['lora_name']}' cannot be found.")
        return httpx.Response(200, text="Success: removed")

    def _load(self, name: str, path: Path) -> httpx.Response:
        if name in self.adapters:
            return self._error(400, f"The lora adapter '{name}' has already been loaded.")
        if not path.exists():
            return self._error(404, f"Loading lora {name} failed: No adapter found for {path}")
        rank = json.loads((path / "adapter_config.json").read_text())["r"]
        if rank > self.max_lora_rank:
            what = f"LoRA rank {rank} is greater than max_lora_rank {self.max_lora_rank}."
            return self._error(500, what)
        self.adapters[name] = str(path)
        return httpx.Response(200, text="Success: added")

    def _error(self, status: int, message: str) -> httpx.Response:
        error = {"message": message, "type": "x", "param": None, "code": status}
        return httpx.Response(status, json={"error": error})


#: an engine that is in trouble
TROUBLE = (500, "the engine is in trouble")


def lora(store: Store, directory: Path, server: StockVllm) -> LoraReplica:
    return LoraReplica(
        LoraServer("http://stock", directory, store, transport=httpx.MockTransport(server)), store
    )


def checkpoints(base, store: Store, directory: Path) -> CheckpointDirectory:
    return CheckpointDirectory(
        directory, store, lambda: base, lambda prompts, tokens: [f"{p} {tokens}" for p in prompts]
    )


@pytest.fixture(params=["stub", "checkpoint", "lora"])
def replica(request, base, store, tmp_path):
    if request.param == "stub":
        return StubServing(hashes=store.weight_sha256)
    if request.param == "checkpoint":
        return checkpoints(base, store, tmp_path / "published")
    return lora(store, tmp_path / "published", StockVllm())


def test_every_mode_serves_what_was_published_and_goes_back(replica, store):
    publisher = Publisher([replica], store, fence=3)
    for version in ("v000001", "v000002", "v000002", "v000003", "v000001", "v000000", "v000002"):
        publisher.publish(version)
        publisher.confirm(version)
        assert publisher.synchronise(version) == []
    assert replica.served().fence == 3
    assert len(replica.complete(["one", "two"])) == 2


def test_every_mode_refuses_a_writer_that_was_passed(replica, store):
    replica.publish("v000001", 5)
    for attempt in (replica.stage, replica.publish):
        with pytest.raises(ServingError) as stale:
            attempt("v000002", 4)
        assert stale.value.code == "stale_fence"
    assert replica.served().version == "v000001"


@pytest.mark.parametrize("mode", ["checkpoint", "lora"])
def test_a_version_that_is_missing_or_damaged_changes_nothing(mode, base, store, tmp_path):
    directory = tmp_path / "published"
    replica = (
        checkpoints(base, store, directory) if mode == "checkpoint" else lora(store, directory, StockVllm())
    )
    replica.publish("v000001", 1)
    factors = store.path("v000002") / "factors.safetensors"
    factors.write_bytes(factors.read_bytes()[:-1])
    before = sorted(os.listdir(directory))
    for version in ("v000002", "v000009"):
        with pytest.raises(ServingError) as refused:
            replica.publish(version, 1)
        assert (refused.value.code, refused.value.retryable) == ("refused", False)
    assert replica.served().version == "v000001"
    assert sorted(os.listdir(directory)) == before


def test_the_link_leads_to_the_live_checkpoint_at_every_moment(base, store, tmp_path):
    replica = checkpoints(base, store, tmp_path / "published")
    link = tmp_path / "published" / "current"
    assert replica.served().version == "nothing"
    assert replica.healthy()
    # Nothing is served before the first publication: reconciling puts the base there.
    assert Publisher([replica], store, 1).synchronise("v000000") == [replica.name]
    seen, over = [], threading.Event()

    def read() -> None:
        while not over.is_set():
            seen.append(json.loads((link / "factd.json").read_text())["version"])

    reader = threading.Thread(target=read)
    reader.start()
    for version in ("v000001", "v000002", "v000003"):
        replica.publish(version, 1)
    over.set()
    reader.join()
    assert seen == sorted(seen)
    assert set(seen) <= {"v000000", "v000001", "v000002", "v000003"}
    weights = AutoModelForCausalLM.from_pretrained(link).state_dict()
    assert replica.served().sha256 == store.weight_sha256("v000003")
    assert not torch.equal(weights[NAME], base.base_weights([1])[NAME])
    assert sorted(os.listdir(tmp_path / "published")) == ["current", "fence", "v000002", "v000003"]


def test_a_version_that_was_written_anew_under_its_name_is_exported_anew(base, store, tmp_path):
    replica = checkpoints(base, store, tmp_path / "published")
    replica.stage("v000001", 1)
    write_version(store, base, "v000001", FACTS, seed=9)
    replica.publish("v000001", 1)
    assert replica.served().sha256 == store.weight_sha256("v000001")


@pytest.mark.parametrize("mode", ["checkpoint", "lora"])
def test_what_a_killed_writer_left_is_cleared_away(mode, base, store, tmp_path):
    directory = tmp_path / "published"
    (directory / ".v000001.exporting-1").mkdir(parents=True)
    replica = (
        checkpoints(base, store, directory) if mode == "checkpoint" else lora(store, directory, StockVllm())
    )
    replica.publish("v000002", 1)
    assert not list(directory.glob(".*"))


def test_replicas_that_share_a_directory_are_staged_at_once(store, tmp_path, monkeypatch):
    both, load = threading.Barrier(2), store.load_factors

    def together(version):
        with suppress(threading.BrokenBarrierError):  # the other one waits for the directory, as it must
            both.wait(0.3)
        return load(version)

    monkeypatch.setattr(store, "load_factors", together)
    replicas = [lora(store, tmp_path / "published", StockVllm()) for _ in range(2)]
    for number, replica in enumerate(replicas):
        replica.name = f"http://stock{number}"
    Publisher(replicas, store, fence=1).publish("v000001")
    assert [replica.served().version for replica in replicas] == ["v000001"] * 2


@pytest.mark.parametrize("mode", ["checkpoint", "lora"])
@pytest.mark.parametrize(("fault", "code"), [("damaged", "refused"), ("unwritable", "unreachable")])
def test_a_fence_that_cannot_be_used_is_told_as_the_replicas_fault(mode, fault, code, base, store, tmp_path):
    directory = tmp_path / "published"
    if fault == "damaged":
        directory.mkdir()
        (directory / "fence").write_text("seven")
    else:
        directory.write_text("a file")
    replica = (
        checkpoints(base, store, directory) if mode == "checkpoint" else lora(store, directory, StockVllm())
    )
    with pytest.raises(ServingError) as refused:
        replica.stage("v000001", 1)
    assert refused.value.code == code


def test_an_adapter_adds_the_very_change(store):
    factors = store.load_factors("v000002")
    config, tensors = adapter(factors)
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    for name, (a, b) in factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        one, two = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
        change = config["lora_alpha"] / config["r"] * two.double() @ one.double()
        assert torch.equal(change, a.double() @ b.double().T)
        torch.testing.assert_close(two @ one, change.float())


def test_factors_of_unequal_rank_are_filled_up_with_zeros():
    thin, none = (torch.ones(4, 3), torch.ones(6, 3)), (torch.ones(4, 0), torch.ones(6, 0))
    config, tensors = adapter({NAME: thin, NAME.replace("1", "2"): none})
    assert config["r"] == 3
    empty = "base_model.model.model.layers.2.mlp.down_proj"
    assert tensors[f"{empty}.lora_A.weight"].shape == (3, 6)
    assert not tensors[f"{empty}.lora_B.weight"].any()
    assert adapter({NAME: none})[0]["r"] == 1  # all facts retracted: vLLM takes no rank of 0


def test_what_vllm_takes_no_adapter_for_is_refused():
    with pytest.raises(ServingError, match=r"c_proj.*FACTD_PUBLISH"):
        adapter({"transformer.h.1.mlp.c_proj.weight": (torch.ones(4, 1), torch.ones(6, 1))})
    with pytest.raises(ServingError, match="compact"):
        adapter({NAME: (torch.ones(4, MAX_RANK + 1), torch.ones(6, MAX_RANK + 1))})


def test_vllm_reads_the_adapter_as_it_is_meant(store, tmp_path):
    pytest.importorskip("vllm")
    from vllm.config.lora import LoRAConfig
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.peft_helper import PEFTHelper

    replica = lora(store, tmp_path, StockVllm())
    replica.stage("v000002", 1)
    path = str(next(tmp_path.glob("v000002-*")))
    helper = PEFTHelper.from_local_dir(path, 512)
    helper.validate_legal(LoRAConfig(max_lora_rank=8))
    with pytest.raises(ValueError, match="max_lora_rank"):
        helper.validate_legal(LoRAConfig(max_lora_rank=1))
    found = LoRAModel.from_local_checkpoint(path, {"down_proj"}, helper, lora_model_id=1, device="cpu")
    factors = store.load_factors("v000002")
    assert set(found.loras) == {name.removesuffix(".weight") for name in factors}
    for name, (a, b) in factors.items():
        weights = found.loras[name.removesuffix(".weight")]
        assert (weights.rank, weights.scaling) == (2, 1.0)
        torch.testing.assert_close(weights.lora_b @ weights.lora_a * weights.scaling, a @ b.T)


def test_clients_find_the_newest_adapter_last_and_its_predecessor_still_there(store, tmp_path):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    listed = []
    for version in ("v000001", "v000002", "v000003", "v000002"):
        replica.publish(version, 1)
        listed.append([name.removeprefix("factd-v00000") for name in server.adapters])
    assert listed == [["1"], ["1", "2"], ["2", "3"], ["3", "2"]]
    assert replica.complete(["x"]) == ["factd-v000002!"]
    replica.publish("v000000", 1)
    assert server.adapters == {}
    assert replica.complete(["x"]) == ["tiny!"]
    assert replica.served().version == "v000000"


def test_a_restarted_server_gets_its_adapter_again(store, tmp_path):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    replica.publish("v000002", 1)
    server.adapters.clear()
    assert replica.served().version == "v000000"
    assert Publisher([replica], store, 1).synchronise("v000002") == [replica.name]


def test_the_adapter_of_another_store_is_not_taken_for_ours(base, store, tmp_path):
    server = StockVllm()
    other = Store(tmp_path / "other")
    write_version(other, base, "v000001", FACTS, seed=9)
    lora(other, tmp_path / "theirs", server).publish("v000001", 1)
    replica = lora(store, tmp_path / "ours", server)
    assert replica.served().version == "foreign"
    replica.publish("v000001", 1)
    assert replica.served().sha256 == store.weight_sha256("v000001")


@pytest.mark.parametrize("ours", [True, False], ids=["written anew", "another factd's"])
def test_an_adapter_that_has_the_name_makes_way(base, store, tmp_path, caplog, ours):
    server = StockVllm()
    elsewhere = tmp_path / "published" if ours else tmp_path / "theirs"
    server.adapters = {"mine": "/adapters/mine", "factd-v000002": str(elsewhere / "v000002-000000000000")}
    replica = lora(store, tmp_path / "published", server)
    assert replica.served().version == "foreign"
    replica.publish("v000002", 1)
    assert replica.served().sha256 == store.weight_sha256("v000002")
    assert server.adapters["mine"] == "/adapters/mine"
    said = f"held factd-v000002 from {elsewhere}"
    assert (said in caplog.text) == (not ours)


def test_what_made_way_for_an_adapter_that_cannot_be_loaded_is_served_again(store, tmp_path):
    server, replicas = StockVllm(), {}
    for folder in ("theirs", "ours"):
        replicas[folder] = lora(store, tmp_path / folder, server)
    replicas["theirs"].publish("v000001", 1)
    replicas["theirs"].publish("v000002", 1)
    before, load = dict(server.adapters), server._load
    # Ours alone is refused.
    server._load = lambda name, path: load(name, path) if "theirs" in str(path) else server._error(*TROUBLE)
    for version, left in (("v000002", before), ("v000001", {"factd-v000002": before["factd-v000002"]})):
        with pytest.raises(ServingError, match="in trouble"):
            replicas["ours"].publish(version, 1)
        assert server.adapters == left
        assert replicas["theirs"].served().version == "v000002"


def test_an_old_adapter_that_stays_loaded_fails_no_publication(store, tmp_path, caplog):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    replica.publish("v000001", 1)
    replica.publish("v000002", 1)
    server.refuses = {"unload factd-v000001": TROUBLE}
    replica.publish("v000003", 1)
    assert replica.served().version == "v000003"
    assert "an old adapter stays loaded" in caplog.text
    assert list(server.adapters) == ["factd-v000001", "factd-v000002", "factd-v000003"]
    server.refuses = {}
    replica.publish("v000002", 1)
    assert list(server.adapters) == ["factd-v000003", "factd-v000002"]


def test_an_adapter_that_is_gone_counts_as_unloaded(store, tmp_path, caplog):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    replica.publish("v000001", 1)
    server.refuses = {"unload factd-v000001": (404, "The lora adapter 'factd-v000001' cannot be found.")}
    replica.server.unload(["factd-v000001"])
    server.refuses = {}
    replica.publish("v000000", 1)
    assert replica.served().version == "v000000"
    disabled = lora(store, tmp_path, StockVllm(enabled=False))
    with pytest.raises(ServingError, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
        disabled.server.unload(["factd-v000001"])


@pytest.mark.parametrize("stays", ["factd-v000001", "factd-v000002"])
def test_a_server_that_does_not_go_back_to_its_base_goes_on_with_the_version_it_has(store, tmp_path, stays):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    replica.publish("v000001", 1)
    replica.publish("v000002", 1)
    server.refuses = {f"unload {stays}": TROUBLE}
    publisher = Publisher([replica], store, fence=1)
    with pytest.raises(ServingError, match="in trouble"):
        publisher.publish("v000000")
    assert replica.served().version == "v000002"
    assert replica.complete(["x"]) == ["factd-v000002!"]
    server.refuses = {}
    publisher.publish("v000000")
    publisher.confirm("v000000")


def test_an_adapter_that_must_make_way_and_stays_fails_the_publication(store, tmp_path):
    server = StockVllm()
    replica = lora(store, tmp_path, server)
    for version in ("v000001", "v000002"):
        replica.publish(version, 1)
    server.refuses = {"unload factd-v000001": TROUBLE}
    with pytest.raises(ServingError, match="in trouble"):
        replica.publish("v000001", 1)
    assert replica.served().version == "v000002"


@pytest.mark.parametrize(
    ("server", "version", "told"),
    [
        (StockVllm(max_lora_rank=1), "v000002", "--max-lora-rank.*factd compact"),
        (StockVllm(enabled=False), "v000001", "VLLM_ALLOW_RUNTIME_LORA_UPDATING"),
    ],
)
def test_a_refusal_says_what_to_mend(store, tmp_path, server, version, told):
    replica = lora(store, tmp_path, server)
    with pytest.raises(ServingError, match=told) as refused:
        replica.publish(version, 1)
    assert (refused.value.code, refused.value.retryable) == ("refused", False)
    assert replica.served().version == "v000000"


def test_a_server_that_sees_another_disk_says_so(store, tmp_path):
    def elsewhere(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": []})
        return StockVllm()._load("factd-v000001", Path("/nowhere"))

    server = LoraServer("http://stock", tmp_path, store, transport=httpx.MockTransport(elsewhere))
    replica = LoraReplica(server, store)
    with pytest.raises(ServingError, match="under the same path"):
        replica.publish("v000001", 1)


def test_only_the_newest_adapters_stay_on_disk(base, store, tmp_path):
    replica = lora(store, tmp_path / "published", StockVllm())
    for number in range(4, 14):
        write_version(store, base, f"v{number:06d}", FACTS, seed=number)
        replica.publish(f"v{number:06d}", 1)
    names = sorted(path.name[:7] for path in (tmp_path / "published").glob("v*"))
    assert names == [f"v{number:06d}" for number in range(6, 14)]
    assert load_file(next((tmp_path / "published").glob("v000013-*")) / "adapter_model.safetensors")


def test_what_the_api_asks_of_replicas_loads_no_torch(tmp_path):
    code = """
import sys
from daemon.core.settings import load_settings
from daemon.http import api
from daemon.publish.reports import open_reports
for mode in ("plugin", "lora", "checkpoint"):
    for replica in open_reports(load_settings(publish=mode, state_dir=sys.argv[1], replicas=("http://a",))):
        replica.name, replica.healthy()
print([name for name in ("torch", "transformers", "safetensors") if name in sys.modules])
"""
    told = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(argv, env=told, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_setting_chooses_the_mode(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_REPLICAS", "http://a:1,http://b:2")
    told = {"state_dir": tmp_path, "admin_token": "admin"}
    kinds, reports = {}, {}
    for mode in ("plugin", "lora", "checkpoint"):
        replicas = open_replicas(load_settings(publish=mode, **told))
        kinds[mode] = [type(replica) for replica in replicas]
        assert [isinstance(replica, Scores) for replica in replicas] == [mode != "checkpoint"] * len(replicas)
        seen = open_reports(load_settings(publish=mode, **told))
        reports[mode] = [type(replica) for replica in seen]
        assert [replica.name for replica in seen] == [replica.name for replica in replicas]
        assert not any(tmp_path.iterdir())
    assert reports == {
        "plugin": [VllmReplica, VllmReplica],
        "lora": [LoraServer, LoraServer],
        "checkpoint": [LiveLink],
    }
    assert kinds == {
        "plugin": [VllmReplica, VllmReplica],
        "lora": [LoraReplica, LoraReplica],
        "checkpoint": [CheckpointDirectory],
    }
    assert load_settings(publish="lora", **told).published == tmp_path / "published"
    with pytest.raises(SettingsError, match="FACTD_PUBLISH"):
        load_settings(publish="ftp")
    with pytest.raises(ProcessError, match="FACTD_PUBLISH = lora"):
        Up(load_settings(publish="lora", **told)).start()
