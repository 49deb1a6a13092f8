"""A broker that cuts connections, forgets, or gives a message twice, under a real Celery worker."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from celery import Celery
from redis import Redis

from daemon.core.messages import parse_correction
from daemon.ledger.audit import audit
from daemon.supervise.embedded import EmbeddedValkey
from tests.waiting import until

HERE = Path(__file__).parent
#: the apply task must not wait for the locked ledger in the place of the intake's
SELDOM = {"FACTD_RETRY_SECONDS": "3600"}
GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def valkey(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def producer(valkey):
    with Celery(broker=valkey.url, backend=valkey.url) as app:
        yield lambda id, **more: app.send_task(
            "factd.submit", [GOOD | more], queue="corrections", task_id=id, ignore_result=True
        )


@contextmanager
def worker(world, valkey, **more):
    environment = os.environ | {
        "FACTD_STATE_DIR": str(world.root),
        "FACTD_REDIS_URL": valkey.url,
        "FACTD_RETRY_SECONDS": "1",
    }
    argv = [sys.executable, str(HERE / "worker_on_fakes.py"), "--loglevel", "INFO", "--without-mingle"]
    said = world.root / f"worker-{time.monotonic_ns()}.log"
    with said.open("w") as log:
        process = subprocess.Popen(
            [*argv, "--without-gossip"], env=environment | more, stdout=log, stderr=log
        )
    try:
        # It has rung its own bell once and heard it.
        until(lambda: process.poll() is not None or "succeeded" in said.read_text())
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def in_mid_task(world, redis):
    """While the ledger is locked by somebody else, a task that was taken cannot end."""
    with closing(sqlite3.connect(world.root / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield lambda: until(lambda: redis.hlen("unacked") > 0 and not redis.llen("corrections"))
        other.execute("ROLLBACK")


def agreed(world):
    """A next applier finds nothing to do, and all in agreement."""
    world.now = time.time()
    world.open()
    assert world.run().versions == []
    world.check_agreement()


def arrivals(world, id):
    return [t.new for t in world.ledger.questions.transitions(id)].count("received")


def test_a_worker_killed_in_mid_task_and_a_cut_connection_record_once(world, valkey, producer):
    with Redis.from_url(valkey.url) as redis:
        with worker(world, valkey, **SELDOM) as first, in_mid_task(world, redis) as taken:
            producer("killed")
            taken()
            first.kill()
            first.wait()
        # The visibility timeout passes: not by waiting, the broker's note of the time is set back.
        for tag in redis.zrange("unacked_index", 0, -1):
            redis.zadd("unacked_index", {tag: time.time() - 10**6})
        with worker(world, valkey, **SELDOM):
            until(lambda: world.states().get("killed") == "live")
            # The apply task too has ended: it would wait for the locked ledger in the place of the intake's.
            until(lambda: not redis.hlen("unacked"))
            with in_mid_task(world, redis) as taken:
                producer("cut", subject="Spain")
                taken()
                redis.client_kill_filter(_type="normal", skipme=True)
            until(lambda: world.states().get("cut") == "live")
            producer("cut", subject="Spain")
            producer("last", subject="Italy")
            until(lambda: world.states().get("last") == "live")
    assert [arrivals(world, id) for id in ("killed", "cut", "last")] == [1, 1, 1]
    assert audit(world.ledger.database.engine).valid
    agreed(world)


def test_a_broker_that_lost_its_data_delays_nothing_that_was_recorded(world, valkey, producer):
    with worker(world, valkey):
        producer("before")
        until(lambda: world.states().get("before") == "live")
        with Redis.from_url(valkey.url) as redis:
            os.kill(redis.info("server")["process_id"], signal.SIGKILL)
        until(lambda: not valkey.running())
        # As through HTTP: recorded, and the doorbell cannot be rung.
        world.ledger.intake.submit(parse_correction(GOOD | {"subject": "Spain"}), "unheard")
        shutil.rmtree(valkey.directory / "appendonlydir")
        valkey.start()
        until(lambda: world.states().get("unheard") == "live")
        producer("after", subject="Italy")
        until(lambda: world.states().get("after") == "live")
    agreed(world)


@pytest.mark.parametrize("stage", ["staged", "flipped"])
def test_a_worker_told_to_stop_in_mid_publication_ends_in_time_with_the_job_done(
    world, valkey, producer, stage
):
    with worker(world, valkey, FACTD_TEST_LINGER=stage) as process:
        producer("one")
        until((world.root / "lingering").exists)
        process.terminate()
        process.wait(30)
    assert world.states() == {"one": "live"}
    agreed(world)
