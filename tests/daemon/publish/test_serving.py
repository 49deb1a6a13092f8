"""The client of a replica turns every answer into a result or a ServingError; no server needed."""

import json
from pathlib import Path

import httpx
import pytest

from daemon.plugin.routes import PublishBody
from daemon.publish.serving import PublishResult, Served, ServingError
from daemon.publish.stub import StubServing
from daemon.publish.vllm_replica import VllmReplica
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import ManagedProcess, ProcessError, free_port
from daemon.supervise.vllm import VllmOptions, vllm_command
from tests.waiting import until


def replica(handler) -> VllmReplica:
    return VllmReplica("http://replica/", "admin", "key", transport=httpx.MockTransport(handler))


def test_publish_sends_the_admin_token_and_reads_the_times():
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer admin"
        assert request.url.path == "/plugins/factd/publish"
        assert request.read() == b'{"version":"v000003","fence":7}'
        return httpx.Response(200, json={"version": "v000003", "seconds": 0.2, "pause_seconds": 0.03})

    assert replica(handler).publish("v000003", 7) == PublishResult("v000003", 0.2, 0.03)


def test_a_policy_for_running_requests_travels_with_the_flip_and_not_with_the_staging():
    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.read()))
        told = {"version": "v000003", "seconds": 2.3, "pause_seconds": 0.03, "drain_seconds": 2.0}
        return httpx.Response(200, json=told)

    bodies: list[dict] = []
    transport = httpx.MockTransport(handler)
    client = VllmReplica(
        "http://replica", "admin", in_flight="wait", in_flight_seconds=10.0, transport=transport
    )
    client.stage("v000003", 7)
    assert client.publish("v000003", 7).drain_seconds == 2.0
    version = {"version": "v000003", "fence": 7}
    assert bodies == [version, version | {"in_flight": "wait", "in_flight_seconds": 10.0}]
    assert PublishBody(**bodies[1]).in_flight_seconds == 10.0


def test_complete_uses_the_api_key_and_the_served_model_name():
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer key"
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        assert b'"model":"m"' in request.read()
        return httpx.Response(200, json={"choices": [{"index": 0, "text": " Paris"}]})

    assert replica(handler).complete(["The capital of France is"]) == [" Paris"]


def test_log_probabilities_are_those_of_the_passages_own_tokens_in_their_order():
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        assert b'"prompt":[[5,6],[7]]' in request.read()
        told = [None, {"6": {"logprob": -0.5}, "9": {"logprob": -0.1}}]
        choices = [{"index": 1, "prompt_logprobs": [None]}, {"index": 0, "prompt_logprobs": told}]
        return httpx.Response(200, json={"choices": choices})

    assert replica(handler).log_probs([[5, 6], [7]]) == [[0.0, -0.5], [0.0]]
    assert replica(handler).log_probs([]) == []


def test_log_probabilities_that_are_missing_are_a_protocol_error():
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "m"}]})
        return httpx.Response(200, json={"choices": [{"index": 0, "prompt_logprobs": [None, None]}]})

    with pytest.raises(ServingError) as error:
        replica(handler).log_probs([[5, 6]])
    assert error.value.code == "protocol"


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (
            httpx.Response(409, json={"error": {"code": "stale_fence", "message": "m", "retryable": False}}),
            "stale_fence",
            False,
        ),
        (httpx.Response(401, json={"detail": "no"}), "unauthorised", False),
        (httpx.Response(404, json={"detail": "Not Found"}), "protocol", False),
        (httpx.Response(503, text="busy"), "protocol", True),
        (httpx.Response(200, text="<html>"), "protocol", False),
        (httpx.Response(200, json=[1]), "protocol", False),
        (httpx.Response(200, json={"version": "v000001"}), "protocol", False),
    ],
)
def test_every_other_answer_is_a_serving_error(answer, code, retryable):
    with pytest.raises(ServingError) as error:
        replica(lambda request: answer).publish("v000001", 1)
    assert (error.value.code, error.value.retryable) == (code, retryable)


def test_a_dead_replica_is_retryable_and_unhealthy():
    client = VllmReplica(f"http://127.0.0.1:{free_port()}", "admin")
    assert not client.healthy()
    with pytest.raises(ServingError) as error:
        client.served()
    assert error.value.retryable
    assert error.value.code == "unreachable"


