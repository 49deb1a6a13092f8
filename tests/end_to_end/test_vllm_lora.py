"""A stock vLLM that is given versions as adapters: names that are taken, and unloads that fail."""

import httpx
import pytest

from daemon.publish.lora import LoraReplica
from daemon.publish.lora_server import LoraServer
from daemon.publish.publishing import Publisher
from daemon.publish.serving import ServingError
from daemon.supervise.vllm import EXTENSION, VllmOptions
from daemon.versions.store import Store
from editing.facts import Fact
from editing.model.loaded import outlined_model
from tests.daemon.written import write_version
from tests.tiny_models import save_checkpoint

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]

#: vLLM's processor kernels want heads of 64.
SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 512}  # fmt: skip
FACT = Fact("the old mill", "The owner of {} is", "Ada", "f1")
PASSAGE = [tuple(range(40, 60))]
ARGUMENTS = ("--enable-lora", "--max-loras", "2", "--max-lora-rank", "16")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    return outlined_model(str(save_checkpoint(root / "model", **SIZES)), root)


@pytest.fixture(scope="module")
def url(servers, base, tmp_path_factory):
    root = tmp_path_factory.mktemp("server")
    options = VllmOptions(store=root, admin_token="none", max_model_len=512, extra=ARGUMENTS)
    stock = {"VLLM_PLUGINS": "", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
    with servers.serving(base.path, options, root / "vllm.log", stock, left_out=EXTENSION) as url:
        yield url


def stored(base, folder, seed: int) -> Store:
    store = Store(folder)
    for number in (1, 2, 3):
        write_version(store, base, f"v{number:06d}", [FACT], seed=seed + number)
    return store


@pytest.fixture
def lora(url, base, tmp_path):
    """A function: a replica with a store and a directory of its own; all are closed in the end."""
    opened: list[LoraReplica] = []

    def made(name: str, seed: int) -> LoraReplica:
        store = stored(base, tmp_path / f"{name}-store", seed)
        opened.append(LoraReplica(LoraServer(url, tmp_path / name, store), store))
        return opened[-1]

    yield made
    for replica in opened:
        replica.close()


def test_names_that_are_taken_make_way_and_the_base_comes_back_bit_for_bit(lora, caplog):
    theirs = lora("theirs", 10)
    ours = lora("ours", 20)
    unedited = ours.log_probs(PASSAGE)
    theirs.publish("v000002", 1)
    foreign = ours.log_probs(PASSAGE)
    assert ours.served().version == "foreign"
    publisher = Publisher([ours], ours.store, fence=1)
    assert publisher.synchronise("v000002") == [ours.name]
    assert "held factd-v000002" in caplog.text
    edited = ours.log_probs(PASSAGE)
    assert len({str(told) for told in (unedited, foreign, edited)}) == 3
    for version in ("v000003", "v000001", "v000002"):
        publisher.publish(version)
        publisher.confirm(version)
    assert ours.log_probs(PASSAGE) == edited
    assert list(ours.server.adapters()) == ["factd-v000001", "factd-v000002"]
    publisher.publish("v000000")
    publisher.confirm("v000000")
    assert ours.log_probs(PASSAGE) == unedited


def test_an_adapter_that_somebody_else_unloaded_fails_nothing(lora, url):
    ours = lora("ours", 30)
    ours.publish("v000001", 1)
    ours.publish("v000002", 1)
    listed = ours.server.adapters()
    httpx.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": "factd-v000001"}).raise_for_status()
    ours.server.unload(listed)
    assert ours.served().version == "v000000"


def test_an_adapter_that_cannot_be_loaded_leaves_what_had_its_name(lora):
    theirs = lora("theirs", 40)
    ours = lora("ours", 50)
    theirs.publish("v000002", 1)
    before = theirs.log_probs(PASSAGE)
    ours.stage("v000002", 1)
    (ours.server.path("v000002") / "adapter_model.safetensors").unlink()
    with pytest.raises(ServingError):
        ours.publish("v000002", 1)
    assert theirs.served().version == "v000002"
    assert theirs.log_probs(PASSAGE) == before
    theirs.publish("v000000", 1)
