"""The API as a real server, `factd api` under uvicorn, asked over a real connection."""

import os
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
