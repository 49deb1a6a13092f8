"""The Redis Stream on a real Valkey and a real ledger."""

import json
import threading

import pytest
from redis import Redis
from redis.exceptions import RedisError

from daemon.core.errors import SettingsError
from daemon.core.messages import parse_correction
from daemon.intake.intake import Room
from daemon.intake.stream import CONSUMER, FIELD, GROUP, STREAM, StreamReader, append
from daemon.ledger.ledger import Ledger
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import free_port

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server.url


@pytest.fixture
def redis(valkey):
    with Redis.from_url(valkey) as client:
        client.flushall()
        yield client


@pytest.fixture
def ledger(tmp_path):
    made = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    yield made
    made.close()


class Reading:
    """A reader in a thread; `until` waits for what it does."""

    def __init__(self, redis, ledger, most=1000):
        self.rings, self.stopping = [], threading.Event()
        self.reader = StreamReader(redis, ledger, Room(ledger, most), lambda: self.rings.append(1))
        self.thread = threading.Thread(target=self.reader.run, args=(self.stopping,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(10)
        assert not self.thread.is_alive()

    def until(self, condition, seconds=10.0):
        waited = threading.Event()
        for _ in range(int(seconds / 0.02)):
            if condition():
                return
            waited.wait(0.02)
        raise AssertionError("it did not happen in time")


def add(redis, content, **more) -> str:
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    return f"stream-{redis.xadd(STREAM, {FIELD: text} | more).decode()}"


def states(ledger):
    return {row.id: row.state.value for row in ledger.questions.corrections()}


def test_entries_are_recorded_in_order_acknowledged_and_removed(redis, ledger):
    ids = [add(redis, GOOD | {"subject": f"S{i}"}) for i in range(250)]
    with Reading(redis, ledger) as reading:
        reading.until(lambda: redis.xlen(STREAM) == 0)
        assert [row.id for row in ledger.questions.corrections()] == ids
        assert reading.rings
        late = add(redis, GOOD)
        reading.until(lambda: late in states(ledger))
    assert redis.xpending(STREAM, GROUP)["pending"] == 0
    assert {t.actor for t in ledger.questions.transitions()} == {"stream"}


def test_bad_entries_are_recorded_with_the_reason_and_hold_nobody_up(redis, ledger):
    bad = [
        add(redis, "{"),
        add(redis, b"\xff\xfe"),
        add(redis, "[" * 100_000),
        add(redis, GOOD | {"prompt": "no slot"}),
        add(redis, GOOD, colour="red"),
        f"stream-{redis.xadd(STREAM, {'subject': 'France'}).decode()}",
    ]
    good = add(redis, GOOD | {"key": "k"})
    clash = add(redis, GOOD | {"key": "k", "target": "Nice"})
    again = add(redis, GOOD | {"key": "k"})
    with Reading(redis, ledger) as reading:
        reading.until(lambda: redis.xlen(STREAM) == 0)
    assert states(ledger) == dict.fromkeys([*bad, clash], "rejected") | {good: "validated"}
    assert ledger.questions.get(again).id == good
    assert all(row.reason for row in ledger.questions.corrections() if row.id != good)


def test_entries_of_a_dead_reader_come_first_and_once(redis, ledger):
    ids = [add(redis, GOOD | {"subject": f"S{i}"}) for i in range(4)]
    redis.xgroup_create(STREAM, GROUP, id="0")
    redis.xreadgroup(GROUP, "another", {STREAM: ">"}, count=2)
    redis.xreadgroup(GROUP, CONSUMER, {STREAM: ">"}, count=1)
    # The first had got as far as the ledger.
    from daemon.core.messages import parse_correction

    ledger.intake.submit(parse_correction(GOOD | {"subject": "S0"}), ids[0])
    with Reading(redis, ledger) as reading:
        reading.until(lambda: redis.xlen(STREAM) == 0)
    assert [row.id for row in ledger.questions.corrections()] == ids
    assert redis.xpending(STREAM, GROUP)["pending"] == 0


def test_a_lost_group_is_made_again_and_a_lost_stream_too(redis, ledger):
    with Reading(redis, ledger) as reading:
        first = add(redis, GOOD)
        reading.until(lambda: first in states(ledger))
        redis.xgroup_destroy(STREAM, GROUP)
        second = add(redis, GOOD | {"subject": "S2"})
        reading.until(lambda: second in states(ledger))
        redis.flushall()
        third = add(redis, GOOD | {"subject": "S3"})
        reading.until(lambda: third in states(ledger))
    assert len(states(ledger)) == 3


def test_a_full_ledger_leaves_entries_in_the_stream(redis, ledger):
    with Reading(redis, ledger, most=1) as reading:
        first = add(redis, GOOD)
        reading.until(lambda: first in states(ledger))
        add(redis, GOOD | {"subject": "S2"})
        add(redis, GOOD | {"subject": "S3"})
        reading.stopping.wait(1.5)
        assert list(states(ledger)) == [first]
        assert redis.xlen(STREAM) == 2


def test_one_reader_reads_and_another_stands_by(redis, ledger, tmp_path):
    other = Ledger.open(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with Reading(redis, ledger) as first:
        one = add(redis, GOOD)
        first.until(lambda: one in states(ledger))
        with Reading(redis, other) as second:
            two = add(redis, GOOD | {"subject": "S2"})
            first.until(lambda: two in states(ledger))
            assert states(other) == {}
            first.stopping.set()
            first.thread.join(10)
            three = add(redis, GOOD | {"subject": "S3"})
            second.until(lambda: three in states(other))
    other.close()


def test_a_ledger_that_cannot_be_written_loses_nothing(redis, ledger, monkeypatch):
    from sqlalchemy.exc import OperationalError

    original, failures = ledger.intake.submit_many, [1]

    def sometimes(posts, **more):
        if failures:
            failures.pop()
            raise OperationalError("insert", {}, Exception("disk full"))
        return original(posts, **more)

    monkeypatch.setattr(ledger.intake, "submit_many", sometimes)
    id = add(redis, GOOD)
    with Reading(redis, ledger) as reading:
        reading.until(lambda: redis.xlen(STREAM) == 0)
    assert states(ledger) == {id: "validated"}
    assert failures == []


def test_entries_are_added_all_or_none_under_the_ids_that_the_ledger_will_show(valkey, redis, ledger):
    posts = [parse_correction(GOOD | {"subject": f"S{i}", "key": f"k{i}"}) for i in range(3)]
    ids = append(valkey, posts)
    again = append(valkey, posts)
    with Reading(redis, ledger) as reading:
        reading.until(lambda: redis.xlen(STREAM) == 0 and len(ledger.questions.corrections()) == 3)
    assert [row.id for row in ledger.questions.corrections()] == ids
    assert [ledger.questions.get(id).id for id in again] == ids
    with pytest.raises(RedisError):
        append(f"redis://127.0.0.1:{free_port()}/0", posts)
    with pytest.raises(SettingsError, match="FACTD_REDIS_URL"):
        append("nowhere", posts)
