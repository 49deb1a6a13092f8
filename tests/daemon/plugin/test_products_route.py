"""The route of the product check, over workers that are a few real linear layers; no vLLM."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient

from daemon.plugin.gates import ADMIN_ROUTES
from daemon.plugin.multiplying import answer
from daemon.plugin.product_route import PRODUCTS_ROUTE
from daemon.plugin.routes import EXTENSION, PublishPlugin
from daemon.publish.proving.challenge import Challenge, multiplied
from daemon.publish.proving.noise import Noise
from daemon.publish.serving import ServingError
from daemon.publish.vllm_replica import VllmReplica

NAME = "model.layers.0.mlp.down_proj.weight"
ROWS, COLUMNS = 24, 64
WEIGHT = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) / 9
STRICT = Noise(0, 0, 0, product=0)


class Linear(torch.nn.Module):
    """As vLLM's linear layers are: `quant_method` multiplies, sizes tell what the rank holds."""

    def __init__(self, weight, *, rank=0, ranks=1, split="none"):
        super().__init__()
        self.held = torch.nn.Parameter(weight, requires_grad=False)
        self.tp_rank, self.tp_size = rank, ranks
        self.input_size, self.output_size = COLUMNS, ROWS
        self.input_size_per_partition, self.output_size_per_partition = COLUMNS, ROWS
        if split == "columns":
            self.input_size_per_partition //= ranks
        if split == "rows":
            self.output_size_per_partition //= ranks
        self.quant_method = SimpleNamespace(apply=lambda layer, x, bias: x @ layer.held.T)


def linears(weight, split, ranks):
    held = {"columns": weight.chunk(ranks, 1), "rows": weight.chunk(ranks), "none": [weight] * ranks}[split]
    return [Linear(h.bfloat16(), rank=i, ranks=ranks, split=split) for i, h in enumerate(held)]


class Engine:
    """Each rank answers as `daemon.plugin.worker` does."""

    def __init__(self, layers):
        self.layers, self.version = layers, "v000001"
        self.engine_core = SimpleNamespace(add_request_async=None)

    async def collective_rpc(self, method, args=()):
        assert method == "factd_products"
        version, seed, tensors = args
        if version != self.version:
            return [{"error": {"code": "refused", "message": f"served is {self.version}"}}] * len(self.layers)
        told = [{n: answer(layer, n, seed, torch.bfloat16) for n in tensors} for layer in self.layers]
        return [{"dtype": "bfloat16", "tensors": each} for each in told]


@pytest.fixture
def client(monkeypatch, tmp_path):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "token")
    monkeypatch.setenv("FACTD_STORE", str(tmp_path))

    def made(layers):
        app, plugin = FastAPI(), PublishPlugin()
        plugin.attach_router(app)
        arguments = SimpleNamespace(worker_extension_cls=EXTENSION, api_server_count=1)
        asyncio.run(plugin.init_state(Engine(layers), app.state, arguments))
        return TestClient(app)

    return made


def replica_of(client, token="token"):
    """The daemon's client over the application itself."""

    def send(request):
        told = client.request(
            request.method, request.url.path, content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(told.status_code, content=told.content, request=request)

    return VllmReplica("http://r", token, transport=httpx.MockTransport(send))


@pytest.mark.parametrize(("split", "ranks"), [("none", 1), ("none", 2), ("columns", 2), ("rows", 2)])
def test_a_replica_multiplies_with_what_it_holds(client, split, ranks):
    replica = replica_of(client(linears(WEIGHT, split, ranks)))
    assert multiplied(replica, "v000001", Challenge((), {NAME: WEIGHT}, 9)).faults(STRICT) == []
    stale = linears(WEIGHT, split, ranks)
    stale[-1].held.mul_(0.8)
    assert multiplied(replica_of(client(stale)), "v000001", Challenge((), {NAME: WEIGHT}, 9)).faults(None)


def test_it_needs_the_admin_token_and_the_version_that_is_served(client):
    made = client(linears(WEIGHT, "none", 1))
    with pytest.raises(ServingError) as refused:
        replica_of(made, "wrong").products("v000001", 1, [NAME])
    assert refused.value.code == "unauthorised"
    with pytest.raises(ServingError, match="served is v000001") as refused:
        replica_of(made).products("v000002", 1, [NAME])
    assert (refused.value.code, refused.value.retryable) == ("refused", False)
    assert PRODUCTS_ROUTE in ADMIN_ROUTES


@pytest.mark.parametrize(
    "change",
    [{"tensors": ["../../etc/passwd"]}, {"tensors": ["a/b"]}, {"tensors": ["a"] * 513}, {"tensors": "a"},
     {"seed": -1}, {"seed": 1 << 63}, {"seed": "1"}, {"version": "../v000001"}, {"path": "/etc"}],
)  # fmt: skip
def test_malformed_requests_are_refused(client, change):
    body = {"version": "v000001", "seed": 1, "tensors": [NAME]} | change
    told = client(linears(WEIGHT, "none", 1)).post(
        PRODUCTS_ROUTE, json=body, headers={"Authorization": "Bearer token"}
    )
    assert told.status_code == 422


def test_what_is_no_linear_layer_cannot_be_asked():
    with pytest.raises(ValueError, match="no linear layer"):
        answer(torch.nn.LayerNorm(4), "norm.weight", 1, torch.float32)


@pytest.mark.parametrize(
    "change", [{"part": "half"}, {"shape": [8]}, {"shape": [8, 25]}, {"products": "%"}, {"products": None}]
)
def test_an_answer_that_is_none_is_an_error(change):
    told = answer(linears(WEIGHT, "none", 1)[0], NAME, 1, torch.bfloat16) | change
    answered = {"version": "v000001", "dtype": "bfloat16", "ranks": [{NAME: told}]}
    replica = VllmReplica(
        "http://r", "t", transport=httpx.MockTransport(lambda request: httpx.Response(200, json=answered))
    )
    with pytest.raises(ServingError) as error:
        replica.products("v000001", 1, [NAME])
    assert error.value.code == "protocol"
