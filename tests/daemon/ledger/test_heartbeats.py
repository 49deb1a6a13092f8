"""Signs of life of workers, and that one which stops says so."""

import sqlite3

from sqlalchemy.exc import OperationalError

from daemon.app import KINDS
from daemon.ledger import heartbeats
from daemon.ledger.heartbeats import ALIVE_SECONDS, WORKERS, Heartbeat
from monitoring import metrics
from tests.waiting import until


def workers(world):
    return world.ledger.questions.status().workers


def test_a_worker_lives_as_long_as_it_gives_signs(world):
    assert [(sign.alive, sign.seen_at) for sign in workers(world).values()] == [(False, None)] * 2
    Heartbeat(world.ledger.database, ["apply"]).beat()
    assert workers(world)["apply"].alive
    assert not workers(world)["intake"].alive
    world.now += ALIVE_SECONDS + 1
    assert not workers(world)["apply"].alive
    assert workers(world)["apply"].seen_at == world.now - ALIVE_SECONDS - 1


def test_the_thread_gives_signs_and_says_when_it_stops(world, monkeypatch):
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.01)
    beating = Heartbeat(world.ledger.database, WORKERS)
    beating.start()
    until(lambda: workers(world)["intake"].alive)
    world.now += 100
    until(lambda: workers(world)["apply"].seen_at == world.now)
    beating.stop()
    assert workers(world)["apply"] == workers(world)["intake"]
    assert not workers(world)["apply"].alive


def test_one_that_stops_leaves_the_sign_of_another(world):
    first, second = (Heartbeat(world.ledger.database, ["intake"]) for _ in range(2))
    first.beat()
    second.name = "another host:1"
    second.beat()
    first.stop()
    assert workers(world)["intake"].alive


def test_a_ledger_that_cannot_be_written_ends_no_worker(world, monkeypatch, caplog):
    def broken():
        raise OperationalError("BEGIN", {}, sqlite3.OperationalError("disk I/O error"))

    beating = Heartbeat(world.ledger.database, ["apply"])
    monkeypatch.setattr(world.ledger.database, "writing", broken)
    beating.beat()
    beating.stop()
    assert "disk I/O error" in caplog.text


def test_the_kinds_are_the_same_everywhere():
    assert metrics.WORKERS == WORKERS == tuple(KINDS.values())
