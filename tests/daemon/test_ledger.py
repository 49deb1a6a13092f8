"""Repetitions, conflicts and refusals at the ledger's door."""

import pytest

from daemon.errors import ConflictError, TransitionError, UnknownIdError
from daemon.ledger import Ledger
from daemon.messages import parse_correction

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


def test_the_same_id_or_key_with_equal_content_is_the_same_correction(world):
    first = world.ledger.submit(parse_correction(GOOD | {"key": "k"}), "one")
    assert world.ledger.submit(parse_correction(GOOD | {"key": "k"}), "one") == first
    assert world.ledger.submit(parse_correction(GOOD | {"key": "k"}), "two") == first
    assert world.ledger.get("two").id == "one"
    assert len(world.ledger.corrections()) == 1


@pytest.mark.parametrize(("id", "field"), [("one", "id"), ("two", "key")])
def test_the_same_id_or_key_with_other_content_is_a_clear_error(world, id, field):
    world.ledger.submit(parse_correction(GOOD | {"key": "k"}), "one")
    with pytest.raises(ConflictError, match=f"{field} = .* was used before"):
        world.ledger.submit(parse_correction(GOOD | {"key": "k", "target": "Nice"}), id)


def test_many_are_recorded_all_or_none(world):
    posts = [(None, parse_correction(GOOD | {"key": "k"}))]
    posts.append((None, parse_correction(GOOD | {"key": "k", "target": "Nice"})))
    with pytest.raises(ConflictError):
        world.ledger.submit_many(posts)
    assert world.ledger.corrections() == []


def test_a_refused_message_ends_rejected_and_never_overwrites(world):
    world.ledger.refuse("bad", "target = 5: must be text")
    world.ledger.refuse("bad", "again")
    assert world.ledger.get("bad").reason == "target = 5: must be text"
    assert world.ledger.get("bad").state == "rejected"


def test_what_was_submitted_survives_a_reopening(world):
    world.ledger.submit(parse_correction(GOOD), "one")
    world.ledger.close()
    ledger = Ledger.open(world.settings.ledger_url)
    assert ledger.get("one").target == "Lyon"
    with ledger.engine.connect() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    ledger.close()


def test_operations_on_unknown_things_are_refused_at_once(world):
    with pytest.raises(UnknownIdError):
        world.ledger.request("retract", "nobody", actor="operator")
    with pytest.raises(UnknownIdError):
        world.ledger.request("rollback", "v000009", actor="operator")
    world.post("A", "B")
    with pytest.raises(TransitionError):
        world.ledger.retry_dead("id-A-B", actor="operator")
