"""Facts go live and leave by themselves: in batches, over restarts and clock steps. On fakes."""

import pytest

from daemon.core.stages import Stage
from daemon.core.times import shown
from daemon.ledger.audit import audit
from daemon.ledger.record.schedule import AGAIN_SECONDS, MOST

HOUR = 3600.0


@pytest.fixture
def database_url(either_database):
    return either_database


def restarted(world):
    """A new process on the same disk."""
    world.ledger.close()
    return world.open()


def reasons(world, id):
    return [(t.new, t.actor) for t in world.ledger.questions.transitions(id, kind="correction")]


def test_a_fact_goes_live_and_leaves_by_itself_over_restarts(world):
    start, end = world.now + HOUR, world.now + 2 * HOUR
    world.post("A", "B", valid_from=shown(start), valid_until=shown(end))
    world.post("C", "D")
    report = world.run()
    assert (report.live, report.held) == ("v000001", None)
    row = world.ledger.questions.get("id-A-B")
    assert (row.state, row.reason) == ("received", f"waits until {shown(start)}")
    world.now = start - 1
    assert restarted(world).run().versions == []
    world.now = start
    assert restarted(world).run().live == "v000002"
    assert world.states() == {"id-A-B": "live", "id-C-D": "live"}
    assert world.ledger.questions.get("id-A-B").post_to_live_seconds == 0.0
    world.now = end - 1
    assert restarted(world).run().versions == []
    world.now = end
    assert restarted(world).run().live == "v000003"
    assert world.states() == {"id-A-B": "retracted", "id-C-D": "live"}
    row = world.ledger.questions.get("id-A-B")
    assert (row.code, row.reason) == ("expired", "its time (valid_until) is over; it left in v000003")
    (operation,) = world.ledger.questions.operations()
    assert (operation.kind, operation.actor, operation.state) == ("expire", "clock", "done")
    told = reasons(world, "id-A-B")
    assert told[:2] == [("received", "submit"), ("validated", "clock")]
    assert [new for new, _ in told[2:]] == ["staged", "verified", "published", "live", "retracted"]
    world.check_agreement()
    assert audit(world.ledger.database.engine).valid
    assert restarted(world).run().versions == []


def test_those_of_one_moment_go_live_together_and_leave_in_one_version(world):
    start, end = shown(world.now + HOUR), shown(world.now + 2 * HOUR)
    for i in range(12):
        world.post(f"S{i}", "T", valid_from=start, valid_until=end)
    world.post("X", "Y")
    world.run()
    world.now += HOUR
    world.run()
    world.now += HOUR
    world.run()
    found = [(len(v.added), len(v.removed)) for v in world.ledger.questions.versions()]
    assert found == [(1, 0), (12, 0), (0, 12)]
    assert [row.id for row in world.ledger.questions.facts()] == ["id-X-Y"]
    world.check_agreement()


def test_what_is_over_before_it_is_live_is_rejected(world):
    world.post("A", "B", valid_until=shown(world.now - 1))
    world.post("C", "D", valid_from=shown(world.now + 1), valid_until=shown(world.now + 2))
    world.now += HOUR
    report = world.run()
    assert (report.versions, report.held) == ([], None)
    for id in ("id-A-B", "id-C-D"):
        row = world.ledger.questions.get(id)
        assert (row.state, row.code) == ("rejected", "expired")
        assert row.reason == "its time (valid_until) was over before it was live"


def test_more_than_fit_into_one_transaction_are_all_ended(world):
    from daemon.core.messages import parse_correction

    body = {"prompt": "{} is", "target": "x", "valid_until": shown(world.now - 1)}
    posts = [(f"id{i}", parse_correction(body | {"subject": f"S{i}"})) for i in range(MOST + 5)]
    world.ledger.intake.submit_many(posts)
    assert world.run().versions == []
    assert world.ledger.questions.counts()["rejected"] == MOST + 5


def test_a_fact_whose_time_comes_is_newer_than_what_was_posted_meanwhile(world):
    world.post("A", "next", valid_from=shown(world.now + HOUR))
    world.post("A", "present")
    world.run()
    assert world.states() == {"id-A-next": "received", "id-A-present": "live"}
    world.now += HOUR
    world.run()
    assert world.states() == {"id-A-present": "superseded", "id-A-next": "live"}
    world.post("A", "last")  # its number is not one that is given already
    world.run()
    assert [row.id for row in world.ledger.questions.facts()] == ["id-A-last"]
    world.check_agreement()


def test_a_live_fact_that_is_posted_with_another_end_is_replaced(world):
    world.post("A", "B", valid_until=shown(world.now + HOUR))
    world.run()
    world.post("A", "B", id="for ever")
    world.post("A", "B", id="once more")
    world.run()
    assert world.states() == {"id-A-B": "superseded", "for ever": "superseded", "once more": "live"}
    world.post("A", "B", id="same")
    world.now += 2 * HOUR
    world.run()
    assert world.states()["once more"] == "live"
    assert world.states()["same"] == "already_known"


