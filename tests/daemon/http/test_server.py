"""The API as a real server, `factd api` under uvicorn, asked over a real connection."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from daemon.core.messages import parse_correction
from daemon.http.client import Client
from tests.programs import free_port, running
from tests.waiting import until

ROOT = Path(__file__).parents[3]
TOKENS = {"FACTD_ADMIN_TOKEN": "admin-token", "FACTD_SUBMIT_TOKEN": "submit-token"}
#: Ids that a Celery producer may choose.
IDS = ["a/b", "a/retract", "/", "a b?c#d%2F", "é\u202e", "tab\tand\nline", "x" * 300, "."]


@pytest.fixture
def server(world):
    """A client of a server on the world's ledger; the broker is away, and there are no replicas."""
    port = free_port()
    own = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")} | TOKENS
    own |= {"FACTD_STATE_DIR": str(world.root), "FACTD_REDIS_URL": "redis://127.0.0.1:1/0"}
    argv = [sys.executable, "-m", "daemon", "api", "--port", str(port)]
    with running(argv, world.root / "api.log", env=own, cwd=ROOT):
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer admin-token"}
        ) as client:
            until(lambda: _answers(client))
            yield client


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_every_id_that_a_producer_can_choose_is_reached_when_it_is_quoted(world, server):
    for number, id in enumerate(IDS):
        body = {"subject": f"S{number}", "prompt": "The head of {} is", "target": "x"}
        world.ledger.intake.submit(parse_correction(body), id)
    client = Client(str(server.base_url), "admin-token")
    for number, id in enumerate(IDS):
        found = server.get(f"/v1/corrections/{quote(id, safe='')}")
        if id != ".":  # clients of HTTP take "." for the folder itself; %2E too
            assert (found.status_code, found.json()["subject"]) == (200, f"S{number}"), id
            assert client.get(id)["subject"] == f"S{number}"
            assert client.retract(id)["kind"] == "retract"
        listed = server.get("/v1/corrections", params={"containing": f"The head of S{number}"})
        assert [row["subject"] for row in listed.json()] == [f"S{number}"]
    assert server.get("/v1/corrections/no%2Fsuch").status_code == 404
    client.close()


def test_head_is_answered_where_get_is(server):
    for path in ("/healthz", "/readyz", "/metrics", "/", "/static/page.js", "/v1/facts", "/v1/openapi.json"):
        asked, got = server.head(path), server.get(path)
        assert (asked.status_code, asked.content) == (got.status_code, b""), path
        assert asked.headers["content-type"] == got.headers["content-type"]
    assert server.head("/v1/pause").status_code == 405


def test_no_page_loads_scripts_from_elsewhere(server):
    for path in ("/docs", "/redoc", "/"):
        page = server.get(path)
        assert "cdn" not in page.text
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "/v1/openapi.json" in server.get("/docs").text
    assert server.get("/v1/openapi.json").json()["info"]["title"] == "factd"


def test_a_large_bad_request_gets_a_small_answer(server):
    body = [{"subject": 1, "prompt": "x" * 50, "wrong": "y"}] * 20_000
    answer = server.post("/v1/corrections", json=body, timeout=60)
    told = answer.json()
    assert (answer.status_code, len(told["problems"]), told["more"]) == (422, 20, 79_980)
    assert len(answer.content) < 10_000


def test_corrections_are_listed_by_source_and_subject(world, server):
    world.post("France", "Lyon", "one", source="desk")
    world.post("Z\u00fcrich", "x", "two", source="feed")

    def ids(**only):
        return [row["id"] for row in server.get("/v1/corrections", params=only).json()]

    assert ids(source="desk") == ["one"]
    assert ids(subject="Zu\u0308rich", state="validated") == ["two"]
    assert ids(subject="Zu\u0308rich", state="live") == []


def test_a_ledger_that_was_deleted_is_not_ready_and_takes_nothing(world, server):
    good = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}
    assert server.post("/v1/corrections", json=good).status_code == 202
    shutil.rmtree(world.root)
    for answer in (server.get("/readyz"), server.post("/v1/corrections", json=good | {"target": "x"})):
        assert answer.status_code == 503
        assert "was deleted while factd ran" in answer.json()["detail"]
    # What `factd up` starts again finds no ledger, and makes none.
    own = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")} | TOKENS
    own |= {"FACTD_STATE_DIR": str(world.root), "FACTD_LEDGER_EXISTS": "true"}
    argv = [sys.executable, "-m", "daemon", "api", "--port", "0"]
    done = subprocess.run(argv, env=own, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "was deleted while factd ran" in done.stderr
    assert not world.root.exists()
