"""Repetitions, conflicts and refusals at the ledger's door."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select

from daemon.core.errors import ConflictError, SettingsError, TransitionError, UnknownIdError
from daemon.core.messages import MAX_PROMPT, parse_correction
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from daemon.ledger.reading import CHUNK
from daemon.ledger.tables import corrections

GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def database_url(either_database):
    return either_database


def test_the_same_id_or_key_with_equal_content_is_the_same_correction(world):
    first = world.ledger.intake.submit(parse_correction(GOOD | {"key": "k"}), "one")
    assert world.ledger.intake.submit(parse_correction(GOOD | {"key": "k"}), "one") == first
    assert world.ledger.intake.submit(parse_correction(GOOD | {"key": "k"}), "two") == first
    assert world.ledger.questions.get("two").id == "one"
    assert len(world.ledger.questions.corrections()) == 1


@pytest.mark.parametrize(("id", "field"), [("one", "id"), ("two", "key")])
def test_the_same_id_or_key_with_other_content_is_a_clear_error(world, id, field):
    world.ledger.intake.submit(parse_correction(GOOD | {"key": "k"}), "one")
    with pytest.raises(ConflictError, match=f"{field} = .* was used before"):
        world.ledger.intake.submit(parse_correction(GOOD | {"key": "k", "target": "Nice"}), id)


def test_many_are_recorded_all_or_none(world):
    posts = [(None, parse_correction(GOOD | {"key": "k"}))]
    posts.append((None, parse_correction(GOOD | {"key": "k", "target": "Nice"})))
    with pytest.raises(ConflictError):
        world.ledger.intake.submit_many(posts)
    assert world.ledger.questions.corrections() == []


def test_a_refused_message_ends_rejected_and_never_overwrites(world):
    world.ledger.intake.refuse("bad", "target = 5: must be text")
    world.ledger.intake.refuse("bad", "again")
    assert world.ledger.questions.get("bad").reason == "target = 5: must be text"
    assert world.ledger.questions.get("bad").state == "rejected"


def test_what_was_submitted_survives_a_reopening(world):
    world.ledger.intake.submit(parse_correction(GOOD), "one")
    world.ledger.close()
    ledger = Ledger.open(world.settings.ledger_url)
    assert ledger.questions.get("one").target == "Lyon"
    ledger.close()


def test_sqlite_is_set_to_lose_nothing_and_to_let_readers_in(tmp_path):
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    with ledger.database.engine.connect() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    ledger.close()


def test_operations_on_unknown_things_are_refused_at_once(world):
    with pytest.raises(UnknownIdError):
        world.ledger.intake.request("retract", "nobody", actor="operator")
    with pytest.raises(UnknownIdError):
        world.ledger.intake.request("rollback", "v000009", actor="operator")
    world.post("A", "B")
    with pytest.raises(TransitionError):
        world.ledger.intake.decide_dead("retry", ["id-A-B"], actor="operator")


def post(number, **more):
    return parse_correction(GOOD | {"subject": f"Place {number}"} | more)


def test_repetitions_within_one_bulk_post_are_one_correction(world):
    posts = [
        ("a", post(1)),
        ("b", post(2, key="k")),
        ("a", post(1)),
        ("c", post(2, key="k")),
        (None, post(3)),
    ]
    ids = world.ledger.intake.submit_many(posts)
    assert ids[:4] == ["a", "b", "a", "b"]
    assert [row.id for row in world.ledger.questions.corrections()] == ["a", "b", ids[4]]
    assert world.ledger.questions.get("c").id == "b"
    assert world.ledger.intake.submit_many(posts[:4]) == ids[:4]
    assert len(world.ledger.questions.transitions()) == 6


def test_more_posts_than_a_list_of_parameters_may_have(world):
    posts = [(f"id-{n}", post(n, key=f"k-{n}")) for n in range(2 * CHUNK + 1)]
    ids = world.ledger.intake.submit_many(posts)
    assert world.ledger.intake.submit_many(posts) == ids
    assert [row.id for row in world.ledger.questions.corrections()] == ids
    assert audit(world.ledger.database.engine).valid


def test_the_longest_prompt_of_any_script_is_taken(world):
    # Incompressible: an index of PostgreSQL refuses rows of more than 2704 bytes.
    words = "".join(chr(random.Random(n).randrange(0x4E00, 0x9FFF)) for n in range(MAX_PROMPT - 2))
    id = world.ledger.intake.submit(parse_correction(GOOD | {"prompt": words + "{}"}))
    assert world.ledger.questions.get(id).prompt == words + "{}"


def test_a_character_that_a_database_cannot_hold_loses_no_row(world):
    world.ledger.intake.refuse("bad\x00\ud800", "value = '\x00\udfff'")
    row = world.ledger.questions.get("bad\x00\ud800")
    assert (row.id, row.reason) == ("bad\ufffd\ufffd", "value = '\ufffd\ufffd'")
    assert audit(world.ledger.database.engine).valid
    with pytest.raises(UnknownIdError):
        world.ledger.questions.version("v\x00")


def test_producers_at_the_same_time_make_one_row_a_key_and_one_chain(world):
    def produce(_):
        return [world.ledger.intake.submit(post(n, key=f"k-{n}")) for n in range(8)]

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(produce, range(4))
    assert others == [first] * 3
    assert sorted(row.id for row in world.ledger.questions.corrections()) == sorted(first)
    assert audit(world.ledger.database.engine).rows == 16
    assert audit(world.ledger.database.engine).valid


def test_a_reader_sees_one_state_however_long_it_reads(world):
    count = select(func.count()).select_from(corrections)
    with world.ledger.database.engine.connect() as c:
        assert c.scalar(count) == 0
        world.post("A", "B")
        assert c.scalar(count) == 0
    assert len(world.ledger.questions.corrections()) == 1


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite://", "names no file"),
        ("mysql://host/ledger", "names mysql"),
        ("nonsense", "no database URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_a_clear_error(url, named):
    with pytest.raises(SettingsError, match=named):
        Ledger.open(url)


def test_a_rollback_writes_its_transitions_in_order_of_addition(world):
    """A set would give the order of the hash seed, and the same history another hash chain each time."""
    posted = [f"S{i}" for i in range(12)]
    for subject in posted:
        world.post(subject, "fine", id=f"id-{subject}")
    world.run()
    told = []
    for target in ("v000000", "v000001"):
        world.ledger.intake.request("rollback", target, actor="operator")
        world.run()
        told.append(
            [t for t in world.ledger.questions.transitions(kind="correction") if target in (t.reason or "")]
        )
    left, again = ([(t.id, t.new) for t in each] for each in told)
    assert left == [(f"id-{subject}", "rolled_back") for subject in posted]
    assert again == [(f"id-{subject}", "live") for subject in posted]


def test_a_batch_is_planned_from_the_most_urgent_and_what_else_waits_of_their_subjects(world):
    world.post("A", "live")
    world.post("B", "live")
    world.run()
    for subject, target, priority in (("B", "old", 0), ("A", "old", 0), ("A", "urgent", 5), ("A", "late", 0)):
        world.post(subject, target, priority=priority)
    waiting, facts = world.ledger.questions.to_plan(1)
    assert [row.id for row in waiting] == ["id-A-urgent", "id-A-old"]
    assert [row.id for row in facts] == ["id-A-live"]
    waiting, facts = world.ledger.questions.to_plan(10)
    assert [row.id for row in waiting] == ["id-A-urgent", "id-B-old", "id-A-old", "id-A-late"]
    assert [row.id for row in facts] == ["id-A-live", "id-B-live"]
