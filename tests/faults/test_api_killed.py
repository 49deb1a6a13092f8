"""`kill -9` of the real HTTP API in the middle of a post of many."""

import time

import httpx
import pytest

from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from tests.faults import processes
from tests.programs import free_port

MANY = 500
HEADERS = {"Authorization": "Bearer secret", "Idempotency-Key": "all-of-them"}
BODY = [
    {"subject": f"S{number}", "prompt": "The capital of {} is", "target": "Rome"} for number in range(MANY)
]


def post(port):
    until = time.monotonic() + 120
    while True:
        try:
            return httpx.post(
                f"http://127.0.0.1:{port}/v1/corrections", json=BODY, headers=HEADERS, timeout=60
            )
        except httpx.ConnectError:
            assert time.monotonic() < until, "the API does not come up"
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("moment", "recorded"),
    [("in the transaction", 0), ("before the commit", 0), ("before the answer", MANY)],
)
def test_a_post_of_many_is_recorded_whole_or_not_at_all(tmp_path, moment, recorded):
    ledger, port = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}"), free_port()
    with processes.process(processes.api, tmp_path, port, moment), pytest.raises(httpx.TransportError):
        post(port)
    assert ledger.questions.pending_count() == recorded
    assert audit(ledger.database.engine).valid
    port = free_port()
    with processes.process(processes.api, tmp_path, port, "never"):
        answer = post(port)
        assert answer.status_code == 202
        assert post(port).json() == answer.json()
    assert [row.id for row in ledger.questions.corrections()] == answer.json()["ids"]
    assert ledger.questions.pending_count() == MANY
    ledger.close()
