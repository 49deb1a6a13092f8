"""The real queue: a producer that knows only Celery, a real broker, a real intake worker process."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from daemon.core.lifecycle import State
from daemon.intake.stream import STREAM
from daemon.ledger.ledger import Ledger
from daemon.ledger.record.transitions import Transitions
from daemon.supervise.embedded import EmbeddedValkey
from tests.waiting import until

ROOT = Path(__file__).parents[3]
GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def broker(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey.url


@pytest.fixture
def worker(broker, tmp_path):
    environment = os.environ | {
        "FACTD_STATE_DIR": str(tmp_path),
        "FACTD_REDIS_URL": broker,
        "FACTD_MAX_PENDING": "3",
    }
    command = [sys.executable, "-m", "celery", "-A", "daemon.app:celery", "worker"]
    command += ["-Q", "corrections", "-P", "solo", "--loglevel", "INFO"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    yield process
    process.terminate()
    process.wait(30)


def test_a_foreign_producer_posts_and_a_bad_message_is_refused(broker, worker, tmp_path):
    app = Celery(broker=broker, backend=broker)
    id = str(uuid.uuid4())
    posted = app.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert posted.get(timeout=60) == id
    again = app.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert again.get(timeout=60) == id
    bad = app.send_task("factd.submit", [GOOD | {"prompt": "no slot"}], queue="corrections")
    with pytest.raises(Exception, match=r"prompt = 'no slot': .*exactly one"):
        bad.get(timeout=60)
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    assert {row.id: row.state.value for row in ledger.questions.corrections()} == {
        id: "validated",
        bad.id: "rejected",
    }
    ledger.close()
    app.close()


def test_the_worker_reads_the_stream_and_leaves_messages_in_the_broker_while_the_ledger_is_full(
    broker, worker, tmp_path
):
    app = Celery(broker=broker, backend=broker)
    redis, ledger = Redis.from_url(broker), Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    entry = redis.xadd(STREAM, {"correction": json.dumps(GOOD)}).decode()
    until(lambda: [row.id for row in ledger.questions.corrections()] == [f"stream-{entry}"])
    ids = [
        app.send_task("factd.submit", [GOOD | {"subject": f"S{i}"}], queue="corrections").id for i in range(6)
    ]
    until(lambda: ledger.questions.pending_count() >= 3)
    time.sleep(1.5)  # more than a count
    waiting = ledger.questions.pending_count()
    assert 3 <= waiting <= 4  # one may have been in hand
    assert redis.llen("corrections") + redis.hlen("unacked") == 7 - waiting
    redis.xadd(STREAM, {"correction": json.dumps(GOOD | {"subject": "late"})})
    present = [row.id for row in ledger.questions.corrections()]
    with ledger.database.writing() as c:
        Transitions(ledger.database.clock).advance(c, present, State.REJECTED, "test")
    until(lambda: "late" in {row.subject for row in ledger.questions.corrections()})
    until(lambda: len(ledger.questions.corrections()) >= 6)
    order = [row.id for row in ledger.questions.corrections() if row.id in ids]
    assert order == ids[: len(order)]
    ledger.close()
    redis.close()
    app.close()


def test_the_intake_side_does_not_import_torch():
    code = "import sys, daemon.tasks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
