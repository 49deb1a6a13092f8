"""A replica that takes a publication and goes silent: real HTTP, a real client, and the others go on."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

import pytest

from daemon.core.errors import PublishError
from daemon.publish import vllm_http, vllm_replica
from daemon.publish.publishing import Publisher
from daemon.publish.stub import StubServing
from daemon.publish.vllm_replica import VllmReplica
from daemon.versions.store import Store

STAGE, PUBLISH = "/plugins/factd/stage", "/plugins/factd/publish"


class Server(ThreadingHTTPServer):
    """Stages when `ready` is set; `health` gives the status of each check, None for no answer."""

    daemon_threads = block_on_close = True

    def __init__(self, *health: int | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ready, self.over = threading.Event(), threading.Event()
        self.health, self.checks = chain(health, repeat(health[-1])), 0
        self.refusal: dict | None = None
        self.when_checked: Callable[[int], None] = lambda checks: None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.checks += 1
        self.server.when_checked(self.server.checks)
        status = next(self.server.health)
        if status is None:
            self.server.over.wait()
        self._answer(status or 200, {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refusal is not None:
            return self._answer(503, {"error": self.server.refusal})
        self.server.ready.wait()
        self._answer(200, {"version": "v000001", "seconds": 0.1, "pause_seconds": 0.0})

    def _answer(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has given up, as it should

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setattr(vllm_replica, "WATCH_SECONDS", 0.05)
    monkeypatch.setattr(vllm_http, "CONNECT_SECONDS", 0.5)
    with ExitStack() as stack:

        def served(*health: int | None, seconds: float = 60.0) -> tuple[Server, VllmReplica]:
            server = stack.enter_context(Server(*health))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            replica = VllmReplica(
                f"http://127.0.0.1:{server.server_port}", "t", in_flight_seconds=0, publish_seconds=seconds
            )
            for end in (thread.join, server.shutdown, server.over.set, server.ready.set, replica.close):
                stack.callback(end)
            return server, replica

        yield served


def test_a_process_that_hangs_is_taken_out_long_before_the_deadline(serve, tmp_path):
    _, hung = serve(None)
    good = StubServing()
    publisher = Publisher([hung, good], Store(tmp_path), fence=1)
    publisher.publish("v000001")
    assert good.published == ["v000001"]
    assert "did not stage" in publisher.out[hung.name]
    assert "health check" in publisher.out[hung.name]


def test_a_disk_or_an_engine_that_hangs_behind_a_good_health_check_is_taken_out_at_the_deadline(
    serve, tmp_path
):
    _, hung = serve(200, seconds=0.3)
    good = StubServing()
    publisher = Publisher([hung, good], Store(tmp_path), fence=1)
    publisher.publish("v000001")
    assert good.published == ["v000001"]
    assert "FACTD_PUBLISH_SECONDS" in publisher.out[hung.name]


def test_one_that_is_still_busy_with_what_was_given_up_on_is_taken_out(serve, tmp_path):
    server, busy = serve(200)
    server.refusal = {"code": "busy", "message": "an earlier version", "retryable": True}
    good = StubServing()
    publisher = Publisher([busy, good], Store(tmp_path), fence=1)
    publisher.publish("v000001")
    assert (good.published, list(publisher.out)) == (["v000001"], [busy.name])


def test_a_slow_disk_is_waited_for_and_a_missed_check_or_two_forgiven(serve, tmp_path):
    server, slow = serve(503, 503, 200, 503, 503, 200)

    def staged_at_last(checks: int) -> None:
        if checks == 8:
            server.ready.set()

    server.when_checked = staged_at_last
    publisher = Publisher([slow], Store(tmp_path), fence=1)
    assert publisher.publish("v000001").seconds == 0.1
    assert publisher.out == {}
    assert server.checks >= 8


def test_when_the_only_replica_hangs_the_publication_fails_and_says_why(serve, tmp_path):
    _, hung = serve(None)
    with pytest.raises(PublishError, match=r"no replica can be used.*did not stage"):
        Publisher([hung], Store(tmp_path), fence=1).publish("v000001")
