"""Two real appliers on one ledger, one store, one replica: only the holder of the lease writes."""

import pytest

from daemon.core.errors import LeaseHeldError
from daemon.core.stages import Stage
from daemon.ledger.audit import audit
from tests.faults import processes

#: every boundary that a run with one batch passes
PASSED_BY = [
    Stage.LEASED, Stage.RECONCILED, Stage.PLANNED, Stage.COUNTED, Stage.EDITED, Stage.MEASURED, Stage.JUDGED,
    Stage.WRITING, Stage.STORED, Stage.WRITTEN, Stage.STAGED, Stage.FLIPPED, Stage.PUBLISHED,
    Stage.CONFIRMED, Stage.LIVE,
]  # fmt: skip


def left_behind(world):
    """All that an applier can change; a directory under a temporary name is no version."""
    versions = [world.store.path(id) for id in world.store.ids()]
    files = {path: path.read_bytes() for version in versions for path in version.iterdir()}
    return world.states(), audit(world.ledger.database.engine).head, files, world.replica.file.read_text()


@pytest.mark.parametrize("stage", PASSED_BY)
def test_a_stopped_holder_that_wakes_after_its_lease_changes_nothing(world, stage):
    world.post("Z", "first")
    world.run()
    world.post("A", "B")
    with processes.process(processes.applier, world.root, stage) as old:
        processes.until_stopped(old)
        with pytest.raises(LeaseHeldError):
            world.run()
        world.now += world.settings.lease_seconds + 1
        assert world.run().held is None
        before = left_behind(world)
        # After the last boundary too: it looks at the clock before it ends, and that needs the lease.
        assert processes.wake(old) == processes.PASSED
        assert left_behind(world) == before
    assert world.states() == {"id-Z-first": "live", "id-A-B": "live"}
    assert [t.new for t in world.ledger.questions.transitions("id-A-B")].count("live") == 1
    assert audit(world.ledger.database.engine).valid
    world.check_agreement()


@pytest.mark.parametrize("stage", [Stage.WRITING, Stage.STORED])
def test_a_holder_that_wakes_does_not_clear_away_what_the_newer_one_writes(world, stage):
    world.post("A", "B")
    with processes.process(processes.applier, world.root, Stage.LEASED) as old:
        processes.until_stopped(old)
        world.now += world.settings.lease_seconds + 1

        def wake(reached):
            if reached == stage:
                assert processes.wake(old) == processes.PASSED

        world.applier.reached = wake
        assert world.run().versions == ["v000001"]
    world.check_agreement()
