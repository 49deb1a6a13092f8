"""A drafter beside an edited model is found by what its server counts, and the doctor warns of it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from typer.testing import CliRunner

from daemon.cli.main import app
from daemon.supervise.drafter import drafts


class Vllm(BaseHTTPRequestHandler):
    """Tells what vLLM 0.32 tells (v1/spec_decode/metrics.py), of the engines in `counted`."""

    counted: tuple[tuple[int, int], ...] = ()
    status = 200

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.told() if self.path == "/metrics" else b"")

    def told(self) -> bytes:
        registry = CollectorRegistry()
        labels = ["model_name", "engine"]
        Counter("vllm:generation_tokens", "x", labels, registry=registry).labels("m", "0").inc(50)
        if self.counted:
            names = ("drafts", "draft_tokens", "accepted_tokens", "accepted_tokens_per_pos")
            all_drafts, drafted, accepted, _ = (
                Counter(f"vllm:spec_decode_num_{name}", "x", labels, registry=registry) for name in names
            )
            for engine, (draft, good) in enumerate(self.counted):
                all_drafts.labels("m", str(engine)).inc(7)
                drafted.labels("m", str(engine)).inc(draft)
                accepted.labels("m", str(engine)).inc(good)
        return generate_latest(registry)

    def log_message(self, *_):
        pass


@pytest.fixture
def vllm(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(Vllm, "counted", ())
    monkeypatch.setattr(Vllm, "status", 200)
    with HTTPServer(("127.0.0.1", 0), Vllm) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_all_engines_drafted_is_added_up(vllm):
    Vllm.counted = ((3_000_000, 10), (20, 5))
    assert drafts(vllm, 3) == (3_000_020, 15)
    assert drafts(f"{vllm}/", 3) == (3_000_020, 15)


def test_a_server_that_drafts_nothing_or_tells_nothing_is_not_warned_of(vllm):
    assert drafts(vllm, 3) is None
    Vllm.counted, Vllm.status = ((20, 5),), 401
    assert drafts(vllm, 3) is None
    assert drafts("http://127.0.0.1:9", 3) is None


def test_the_doctor_warns_of_a_drafter_and_does_not_fail_for_it(vllm, tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FACTD_REPLICAS", f"{vllm},http://127.0.0.1:9")

    def found():
        done = CliRunner().invoke(app, ["doctor", "--json"])
        checks = json.loads(done.stdout)["checks"]
        return done.exit_code, [check for check in checks if check["name"].startswith("drafter")]

    code, checks = found()
    assert checks == []
    Vllm.counted = ((20, 5),)
    after, (check,) = found()
    assert after == code
    assert (check["name"], check["ok"], check["needed"]) == ("drafter of vLLM 0", False, False)
    assert "5 of 20 drafted tokens were accepted" in check["found"]
    assert "--speculative-config" in check["mend"]
