"""A stream is followed over cut connections and crashes: nothing is lost, and nothing comes twice."""

import importlib.util
import json
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest

from daemon.core.errors import ClientError, SettingsError
from daemon.intake.feeds.following import Follower, plain_corrections, refuse_in
from daemon.intake.feeds.position import Position
from daemon.intake.feeds.taking import Taker
from daemon.intake.intake import Room

_spec = importlib.util.spec_from_file_location("event_server", Path(__file__).parent / "event_server.py")
event_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(event_server)
serving = event_server.serving

CUTS, EVENTS = 100, 800


def body(n):
    """Slots are posted again and again: an event that came twice or too late would be seen."""
    return {"subject": f"S{n % 5}", "prompt": "The owner of {} is", "target": f"T{n}"}


@pytest.fixture
def follower(world):
    """A function: a follower of an address, as a process that has just started has it."""
    clients = []

    def make(url, room=100_000, **more):
        clients.append(httpx.Client(timeout=20.0))
        return Follower(
            url=url,
            client=clients[-1],
            taker=Taker(
                world.ledger, Room(world.ledger, room), "follow", refused=partial(refuse_in, world.ledger)
            ),
            position=Position.of(world.root, url),
            mapping=plain_corrections,
            ring=lambda: None,
            stopping=threading.Event(),
            say=lambda text: None,
            first_seconds=0.001,
            **more,
        )

    yield make
    for client in clients:
        client.close()


def targets(world):
    return [row.target for row in world.ledger.questions.corrections()]


def test_a_hundred_cuts_lose_nothing_and_bring_nothing_twice(world, follower):
    with serving([body(n) for n in range(EVENTS)], CUTS) as server:
        followed = follower(server.url).run()
        assert server.cuts == 0
        assert len(server.asked) == CUTS + 2
    assert targets(world) == [f"T{n}" for n in range(EVENTS)]
    assert (followed.events, followed.report.counts["taken"]) == (EVENTS, EVENTS)
    assert followed.connections == CUTS + 1


class Died(BaseException):
    """A kill -9 between the ledger and the position."""


def test_a_process_that_dies_before_it_has_kept_its_position_reads_again_and_posts_once(
    world, follower, monkeypatch
):
    saved = []

    def save(position, last, really=Position.save):
        saved.append(last)
        if len(saved) % 3 == 0:
            raise Died
        really(position, last)

    monkeypatch.setattr(Position, "save", save)
    deaths = known = 0
    with serving([body(n) for n in range(200)], 20) as server:
        while True:
            one = follower(server.url)
            try:
                one.run()
                break
            except Died:
                deaths += 1
            finally:
                known += one.followed.report.counts["known"]
    assert deaths > 5
    assert known > 0
    assert targets(world) == [f"T{n}" for n in range(200)]


def test_another_process_goes_on_where_the_last_one_ended(world, follower):
    with serving([body(n) for n in range(10)]) as server:
        assert follower(server.url, most=4).run().events == 4
        assert follower(server.url).run().events == 6
        assert server.asked[:2] == ["", "3"]
    assert targets(world) == [f"T{n}" for n in range(10)]


def test_a_server_that_is_away_is_asked_again_and_one_that_refuses_is_not(world, follower):
    with serving([body(0)], refuse=[503, 429, 500]) as server:
        assert follower(server.url).run().events == 1
        assert len(server.asked) == 5
    with serving([body(0)], refuse=[401]) as server, pytest.raises(ClientError, match="401"):
        follower(server.url).run()


def test_an_event_that_is_no_correction_ends_rejected_with_its_reason(world, follower):
    bodies = [body(0), {"subject": "A"}, body(1) | {"change": "obsolete"}, body(2)]
    with serving(bodies) as server:
        followed = follower(server.url).run()
    assert (followed.report.counts["taken"], followed.report.counts["refused"]) == (2, 2)
    rows = world.ledger.questions.corrections()
    assert sorted(row.state for row in rows) == ["rejected", "rejected", "validated", "validated"]
    reasons = [row.reason for row in rows if row.state == "rejected"]
    assert any("prompt = (nothing): is missing" in reason for reason in reasons)
    assert any("nothing to take out" in reason for reason in reasons)


def test_while_the_queue_is_full_the_server_keeps_what_comes(world, follower):
    with serving([body(n) for n in range(6)]) as server:
        one = follower(server.url, room=2)
        said = []

        def say(text):
            said.append(text)
            if "queue is full" in text:
                one.stopping.set()

        one.say = say
        one.run()
    assert any("queue is full" in text for text in said)
    assert len(targets(world)) <= 2
    assert Position.of(world.root, server.url).load() in ("", "0", "1")


def test_a_damaged_position_is_told_and_not_guessed(world, follower):
    position = Position.of(world.root, "http://127.0.0.1:1/x")
    assert position.load() == ""
    position.save("a\u00fc 7")
    assert position.load() == "a\u00fc 7"
    assert json.loads(position.file.read_text())["url"] == position.url
    position.file.write_text("{}")
    with pytest.raises(SettingsError, match="remove it to follow"):
        follower("http://127.0.0.1:1/x").run()
