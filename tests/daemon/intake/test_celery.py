"""The real queue: a producer that knows only Celery, a real broker, a real intake worker process."""

import base64
import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from daemon.core.lifecycle import State
from daemon.intake.stream import STREAM
from daemon.ledger.ledger import Ledger
from daemon.ledger.record.transitions import Transitions
from daemon.supervise.embedded import EmbeddedValkey
from tests.programs import running
from tests.waiting import until

ROOT = Path(__file__).parents[3]
#: A worker starts in seven seconds on two quiet cores. On busy ones it took more than a minute.
PATIENCE_SECONDS = 180.0
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
    with _worker(environment):
        yield


@pytest.fixture
def producer(broker):
    """A program that knows Celery and nothing of factd."""
    with closing(Celery(broker=broker, backend=broker)) as app:
        yield app


@pytest.fixture
def ledger(tmp_path):
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")) as opened:
        yield opened


@pytest.fixture
def redis(broker):
    with Redis.from_url(broker) as client:
        yield client


@contextmanager
def _worker(environment):
    command = [sys.executable, "-m", "celery", "-A", "daemon.app:celery", "worker"]
    command += ["-Q", "corrections", "-P", "solo", "--loglevel", "INFO"]
    with running(command, Path(environment["FACTD_STATE_DIR"]) / "worker.log", env=environment, cwd=ROOT):
        yield


def test_a_foreign_producer_posts_and_a_bad_message_is_refused(producer, ledger, worker):
    id = str(uuid.uuid4())
    posted = producer.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert posted.get(timeout=PATIENCE_SECONDS) == id
    again = producer.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert again.get(timeout=PATIENCE_SECONDS) == id
    bad = producer.send_task("factd.submit", [GOOD | {"prompt": "no slot"}], queue="corrections")
    with pytest.raises(Exception, match=r"prompt = 'no slot': .*exactly one"):
        bad.get(timeout=PATIENCE_SECONDS)
    assert {row.id: row.state.value for row in ledger.questions.corrections()} == {
        id: "validated",
        bad.id: "rejected",
    }


#: (args, kwargs) → what the refusal names
WRONG = {
    "no argument": ([], {}, "0 arguments"),
    "two arguments": ([GOOD, GOOD], {}, "2 arguments"),
    "the fields": ([], GOOD, "0 arguments and prompt, subject, target"),
    "another name": ([], {"corection": GOOD}, "corection"),
    "too many": ([], {"correction": GOOD, "priority": 1}, "priority"),
    "both": ([GOOD], {"correction": GOOD}, "1 arguments and correction"),
    "text": ([json.dumps(GOOD)], {}, "send a JSON object"),
    "a field": ([GOOD | {"promt": "x"}], {}, "promt"),
    "a hidden character": ([GOOD | {"subject": "A\u202eB"}], {}, "U+202E"),
    "self": ([GOOD], {"self": 1}, "self"),
}
#: Messages that no Celery producer sends: (content type, headers, body, what the refusal names).
FOREIGN = {
    "pickle": ("application/x-python-serialize", {"task": "factd.submit"}, "gASVAA==", "pickle"),
    "no json": ("application/json", {"task": "factd.submit"}, "{", "Expecting"),
    "no arguments": ("application/json", {"task": "factd.submit"}, "[1]", "unpack"),
    "no list": ("application/json", {"task": "factd.submit"}, "[5, 5, {}]", "mapping"),
    "no id": ("application/json", {"task": "factd.submit", "id": None}, "[[1], {}, {}]", "task_id"),
    "no task": ("application/json", {"lang": "py"}, "{}", "is no Celery task"),
    "another task": ("application/json", {"task": "factd.sumbit"}, "[[], {}, {}]", "factd.sumbit"),
}


def _push(redis: Redis, id: str, content_type: str, headers: dict, body: str) -> None:
    properties = {"correlation_id": id, "delivery_mode": 2, "priority": 0, "delivery_tag": id}
    properties |= {"delivery_info": {"exchange": "", "routing_key": "corrections"}, "body_encoding": "base64"}
    letter = {"body": base64.b64encode(body.encode()).decode(), "content-encoding": "utf-8"}
    letter |= {"content-type": content_type, "headers": {"id": id} | headers, "properties": properties}
    redis.lpush("corrections", json.dumps(letter))


def test_no_message_vanishes(broker, producer, redis, ledger, tmp_path):
    state = {"FACTD_STATE_DIR": str(tmp_path), "FACTD_REDIS_URL": broker}
    told = {}
    for name, (arguments, named, what) in WRONG.items():
        told[producer.send_task("factd.submit", arguments, named, queue="corrections").id] = name, what
    for name, (content_type, headers, body, what) in FOREIGN.items():
        _push(redis, name, content_type, headers, body)
        told[name] = name, what
    late = producer.send_task("factd.submit", [GOOD], queue="corrections", expires=-5)
    told[late.id] = "late", "expired"
    send = partial(producer.send_task, "factd.submit", queue="corrections")
    good = send(kwargs={"correction": GOOD}, task_id="a/b?c#d %2F")
    long = send([GOOD | {"subject": "long"}], task_id="x" * 300)
    longer = send([GOOD | {"subject": "longer"}], task_id="x" * 301)
    with _worker(os.environ | state):
        assert good.get(timeout=PATIENCE_SECONDS) == good.id
        assert len({long.get(timeout=PATIENCE_SECONDS), longer.get(timeout=PATIENCE_SECONDS)}) == 2
        until(lambda: len(ledger.questions.corrections()) == len(told) + 3)
    for id, (name, what) in told.items():
        row = ledger.questions.get(id)
        assert (row.state, name) == (State.REJECTED, name)
        assert what in row.reason, name
    assert ledger.questions.get(long.id).subject == "long"
    assert ledger.questions.get(longer.id).subject == "longer"


def test_the_worker_reads_the_stream_and_leaves_messages_in_the_broker_while_the_ledger_is_full(
    producer, redis, ledger, worker
):
    entry = redis.xadd(STREAM, {"correction": json.dumps(GOOD)}).decode()
    until(lambda: [row.id for row in ledger.questions.corrections()] == [f"stream-{entry}"])
    ids = [
        producer.send_task("factd.submit", [GOOD | {"subject": f"S{i}"}], queue="corrections").id
        for i in range(6)
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


def test_the_intake_side_does_not_import_torch():
    code = "import sys, daemon.tasks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
