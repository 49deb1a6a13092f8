"""The half of the plugin in vLLM's API server, over an engine of two ranks that is a few lists."""

import asyncio
import contextlib
from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from daemon.plugin.routes import (
    EXTENSION,
    PublicationError,
    Publications,
    PublishBody,
    PublishPlugin,
    StageBody,
)

ADMIN = {"Authorization": "Bearer token"}


class Rank:
    """What `WorkerExtension` answers; `fails` names the method that goes wrong."""

    def __init__(self, fails: str = "") -> None:
        self.fails, self.served, self.undone = fails, "default", 0

    def factd_stage(self, version, fence):
        return self._or({}, "stage")

    def factd_stage_outcome(self):
        return self._or({"seconds": 0.0, "sha256": {}}, "outcome")

    def factd_swap(self, version, fence):
        if self.fails == "dies":
            raise RuntimeError("lost")
        if self.fails != "swap":
            self.served = version
        return self._or({"seconds": 0.0}, "swap")

    def factd_undo(self):
        self.undone += 1

    def factd_served(self):
        return {"version": self.served, "fence": 1, "sha256": {}}

    def _or(self, answer, method):
        return {"error": {"code": "swap_failed", "message": method}} if self.fails == method else answer


class Core:
    """Where requests go in; `salts` are theirs, in order."""

    def __init__(self) -> None:
        self.salts = []

    async def add_request_async(self, request):
        self.salts.append(request.cache_salt)


class Engine:
    def __init__(self, *ranks: Rank) -> None:
        self.ranks, self.log, self.engine_core = ranks, [], Core()
        self.idle, self.runs_seconds = asyncio.Event(), 0.0

    async def collective_rpc(self, method, args=()):
        return [getattr(rank, method)(*args) for rank in self.ranks]

    async def pause_generation(self, mode, clear_cache):
        if not clear_cache:
            return self.log.append(f"pause {mode}, caches kept")
        if mode == "wait":
            # ends by itself, or as vLLM's does: with the next pause that leaves nothing to run
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.idle.wait(), self.runs_seconds)
        else:
            self.idle.set()
        self.log.append(f"pause {mode}")

    async def resume_generation(self):
        self.log.append("resume")

    async def update_weight_version(self, version):
        self.log.append(version)


@pytest.fixture
def serve(monkeypatch, tmp_path):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "token")
    monkeypatch.setenv("FACTD_STORE", str(tmp_path))

    def served(*ranks):
        app, plugin, engine = FastAPI(), PublishPlugin(), Engine(*ranks)

        @app.get("/v1/answer")
        async def answer(flip: str = ""):
            if flip:
                await app.state.factd.publish(PublishBody(version=flip, fence=1))
            return {}

        @app.get("/v1/stream")
        async def stream():
            async def parts():
                yield b"data: 1\n\n"
                await app.state.factd.publish(PublishBody(version="v000007", fence=1))
                yield b"data: 2\n\n"

            return StreamingResponse(parts())

        plugin.attach_router(app)
        arguments = SimpleNamespace(worker_extension_cls=EXTENSION, api_server_count=1)
        asyncio.run(plugin.init_state(engine, app.state, arguments))
        return TestClient(app), engine

    return served


def publish(client, version, **policy):
    body = {"version": version, "fence": 1, **policy}
    return client.post("/plugins/factd/publish", json=body, headers=ADMIN)


def test_every_answer_names_the_versions_that_made_it(serve):
    client, _ = serve(Rank())
    seen = [client.get("/v1/answer").headers["x-factd-version"]]
    publish(client, "v000001")
    seen.append(client.get("/v1/answer").headers["x-factd-version"])
    seen.append(client.get("/v1/answer?flip=v000002").headers["x-factd-version"])
    streamed = client.get("/v1/stream")
    assert streamed.text == "data: 1\n\ndata: 2\n\n"
    seen.append(streamed.headers["x-factd-version"])
    seen.append(client.get("/v1/nothing-here").headers["x-factd-version"])
    assert seen == ["default", "v000001", "v000001, v000002", "v000002", "v000007"]


