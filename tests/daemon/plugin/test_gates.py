"""Which routes of a served model answer without the serving key: those on the list, and no other."""

import asyncio
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from daemon.core.errors import SettingsError
from daemon.plugin.gates import ADMIN_ROUTES, HOLD_POLL_SECONDS, OPEN_ROUTES, READY_ROUTE
from daemon.plugin.routes import PublishPlugin

KEY = {"Authorization": "Bearer k3y"}
#: As vLLM's own server names them, and one that nobody has thought of.
POSTED = ("/v1/completions", "/v1/chat/completions", "/invocations", "/tokenize", "/pause", "/abort_requests",
          "/inference/v1/generate", "/brand/new", "/ping")  # fmt: skip
READ = ("/v1/models", "/health", "/ping", "/version", "/load", "/v1/responses/{id}")


async def answer() -> dict:
    return {"answered": True}


def serving(monkeypatch, tmp_path, key="k3y", plugin=None, **arguments) -> FastAPI:
    """An app with routes like vLLM's, and the plugin."""
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "admin")
    monkeypatch.setenv("FACTD_STORE", str(tmp_path))
    monkeypatch.setenv("VLLM_API_KEY", key)
    app = FastAPI()
    app.state.args = SimpleNamespace(**arguments)
    for path in POSTED:
        app.post(path)(answer)
    for path in READ:
        app.get(path)(answer)
    app.routes.append(Mount("/metrics", PlainTextResponse("numbers 1")))

    @app.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("heard")
        await socket.close()

    if plugin is None:
        plugin = PublishPlugin()
        plugin.history.append("v000000")
    plugin.attach_router(app)
    return app


def doors(app):
    """(method, path) of every route over HTTP, mounts and generated pages included."""
    for route in app.routes:
        if not isinstance(route, WebSocketRoute):
            for method in getattr(route, "methods", None) or {"GET"}:
                yield method, route.path.replace("{id}", "1")


def walked(app, headers=None):
    """path → statuses, of a request to every route."""
    found: dict[str, set[int]] = {}
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
    for method, path in doors(app):
        status = client.request(method, path, json={}, headers=headers).status_code
        found.setdefault(path, set()).add(status)
    return found


def test_every_route_is_behind_the_key_or_on_the_list(monkeypatch, tmp_path):
    app = serving(monkeypatch, tmp_path)
    found = walked(app)
    assert {*POSTED, "/v1/models", "/openapi.json", "/docs", "/metrics", *ADMIN_ROUTES} <= found.keys()
    answering = {path for path, statuses in found.items() if statuses != {401}}
    assert answering <= OPEN_ROUTES.keys()
    assert {"/health", "/ping", "/metrics"} <= answering


def test_with_the_key_every_route_answers_but_those_of_the_admin(monkeypatch, tmp_path):
    found = walked(serving(monkeypatch, tmp_path), KEY)
    assert {path for path, statuses in found.items() if 401 in statuses} == ADMIN_ROUTES


@pytest.mark.parametrize(
    "path",
    ["/health/../invocations", "//invocations", "/invocations/", "/healthx", "/metricsx", "/metrics/../docs"],
)
def test_no_spelling_of_a_path_leads_past_the_key(monkeypatch, tmp_path, path):
    client = TestClient(serving(monkeypatch, tmp_path), follow_redirects=False)
    answered = client.post(path, json={})
    assert answered.status_code == 401 or "answered" not in answered.text


@pytest.mark.parametrize("told", ["", "Bearer", "Bearer ", "Bearer k3", "Bearer k3yy", "k3y", "Bearer clé"])
def test_only_the_whole_key_opens(monkeypatch, tmp_path, told):
    client = TestClient(serving(monkeypatch, tmp_path))
    assert client.get("/v1/models", headers={"Authorization": told.encode()}).status_code == 401
    assert client.get("/v1/models", headers=KEY).json() == {"answered": True}


def test_a_socket_is_closed_without_the_key(monkeypatch, tmp_path):
    client = TestClient(serving(monkeypatch, tmp_path))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime"):
        pass
    with client.websocket_connect("/v1/realtime", headers=KEY) as socket:
        assert socket.receive_text() == "heard"


def test_vllms_own_argument_wins_over_the_variable(monkeypatch, tmp_path):
    client = TestClient(serving(monkeypatch, tmp_path, api_key=["other", "second"]))
    statuses = [
        client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code
        for key in ("k3y", "other", "second")
    ]
    assert statuses == [401, 200, 200]