@pytest.mark.parametrize("back", [30 * 60.0, 48 * HOUR])
def test_a_clock_that_is_set_back_brings_nothing_back_and_takes_nothing_out(world, back):
    world.now = 100 * HOUR
    world.post("A", "B", valid_until=shown(world.now + HOUR))
    world.post("C", "D", valid_from=shown(world.now + HOUR))
    world.run()
    world.now += HOUR
    world.run()
    wanted = {"id-A-B": "retracted", "id-C-D": "live"}
    assert world.states() == wanted
    world.now -= back
    assert restarted(world).run().versions == []
    assert world.states() == wanted
    world.now += back
    assert restarted(world).run().versions == []
    assert world.states() == wanted
    world.check_agreement()


def test_a_clock_that_is_set_forth_makes_due_what_it_passes(world):
    world.post("A", "B", valid_from=shown(world.now + HOUR), valid_until=shown(world.now + 2 * HOUR))
    world.post("C", "D", valid_until=shown(world.now + 2 * HOUR))
    world.run()
    world.now += 48 * HOUR
    world.run()
    assert world.states() == {"id-A-B": "rejected", "id-C-D": "retracted"}


def test_a_rollback_to_a_version_with_facts_whose_time_is_over_does_not_keep_them(world):
    world.post("A", "B", valid_until=shown(world.now + HOUR))
    world.run()
    world.now += HOUR
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    assert world.run().live == "v000003"
    assert world.states() == {"id-A-B": "retracted"}
    world.check_agreement()


def test_nothing_leaves_while_somebody_has_paused(world):
    world.post("A", "B", valid_until=shown(world.now + HOUR))
    world.run()
    world.ledger.intake.request("pause", actor="operator")
    world.now += HOUR
    world.run()
    assert world.states() == {"id-A-B": "live"}
    world.ledger.intake.request("resume", actor="operator")
    world.run()
    assert world.states() == {"id-A-B": "retracted"}


def test_a_version_without_the_facts_that_cannot_be_made_is_tried_again_later(world):
    world.post("A", "B", valid_until=shown(world.now + HOUR))
    world.run()
    world.now += HOUR
    world.replica.failures = ["v000002", "v000003", "v000004"]
    for _ in range(4):
        world.run()
        world.now += 10
    assert [o.state for o in world.ledger.questions.operations()] == ["failed"]
    assert world.states() == {"id-A-B": "live"}
    world.replica.failures = []
    world.now += AGAIN_SECONDS
    restarted(world).run()
    assert [o.state for o in world.ledger.questions.operations()] == ["failed", "done"]
    assert world.states() == {"id-A-B": "retracted"}
    world.check_agreement()


def test_what_waits_for_its_time_can_be_retracted(world):
    world.post("A", "B", valid_from=shown(world.now + HOUR))
    world.ledger.intake.request("retract", "id-A-B", actor="operator")
    world.run()
    world.now += HOUR
    assert world.run().versions == []
    assert world.states() == {"id-A-B": "retracted"}


def test_what_waits_for_its_time_is_no_backlog(world):
    world.post("A", "B", valid_from=shown(world.now + HOUR))
    world.now += 10
    status = world.ledger.questions.status()
    assert (status.pending, status.scheduled, status.oldest_pending_seconds) == (0, 1, None)
    assert world.ledger.questions.pending_count() == 1  # it has a place in the queue
    world.now += HOUR
    world.applier.run(lambda: True)
    assert world.states() == {"id-A-B": "received"}  # a run that is told to stop takes nothing up


def test_the_status_lists_what_is_coming(world):
    now = world.now
    world.post("A", "B", valid_until=shown(now + 5 * HOUR))
    world.post("C", "D", valid_from=shown(now + 3 * HOUR), valid_until=shown(now + 4 * HOUR))
    world.post("E", "F")
    world.run()
    found = world.ledger.questions.status().coming
    assert [(one.id, one.subject, one.target, one.change, one.at) for one in found] == [
        ("id-C-D", "C", "D", "live", now + 3 * HOUR),
        ("id-A-B", "A", "B", "leaves", now + 5 * HOUR),
    ]


def test_a_fact_that_came_due_waits_since_then(world):
    world.post("A", "B", valid_from=shown(world.now + HOUR))
    world.ledger.intake.request("pause", actor="operator")
    world.now += HOUR
    world.run()
    world.now += 7
    assert world.ledger.questions.status().oldest_pending_seconds == 7.0


@pytest.mark.parametrize("stage", [Stage.PLANNED, Stage.EDITED, Stage.STORED, Stage.WRITTEN, Stage.FLIPPED])
def test_a_process_that_dies_while_facts_leave_is_gone_on_with(world, stage):
    class Died(BaseException):
        pass

    def die(reached):
        if reached is stage:
            raise Died

    for i in range(3):
        world.post(f"S{i}", "T", valid_until=shown(world.now + HOUR))
    world.post("X", "Y")
    world.run()
    world.now += HOUR
    world.applier.reached = die
    with pytest.raises(Died):
        world.run()
    restarted(world).run()
    assert world.states() == {"id-S0-T": "retracted", "id-S1-T": "retracted", "id-S2-T": "retracted",
                              "id-X-Y": "live"}  # fmt: skip
    assert [(o.kind, o.state) for o in world.ledger.questions.operations()] == [("expire", "done")]
    world.check_agreement()
    assert world.run().versions == []
