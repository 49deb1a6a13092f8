"""A replica that was started anew gets its edits back although nobody rings the bell."""

import threading

from daemon.core.stages import Stage
from daemon.intake.returning import Returning
from tests.waiting import until


def test_a_replica_that_restarted_is_brought_back_and_nothing_else_is_begun(world):
    world.post("A", "B")
    world.run()
    world.replica.restart()
    world.post("C", "D")
    report = world.applier.bring_back()
    assert (report.live, report.versions, report.out) == ("v000001", [], {})
    assert world.states()["id-C-D"] == "validated"
    world.check_agreement()
    assert world.applier.bring_back() is None
    world.run()
    assert set(world.states().values()) == {"live"}


def test_where_nothing_is_live_the_replica_is_told_the_base(world):
    assert world.applier.bring_back().live == "v000000"
    assert world.replica.served().version == "v000000"


def test_a_replica_that_is_away_is_left_to_the_next_look(world):
    world.replica.alive = False
    assert world.applier.bring_back() is None


def test_a_run_that_is_under_way_is_not_disturbed(world):
    """The model in memory is at a version that is not live yet."""
    world.post("A", "B")
    inside, found = [], []

    def reached(stage):
        if stage is Stage.EDITED:
            inside.append(stage)
            world.replica.restart()
            other = threading.Thread(target=lambda: found.append(world.applier.bring_back()))
            other.start()
            other.join()

    world.applier.reached = reached
    world.run()
    assert inside
    assert found == [None]
    world.check_agreement()


def test_the_thread_looks_only_while_the_applier_does_not_run(world):
    world.post("A", "B")
    world.run()
    world.replica.restart()
    Returning(world.applier, 60.0).look()
    assert world.replica.served().version == "default"
    patient = Returning(world.applier, 0.01)
    patient.start()
    until(lambda: world.replica.served().version == "v000001")
    patient.stop()
    world.check_agreement()


def test_a_fault_does_not_end_the_looking(world, monkeypatch, caplog):
    def broken():
        raise RuntimeError("anything")

    monkeypatch.setattr(world.applier, "bring_back", broken)
    Returning(world.applier, 0.0).look()
    assert "anything" in caplog.text