def test_without_a_key_the_server_is_open_but_not_to_publications(monkeypatch, tmp_path):
    found = walked(serving(monkeypatch, tmp_path, key=""))
    assert {path for path, statuses in found.items() if 401 in statuses} == ADMIN_ROUTES


# -- until a version is in place --------------------------------------------------------------------


def starting(monkeypatch, tmp_path, **told):
    """An app whose server has just started, and its plugin."""
    for name, value in told.items():
        monkeypatch.setenv(f"FACTD_{name}", value)
    plugin = PublishPlugin()
    return serving(monkeypatch, tmp_path, key="", plugin=plugin), plugin


async def asked(app, *requests):
    """Answers to requests of (method, path), all asked at once."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://vllm") as client:
        return await asyncio.gather(*(client.request(*each, json={}) for each in requests))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/invocations", "/brand/new"])
def test_a_request_is_held_until_a_version_is_in_place_and_names_that_one(monkeypatch, tmp_path, path):
    app, plugin = starting(monkeypatch, tmp_path)

    async def published_meanwhile():
        asking = asyncio.ensure_future(asked(app, ("POST", path)))
        await asyncio.sleep(4 * HOLD_POLL_SECONDS)
        assert not asking.done()
        plugin.history.append("v000008")
        return (await asking)[0]

    answered = asyncio.run(published_meanwhile())
    assert (answered.status_code, answered.json()) == (200, {"answered": True})
    assert answered.headers["x-factd-version"] == "v000008"


def test_health_models_and_publications_are_never_held(monkeypatch, tmp_path):
    app, _ = starting(monkeypatch, tmp_path)
    open_ones = [("GET", "/health"), ("POST", "/ping"), ("GET", "/v1/models"), ("GET", "/metrics/")]
    ready, *others = asyncio.run(asked(app, ("GET", READY_ROUTE), *open_ones))
    assert [each.status_code for each in others] == [200, 200, 200, 200]
    assert ready.status_code == 503
    [staged] = asyncio.run(asked(app, ("POST", "/plugins/factd/stage")))
    assert staged.status_code == 401


def test_a_request_can_be_refused_instead(monkeypatch, tmp_path):
    app, plugin = starting(monkeypatch, tmp_path, BEFORE_LIVE="refuse")
    [refused] = asyncio.run(asked(app, ("POST", "/v1/completions")))
    assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
    assert "answered" not in refused.text
    plugin.history.append("v000000")
    assert asyncio.run(asked(app, ("POST", "/v1/completions")))[0].status_code == 200


def test_a_request_is_not_held_for_ever(monkeypatch, tmp_path):
    app, _ = starting(monkeypatch, tmp_path, BEFORE_LIVE_SECONDS="0.05")
    [refused] = asyncio.run(asked(app, ("POST", "/v1/completions")))
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)


def test_a_server_can_be_told_to_answer_from_the_unedited_model(monkeypatch, tmp_path):
    app, _ = starting(monkeypatch, tmp_path, BEFORE_LIVE="serve")
    [answered] = asyncio.run(asked(app, ("POST", "/v1/completions")))
    assert answered.headers["x-factd-version"] == "default"


def test_a_socket_is_held_too(monkeypatch, tmp_path):
    app, _ = starting(monkeypatch, tmp_path, BEFORE_LIVE="refuse")
    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/v1/realtime"):
        pass


def test_a_stranger_is_refused_at_once_and_not_held(monkeypatch, tmp_path):
    app = serving(monkeypatch, tmp_path, plugin=PublishPlugin())
    [refused] = asyncio.run(asked(app, ("POST", "/v1/completions")))
    assert refused.status_code == 401


@pytest.mark.parametrize("told", [{"BEFORE_LIVE": "hold"}, {"BEFORE_LIVE_SECONDS": "soon"}])
def test_a_policy_that_cannot_be_used_ends_the_start(monkeypatch, tmp_path, told):
    with pytest.raises(RuntimeError, match=f"FACTD_{next(iter(told))}"):
        starting(monkeypatch, tmp_path, **told)


def test_a_key_that_cannot_be_read_ends_the_start(monkeypatch, tmp_path):
    with pytest.raises(SettingsError, match="FACTD_VERSION_KEY"):
        starting(monkeypatch, tmp_path, VERSION_KEY="not a key")
