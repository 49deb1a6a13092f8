"""Tensor parallel: each rank stages the whole tensor and keeps its slice, by vLLM's own loader.

Two ranks in one process, each with a real RowParallelLinear that believes in its rank; no server.
"""

import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from daemon.publish.proving.challenge import Challenge, multiplied
from daemon.publish.proving.noise import Noise
from daemon.publish.serving import Products
from daemon.publish.vllm_replica import piece
from tests.daemon.plugin.test_vllm_plugin import NAME, write

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]

ROWS, COLUMNS = 64, 128


class Model(nn.Module):
    """One sharded layer under its checkpoint name, loaded as vLLM's models load theirs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        holder = self
        *path, leaf = NAME.removesuffix(".weight").split(".")
        for part in path:
            child = nn.Module()
            holder.add_module(part, child)
            holder = child
        holder.add_module(leaf, layer)

    def load_weights(self, tensors) -> None:
        for name, tensor in tensors:
            parameter = self.get_parameter(name)
            parameter.weight_loader(parameter, tensor)


@pytest.fixture
def ranks(tmp_path, monkeypatch):
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear
    from vllm.model_executor.model_loader.reload import record_metadata_for_reloading

    from daemon.plugin.worker import _Rank

    base = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) / 8
    (tmp_path / "model").mkdir()
    save_file({NAME: base}, tmp_path / "model" / "model.safetensors")
    write(tmp_path, base, torch.ones(ROWS, 2) / 9, torch.ones(COLUMNS, 2))
    monkeypatch.setenv("FACTD_STORE", str(tmp_path))
    config = VllmConfig()
    config.model_config = SimpleNamespace(model=str(tmp_path / "model"), dtype=torch.bfloat16)
    made = []
    for rank in (0, 1):
        for module in (linear, parameter):
            monkeypatch.setattr(module, "get_tensor_model_parallel_rank", lambda rank=rank: rank)
            monkeypatch.setattr(module, "get_tensor_model_parallel_world_size", lambda: 2)
        with set_current_vllm_config(config):
            layer = linear.RowParallelLinear(
                COLUMNS,
                ROWS,
                bias=True,
                params_dtype=torch.bfloat16,
                skip_bias_add=True,
                reduce_results=False,
            )
        model = Model(layer)
        record_metadata_for_reloading(model)
        model.load_weights([(NAME, base.bfloat16())])
        layer.quant_method.process_weights_after_loading(layer)
        layer.bias.data.fill_(0.5)
        worker = SimpleNamespace(
            model_runner=SimpleNamespace(get_model=lambda model=model: model),
            model_config=config.model_config,
            vllm_config=config,
        )
        made.append((_Rank(worker), layer))
    return base, made


def product(made, x):
    """What all ranks together compute for a row x: the sum of their partial products."""
    halves = x.bfloat16().chunk(len(made), dim=-1)
    pairs = zip(made, halves, strict=True)
    return sum(layer.quant_method.apply(layer, half).float() for (_, layer), half in pairs)


@pytest.mark.parametrize("ahead", [True, False], ids=["packed before the pause", "loaded in the pause"])
def test_the_ranks_together_compute_with_the_published_tensor_and_with_the_base_again(
    ranks, monkeypatch, ahead
):
    from daemon.plugin import worker

    base, made = ranks
    if not ahead:
        monkeypatch.setattr(worker, "_pack", lambda module, weight: None)
    edited = base + 2 / 9
    x = torch.randn(3, COLUMNS, generator=torch.Generator().manual_seed(1)).bfloat16().float()
    torch.testing.assert_close(product(made, x), x @ base.bfloat16().float().T, atol=0.05, rtol=0.02)
    before = product(made, x)
    for publisher, _ in made:
        assert publisher.begin("v000001", 3) == {}
        while publisher.outcome is None:
            time.sleep(0.01)
        assert "error" not in publisher.outcome
        assert list(publisher.packed) == ([NAME] if ahead else [])
        assert "error" not in publisher.swap("v000001", 3)
    torch.testing.assert_close(product(made, x), x @ edited.bfloat16().float().T, atol=0.05, rtol=0.02)
    assert made[0][0].served.sha256 == made[1][0].served.sha256 != {}
    for publisher, layer in made:
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.5)), "what is not edited stays"
        publisher.undo()
        assert torch.equal(layer.bias, torch.full_like(layer.bias, 0.5))
    assert torch.equal(product(made, x), before)


class Replica:
    """Asks the ranks as the plugin's route does."""

    name = "two ranks"

    def __init__(self, made) -> None:
        self.made = made

    def products(self, version, seed, tensors):
        told = [publisher.products(version, seed, tensors) for publisher, _ in self.made]
        return Products(told[0]["dtype"], [{n: piece(each["tensors"][n]) for n in tensors} for each in told])


def test_the_ranks_multiply_their_slices_and_a_stale_slice_is_found(ranks):
    base, made = ranks
    replica, edited = Replica(made), base + 2 / 9
    for publisher, _ in made:
        publisher.begin("v000001", 3)
        while publisher.outcome is None:
            time.sleep(0.01)
        assert "error" not in publisher.swap("v000001", 3)
    strict = Noise(0, 0, 0, product=0)
    told = replica.products("v000001", 1, [NAME])
    assert {rank[NAME].part for rank in told.ranks} == {"sum"}
    assert multiplied(replica, "v000001", Challenge((), {NAME: edited}, 5)).faults(strict) == []
    assert multiplied(replica, "v000001", Challenge((), {NAME: base}, 5)).faults(None)
    made[1][0].undo()
    assert made[1][0].products("v000001", 1, [NAME])["error"]["code"] == "refused"
    made[1][0].served = made[0][0].served  # the label is right, the slice is the old one
    assert multiplied(replica, "v000001", Challenge((), {NAME: edited}, 5)).faults(None)
    assert made[0][0].products("v000001", 1, ["model.norm.weight"])["error"]["code"] == "refused"
