"""The gateway with a real HAProxy: users reach /v1 of a replica that is in sync, and nothing else."""

import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from daemon.plugin.routes import READY_ROUTE
from daemon.supervise.processes import free_port
from tests.deploy.files import DEPLOY
from tests.programs import program
from tests.waiting import until

CONFIGURATION = DEPLOY / "gateway" / "haproxy.cfg"


class Replica(BaseHTTPRequestHandler):
    """Answers everything, as a replica that guards nothing would."""

    ready = False
    paths: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        if self.path == READY_ROUTE:
            self.send_response(200 if Replica.ready else 503)
        else:
            Replica.paths.append(self.path)
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway(tmp_path):
    haproxy = program("haproxy", "haproxy")
    Replica.ready, Replica.paths = False, []
    replica = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    threading.Thread(target=replica.serve_forever, daemon=True).start()
    port = free_port()
    text = CONFIGURATION.read_text().replace("bind :8080", f"bind 127.0.0.1:{port}")
    # One replica, found in the host's own table instead of by a name server.
    text = text.replace("server-template replica 8", "server-template replica 1")
    text = text.replace("inter 2s", "inter 100ms").replace("init-addr none", "init-addr libc")
    (tmp_path / "haproxy.cfg").write_text(text)
    environment = {"PATH": os.environ["PATH"]}
    environment["FACTD_GATEWAY_BACKEND"] = f"localhost:{replica.server_port}"
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [haproxy, "-db", "-f", tmp_path / "haproxy.cfg"], env=environment, stdout=log, stderr=log
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            until(lambda: status(client, "/gateway/alive") == 200, 20, (tmp_path / "log").read_text)
            yield client
    finally:
        process.terminate()
        process.wait(10)
        replica.shutdown()
        replica.server_close()


def status(client, path):
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return None


def test_users_reach_v1_of_a_replica_in_sync_and_nothing_else(gateway, tmp_path):
    log = tmp_path / "log"
    until(lambda: status(gateway, "/v1/models") == 503, 20, log.read_text)
    assert Replica.paths == [] or set(Replica.paths) == {"/v1/models"}  # before its first failed check

    Replica.ready = True
    until(lambda: status(gateway, "/v1/models") == 200, 20, log.read_text)

    Replica.paths.clear()
    refused = [
        "/plugins/factd/publish",
        "/plugins/factd/version",
        READY_ROUTE,
        "/metrics",
        "/health",
        "/pause",
        "/collective_rpc",
        "/v1/load_lora_adapter",
        "/v1/%6coad_lora_adapter",
        "/v1",
        "//v1/models",
    ]
    assert {path: status(gateway, path) for path in refused} == dict.fromkeys(refused, 404)
    assert Replica.paths == []

    Replica.ready = False
    until(lambda: status(gateway, "/v1/models") == 503, 20, log.read_text)


def test_haproxy_accepts_the_file_as_it_is():
    done = subprocess.run(
        [program("haproxy", "haproxy"), "-c", "-f", CONFIGURATION],
        env={"PATH": os.environ["PATH"], "FACTD_GATEWAY_BACKEND": "localhost:8320"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
