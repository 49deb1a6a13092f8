"""Which corrections make the next batch: priority, order within a subject, deadline; pure."""

from hypothesis import given
from hypothesis import strategies as st

from daemon.apply.planning import plan_batch
from daemon.ledger.rows import Candidate

NOW = 100.0


def row(seq, subject="A", prompt="p {}", target=None, **more) -> Candidate:
    more = {"received_at": NOW} | more
    return Candidate(f"id{seq}", seq, subject, prompt, target or f"t{seq}", **more)


def added(pending, live=(), size=10, **more):
    return [fact.seq for fact in plan_batch(pending, live, size, NOW, **more).added]


def test_higher_priority_first_then_arrival():
    rows = [row(1, "A"), row(2, "B", priority=5), row(3, "C", priority=-1), row(4, "D", priority=5)]
    assert added(rows) == [2, 4, 1, 3]
    assert added(rows, size=2) == [2, 4]


def test_an_urgent_correction_takes_the_older_ones_of_its_subject_along():
    rows = [row(1, "A", "p {}"), row(2, "B"), row(3, "A", "q {}", priority=9), row(4, "A", "r {}")]
    assert added(rows) == [1, 3, 2, 4]


def test_a_subject_waits_as_a_whole_for_its_oldest():
    rows = [row(1, "A", "p {}", not_before=NOW + 1), row(2, "A", "q {}", priority=9), row(3, "B")]
    assert added(rows) == [3]


def test_an_older_post_of_the_slot_waits_for_the_newest_even_when_it_is_more_urgent():
    rows = [row(1, priority=9), row(2)]
    assert added(rows) == [2]


def test_already_known_and_superseded_need_no_work():
    live = [row(1, target="Rome")]
    plan = plan_batch([row(2, target="Oslo"), row(3, target="Rome")], live, 10, NOW)
    assert [(end.id, str(end.state)) for end in plan.settled] == [
        ("id2", "superseded"),
        ("id3", "already_known"),
    ]
    assert (plan.added, plan.wait_seconds) == ((), 0.0)
    changed = plan_batch([row(2, target="Oslo")], live, 10, NOW)
    assert ([f.seq for f in changed.added], changed.removed) == ([2], ("id1",))


def test_an_incomplete_batch_waits_until_its_first_has_waited_long_enough():
    def wait(*rows, size=3):
        return round(plan_batch(rows, (), size, NOW, patience=2.0).wait_seconds, 9)

    young, older = row(1, "A", received_at=NOW - 0.5), row(2, "B", received_at=NOW - 1.5)
    assert wait(young) == 1.5
    assert wait(young, older) == 0.5
    assert wait(row(1, received_at=NOW - 3)) == 0.0
    assert wait(young, older, row(3, "C")) == 0.0  # full
    assert wait(young, row(2, "B", attempts=1)) == 0.0  # tried before
    assert wait(row(1, received_at=NOW + 1000)) == 2.0  # the clock was set back
    assert plan_batch([young], (), 3, NOW).wait_seconds == 0.0


ROWS = st.lists(
    st.tuples(st.sampled_from("ABC"), st.sampled_from(["p {}", "q {}"]), st.integers(-2, 2), st.booleans()),
    max_size=12,
)


@given(ROWS, st.integers(1, 12))
def test_batches_keep_the_order_of_each_subject_whatever_the_priorities(told, size):
    pending = [
        row(i, subject, prompt, priority=priority, not_before=NOW + 1 if held else 0.0)
        for i, (subject, prompt, priority, held) in enumerate(told)
    ]
    newest = {fact.slot: fact.seq for fact in pending}
    chosen = added(pending, size=size)
    assert len(chosen) <= size
    for subject in "ABC":
        waiting = [f.seq for f in pending if f.subject == subject and newest[f.slot] == f.seq]
        mine = [seq for seq in chosen if pending[seq].subject == subject]
        assert mine == waiting[: len(mine)]