def test_ready_only_once_a_version_was_published(serve):
    client, _ = serve(Rank())
    assert client.get("/plugins/factd/ready").status_code == 503
    publish(client, "v000000")
    assert client.get("/plugins/factd/ready").json() == {"version": "v000000"}
    assert client.get("/plugins/factd/ready").status_code == 200


@pytest.mark.parametrize("method", ["stage", "outcome"])
def test_a_rank_that_cannot_stage_leaves_all_as_they_were(serve, method):
    client, engine = serve(Rank(), Rank(method))
    assert publish(client, "v000001").status_code == 500
    assert engine.log == []
    assert client.get("/plugins/factd/version", headers=ADMIN).json()["version"] == "default"


def test_when_one_rank_fails_to_swap_the_others_go_back_and_generation_goes_on(serve):
    good, bad = Rank(), Rank("swap")
    client, engine = serve(good, bad)
    answer = publish(client, "v000001")
    assert answer.status_code == 500
    assert answer.json()["error"] == {"code": "swap_failed", "message": "swap", "retryable": True}
    assert good.undone == 1
    assert engine.log == ["pause keep, caches kept", "resume"]
    assert client.get("/v1/answer").headers["x-factd-version"] == "default"


def test_a_server_whose_weights_are_unknown_stops(serve, monkeypatch):
    stopped = []
    monkeypatch.setattr("daemon.plugin.routes.os.kill", lambda pid, signal: stopped.append(signal.name))
    client, engine = serve(Rank(), Rank("dies"))
    assert publish(client, "v000001").status_code == 500
    assert stopped == ["SIGTERM"]
    assert engine.log == ["pause keep, caches kept", "resume"]


def test_ranks_that_serve_different_versions_are_never_reported_as_one(serve):
    one, other = Rank(), Rank()
    client, _ = serve(one, other)
    other.served = "v000001"
    answer = client.get("/plugins/factd/version", headers=ADMIN)
    assert answer.status_code == 500
    assert "different versions" in answer.text


def test_generation_is_resumed_when_the_pause_itself_fails(serve):
    client, engine = serve(Rank())

    async def broken(mode, clear_cache):
        raise PublicationError("swap_failed", "no pause")

    engine.pause_generation = broken
    assert publish(client, "v000001").status_code == 500
    assert engine.log == ["resume"]


def test_a_command_line_that_would_lie_is_refused():
    plugin, engine = PublishPlugin(), Engine()
    for arguments in (
        SimpleNamespace(worker_extension_cls=""),
        SimpleNamespace(worker_extension_cls=EXTENSION, api_server_count=2),
    ):
        with pytest.raises(RuntimeError, match="start vLLM with"):
            asyncio.run(plugin.init_state(engine, SimpleNamespace(), arguments))


# --- requests that run at a flip ---------------------------------------------------------------------


def test_running_requests_carry_their_cache_over_when_the_body_says_so(serve):
    client, engine = serve(Rank())
    answer = publish(client, "v000001", in_flight="carry", in_flight_seconds=60)
    assert engine.log == ["pause keep, caches kept", "v000001", "resume"]
    assert answer.json()["drain_seconds"] == 0.0


@pytest.mark.parametrize("mode", ["keep", "abort"])
def test_running_requests_are_kept_or_aborted_as_the_body_says(serve, mode):
    client, engine = serve(Rank())
    answer = publish(client, "v000001", in_flight=mode, in_flight_seconds=60)
    assert engine.log == [f"pause {mode}", "v000001", "resume"]
    assert answer.json()["drain_seconds"] == 0.0


def test_running_requests_that_end_in_time_end_on_the_old_weights(serve):
    client, engine = serve(Rank())
    engine.runs_seconds = 0.05
    answer = publish(client, "v000001", in_flight="wait", in_flight_seconds=60)
    assert engine.log == ["pause wait", "v000001", "resume"]
    told = answer.json()
    assert 0 < told["drain_seconds"] <= told["seconds"] - told["pause_seconds"]


def test_running_requests_that_outlast_the_deadline_are_kept(serve):
    client, engine = serve(Rank())
    engine.runs_seconds = 60.0
    answer = publish(client, "v000001", in_flight="wait", in_flight_seconds=0.05)
    # Both pauses are over before a weight is touched: vLLM clears its caches at the end of each.
    assert engine.log[2:] == ["v000001", "resume"]
    assert sorted(engine.log[:2]) == ["pause keep", "pause wait"]
    assert answer.json()["drain_seconds"] > 0


