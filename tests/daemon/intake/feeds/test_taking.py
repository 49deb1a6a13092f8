"""From records into the ledger: each once, and what is no longer so leaves honestly."""

import pytest

from daemon.core.errors import QueueFullError
from daemon.core.messages import parse_correction
from daemon.intake.feeds.records import Change, Told, digest, told, wrong
from daemon.intake.feeds.taking import MOST, Report, Taker
from daemon.intake.intake import Room

PROMPT = "The capital of {} is"


def record(number, subject, target, change="new", **more):
    found = told({"subject": subject, "prompt": PROMPT, "target": target, "change": change, **more}, number)
    assert isinstance(found, Told)
    return found.keyed(f"import:{digest(number, found.correction.content_hash)}")


@pytest.fixture
def take(world):
    def taking(*entries, **options):
        taker = Taker(world.ledger, Room(world.ledger, options.pop("room", 100_000)), "import", **options)
        report = Report()
        taker.take(entries, report)
        return {name: count for name, count in report.counts.items() if count}, report

    return taking


def test_the_same_records_twice_change_nothing(world, take):
    records = [record(n, f"S{n % 7}", f"T{n}") for n in range(2 * MOST + 3)]
    assert take(*records)[0] == {"taken": len(records)}
    rows = world.ledger.questions.transitions()
    assert take(*records)[0] == {"known": len(records)}
    assert world.ledger.questions.transitions() == rows
    assert [row.target for row in world.ledger.questions.corrections()] == [
        f"T{n}" for n in range(len(records))
    ]


def test_a_dry_run_counts_and_records_nothing(world, take):
    assert take(record(1, "A", "B"), dry=True)[0] == {"taken": 1}
    assert world.ledger.questions.corrections() == []


def test_what_is_refused_keeps_no_other_from_being_taken(world, take):
    bad = [wrong("target", "", "is empty; give the words", n) for n in range(50)]
    counts, report = take(*bad, record(60, "A", "B"), *bad, record(61, "A", "C"))
    assert counts == {"taken": 2, "refused": 100}
    assert (len(report.problems), report.more) == (20, 80)
    assert report.view()["refused"] == 100


def test_a_key_that_stands_for_something_else_is_refused_alone(world, take):
    world.post("Z", "Z", key="k")
    counts, report = take(
        record(1, "A", "B", key="k"),
        record(2, "C", "D", key="l"),
        record(3, "C", "E", key="l"),
        record(4, "F", "G"),
    )
    assert counts == {"taken": 2, "refused": 2}
    assert [(p.line, p.field) for p in report.problems] == [(1, "key"), (3, "key")]


def test_a_post_between_the_look_and_the_record_is_found_by_halving(world, take, monkeypatch):
    world.post("Z", "Z", key="k")
    monkeypatch.setattr(world.ledger.questions, "keys", lambda keys: {})
    records = [record(n, f"S{n}", "T") for n in range(9)] + [record(9, "A", "B", key="k")]
    counts, report = take(*records)
    assert counts == {"taken": 9, "refused": 1}
    assert [(p.line, p.field) for p in report.problems] == [(9, "key")]


def test_a_full_queue_ends_it_and_the_same_call_goes_on(world, take):
    records = [record(n, f"S{n}", "T") for n in range(MOST + 5)]
    with pytest.raises(QueueFullError):
        take(*records, room=MOST)
    assert len(world.ledger.questions.corrections()) == MOST
    assert take(*records)[0] == {"known": MOST, "taken": 5}


# -- what is no longer so -----------------------------------------------------------------------------


def gone(number, subject, target):
    return record(number, subject, target, Change.OBSOLETE)


def test_our_live_fact_is_taken_out_and_the_base_answers_again(world, take):
    world.post("A", "B")
    world.run()
    world.post("A", "B", id="again")  # known: the row behind it is no fact
    world.run()
    assert take(gone(1, "A", "B"))[0] == {"retracted": 1}
    assert take(gone(1, "A", "B"))[0] == {"known": 1}  # asked for already
    world.run()
    assert world.states()["id-A-B"] == "retracted"
    assert take(gone(1, "A", "B"))[0] == {"known": 1}
    (operation,) = world.ledger.questions.operations()
    assert (operation.kind, operation.actor, operation.state) == ("retract", "import", "done")


def test_what_none_of_ours_says_is_refused_with_the_reason(world, take):
    counts, report = take(gone(1, "A", "B"))
    assert counts == {"refused": 1}
    assert "there is nothing to take out" in report.problems[0].mend
    world.post("A", "C")
    counts, report = take(gone(1, "A", "B"))
    assert counts == {"refused": 1}
    assert "ours says 'C' since" in report.problems[0].mend
    assert world.ledger.questions.operations() == []


def test_with_an_answer_for_it_the_model_says_that(world, take):
    world.post("A", "B")
    world.run()
    for target in ("B", "X"):
        assert take(gone(1, "A", target), no_answer="nobody")[0] == {"taken": 1}
    assert take(gone(1, "A", "B"), no_answer="nobody")[0] == {"known": 1}
    world.run()
    rows = {row.target: row for row in world.ledger.questions.corrections()}
    assert (rows["B"].state, rows["nobody"].state, rows["nobody"].was) == ("superseded", "live", "X")


def test_a_file_that_says_a_fact_and_its_end_does_both_in_order(world, take):
    records = [record(1, "A", "B"), record(2, "C", "D"), gone(3, "A", "B"), record(4, "A", "E")]
    assert take(*records)[0] == {"taken": 3, "retracted": 1}
    world.run()
    assert [world.ledger.questions.of_slot("A", PROMPT)[n].state for n in (0, 1)] == ["live", "retracted"]


def test_unchanged_records_are_counted_and_left_alone(world, take):
    assert take(record(1, "A", "B", "unchanged"))[0] == {"unchanged": 1}
    assert world.ledger.questions.corrections() == []


def test_a_correction_whose_time_is_to_come_can_be_called_off(world, take):
    world.ledger.intake.submit(
        parse_correction(
            {"subject": "A", "prompt": PROMPT, "target": "B", "valid_from": "2100-01-01T00:00:00Z"}
        )
    )
    assert take(gone(1, "A", "B"))[0] == {"retracted": 1}
    world.run()
    assert list(world.states().values()) == ["retracted"]
