"""vLLM's own application with the plugin: no route of it answers without the serving key.

The application is built as `factd serve` has it built; no engine and no server are started.
"""

import pytest
from fastapi.testclient import TestClient

from daemon.plugin.gates import ADMIN_ROUTES, OPEN_ROUTES
from tests.daemon.plugin.test_gates import doors

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(600)]


@pytest.fixture
def app(monkeypatch, tmp_path):
    from vllm.entrypoints.launchers.app import build_app
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    told = {"FACTD_ADMIN_TOKEN": "admin", "FACTD_STORE": str(tmp_path), "VLLM_PLUGINS": "factd"}
    told |= {"FACTD_BEFORE_LIVE": "serve"}
    for name, value in (told | {"VLLM_API_KEY": "k3y"}).items():
        monkeypatch.setenv(name, value)
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", str(tmp_path)])
    return build_app(args, ("generate",))


def test_no_route_of_vllm_answers_without_the_key(app):
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False)
    paths = set()
    for method, path in doors(app):
        paths.add(path)
        if path not in OPEN_ROUTES:
            assert client.request(method, path, json={}).status_code == 401, (method, path)
    assert {"/invocations", "/tokenize", "/v1/completions", "/v1/chat/completions", *ADMIN_ROUTES} <= paths
    assert OPEN_ROUTES.keys() <= paths


def test_with_the_key_the_routes_are_reached(app):
    client = TestClient(app, raise_server_exceptions=False)
    answered = client.post("/invocations", json={}, headers={"Authorization": "Bearer k3y"})
    assert answered.status_code != 401