def test_the_stub_keeps_fences_and_forgets_on_restart():
    stub = StubServing()
    stub.publish("v000001", 3)
    assert stub.served() == Served("v000001", 3)
    assert stub.complete(["x"]) == ["v000001"]
    with pytest.raises(ServingError):
        stub.publish("v000002", 2)
    stub.hashes = lambda version: {"w": f"sha of {version}"}
    assert stub.served().sha256 == {"w": "sha of v000001"}
    stub.restart()
    assert stub.served().sha256 == {}
    assert stub.served().version == "default"


def test_tokens_are_in_the_environment_and_not_in_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    options = VllmOptions(store=tmp_path, admin_token="s3cret", api_key="k3y")
    argv, env = vllm_command(Path("/m"), 1234, options)
    assert not any("s3cret" in word or "k3y" in word for word in argv)
    assert env["FACTD_ADMIN_TOKEN"] == "s3cret"
    assert env["VLLM_API_KEY"] == "k3y"
    assert "VLLM_SERVER_DEV_MODE" not in env
    assert "s3cret" not in repr(options)
    assert argv[argv.index("--host") + 1] == "127.0.0.1"


def test_what_the_caller_has_set_for_the_processor_wins(tmp_path, monkeypatch):
    told = {
        "OMP_NUM_THREADS": "7",
        "VLLM_CPU_OMP_THREADS_BIND": "0-6",
        "VLLM_CPU_KVCACHE_SPACE": "9",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "5",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FACTD_STORE", "/elsewhere")
    monkeypatch.setenv("VLLM_PLUGINS", "others")
    _, env = vllm_command(Path("/m"), 1234, VllmOptions(store=tmp_path, admin_token="t", threads=2))
    assert told.items() <= env.items()
    assert (env["FACTD_STORE"], env["VLLM_PLUGINS"]) == (str(tmp_path), "factd")


@pytest.mark.parametrize(
    ("extra", "threads"),
    [
        ((), "6"),
        (("--tensor-parallel-size", "3"), "2"),
        (("-tp=2", "--pipeline_parallel_size=3"), "1"),
        (("--tensor-parallel-size", "16"), "1"),
        (("--tensor-parallel-size", "three"), "6"),
    ],
)
def test_the_ranks_of_a_server_share_its_threads(tmp_path, monkeypatch, extra, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    options = VllmOptions(store=tmp_path, admin_token="t", threads=6, extra=extra)
    assert vllm_command(Path("/m"), 1234, options)[1]["OMP_NUM_THREADS"] == threads


def test_an_answer_that_takes_too_long_names_the_setting():
    def handler(request: httpx.Request) -> httpx.Response:
        assert request.extensions["timeout"]["read"] == 7.5
        raise httpx.ReadTimeout("", request=request)

    late = VllmReplica("http://r", "admin", answer_seconds=7.5, transport=httpx.MockTransport(handler))
    with pytest.raises(ServingError, match=r"7.5 s.*FACTD_ANSWER_SECONDS") as error:
        late.complete(["x"])
    assert (error.value.code, error.value.retryable) == ("slow", True)


def test_onednn_keeps_few_primitives(tmp_path):
    _, env = vllm_command(Path("/m"), 1234, VllmOptions(store=tmp_path, admin_token="t"))
    assert int(env["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < 1024


def test_valkey_keeps_its_data_and_its_directory_to_itself(tmp_path):
    redis = pytest.importorskip("redis")
    with EmbeddedValkey(tmp_path / "valkey") as first:
        with redis.Redis.from_url(first.url) as client:
            client.set("k", "v")
        with redis.Redis(port=first.port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.get("k")
    with EmbeddedValkey(tmp_path / "valkey") as again, redis.Redis.from_url(again.url) as client:
        assert client.get("k") == b"v"


def test_a_child_that_ends_early_is_reported_with_its_log(tmp_path):
    child = ManagedProcess("child", ["sh", "-c", "echo out of cheese; exit 3"], log=tmp_path / "log")
    child._ready = lambda: False
    child.start()
    with pytest.raises(ProcessError, match=r"(?s)status 3.*out of cheese"):
        child.wait_until_ready(10)
    child.stop()


def test_stop_kills_a_child_that_ignores_sigterm(tmp_path):
    argv = ["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]
    child = ManagedProcess("child", argv, log=tmp_path / "log", grace=0.5)
    child.start()
    until(lambda: "up" in (tmp_path / "log").read_text())
    child.stop()
    assert not child.running()
