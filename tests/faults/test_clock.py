"""The clock is set back or forth while the daemon runs."""

import pytest

from daemon.ledger.audit import audit

DAY = 86400.0


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_a_clock_that_steps_changes_no_order_and_keeps_nobody_waiting(world, step):
    world.now = 10 * DAY
    world.post("A", "old")
    world.post("B", "fine")
    world.run()
    world.replica.failures = ["v000002"]
    world.post("A", "new")
    assert "swap failed" in world.run().held
    world.now += step
    world.post("C", "late")
    assert world.run().held is None
    assert world.states() == {
        "id-A-old": "superseded", "id-B-fine": "live", "id-A-new": "live", "id-C-late": "live",
    }  # fmt: skip
    world.now -= 2 * step
    world.ledger.intake.request("retract", "id-B-fine", actor="operator")
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    assert world.run().live == "v000001"
    assert [row.id for row in world.ledger.questions.facts()] == ["id-A-old", "id-B-fine"]
    assert audit(world.ledger.database.engine).valid
    world.check_agreement()


@pytest.mark.parametrize("step", [-DAY, DAY])
def test_a_clock_that_steps_in_mid_run_costs_no_lease(world, step):
    world.now = 10 * DAY

    def turn(stage):
        if stage == "edited":
            world.now += step

    world.applier.reached = turn
    world.post("A", "B")
    assert world.run().live == "v000001"
    world.check_agreement()
