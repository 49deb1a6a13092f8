"""Which routes of a served model answer without the serving key: those on the list, and no other."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from daemon.plugin.gates import ADMIN_ROUTES, OPEN_ROUTES
from daemon.plugin.routes import PublishPlugin

KEY = {"Authorization": "Bearer k3y"}
#: As vLLM's own server names them, and one that nobody has thought of.
POSTED = ("/v1/completions", "/v1/chat/completions", "/invocations", "/tokenize", "/pause", "/abort_requests",
          "/inference/v1/generate", "/brand/new", "/ping")  # fmt: skip
READ = ("/v1/models", "/health", "/ping", "/version", "/load", "/v1/responses/{id}")


async def answer() -> dict:
    return {"answered": True}


def serving(monkeypatch, tmp_path, key="k3y", **arguments) -> FastAPI:
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

    PublishPlugin().attach_router(app)
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