def test_a_policy_is_refused_that_is_unknown_endless_or_not_of_a_flip(serve):
    client, engine = serve(Rank())
    for policy in (
        {"in_flight": "drop"},
        {"in_flight": None},
        {"in_flight": "wait", "in_flight_seconds": -1},
        {"in_flight": "wait", "in_flight_seconds": 601},
        {"in_flight": "wait", "in_flight_seconds": "10"},
        {"in_flight": "wait", "deadline": 1},
    ):
        answer = publish(client, "v000001", **policy)
        assert answer.status_code == 422, policy
        assert list(policy)[-1] in answer.text
    staging = {"version": "v000001", "fence": 1, "in_flight": "keep"}
    assert client.post("/plugins/factd/stage", json=staging, headers=ADMIN).status_code == 422
    assert engine.log == []


# --- no prefix of other weights ----------------------------------------------------------------------


def salt(engine, own=None):
    asyncio.run(engine.engine_core.add_request_async(SimpleNamespace(cache_salt=own)))
    return engine.engine_core.salts[-1]


def test_requests_share_a_salt_until_the_next_flip_and_never_again(serve):
    client, engine = serve(Rank())
    seen = []
    for version in ("v000001", "v000002", "v000001", "v000001"):  # a rollback too has a salt of its own
        publish(client, version, in_flight="carry")
        seen.append(salt(engine))
        assert salt(engine) == seen[-1]
    assert len(set(seen)) == 4
    assert all(seen)


def test_a_callers_own_salt_keeps_apart_whom_it_kept_apart_and_changes_at_a_flip(serve):
    client, engine = serve(Rank())
    first = [salt(engine, own) for own in (None, "a", "b", "")]
    assert len(set(first)) == 3
    assert first[0] == first[3]
    publish(client, "v000001", in_flight="carry")
    assert salt(engine, "a") not in first


def test_the_salt_changes_between_the_pause_and_the_first_new_weight(serve):
    """A request that comes in the pause is computed after it: with the new weights, so under the new salt."""
    rank = Rank()
    client, engine = serve(rank)
    core, pause, swap, told = engine.engine_core, engine.pause_generation, rank.factd_swap, {}

    async def pausing(mode, clear_cache):
        await core.add_request_async(SimpleNamespace(cache_salt=None))
        await pause(mode, clear_cache)

    def swapping(version, fence):
        told["swap"] = asyncio.ensure_future(core.add_request_async(SimpleNamespace(cache_salt=None)))
        return swap(version, fence)

    before = salt(engine)
    engine.pause_generation, rank.factd_swap = pausing, swapping
    publish(client, "v000001", in_flight="carry")
    after = salt(engine)
    assert core.salts == [before, before, after, after]
    assert before != after


def test_a_flip_that_was_undone_leaves_requests_among_themselves(serve):
    client, engine = serve(Rank(), Rank("swap"))
    before = salt(engine)
    assert publish(client, "v000001", in_flight="carry").status_code == 500
    assert salt(engine) not in (None, before)


# --- one after the other -----------------------------------------------------------------------------


def test_a_publication_behind_one_that_hangs_is_told_so_and_the_next_one_goes_on(monkeypatch):
    monkeypatch.setattr("daemon.plugin.routes.BUSY_SECONDS", 0.05)
    rank = Rank()
    publisher = Publications(Engine(rank), ["default"])

    async def behind() -> PublicationError:
        outcome, rank.factd_stage_outcome = rank.factd_stage_outcome, lambda: None
        hanging = asyncio.ensure_future(publisher.stage(StageBody(version="v000001", fence=1)))
        with pytest.raises(PublicationError) as refusal:
            await asyncio.gather(publisher.publish(PublishBody(version="v000002", fence=1)))
        rank.factd_stage_outcome = outcome
        await hanging
        await publisher.publish(PublishBody(version="v000003", fence=1))
        return refusal.value

    assert asyncio.run(behind()).code == "busy"
    assert rank.served == "v000003"
