"""`kill -9` at every boundary between steps: applied exactly once, and everything agrees afterwards."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.stages import Stage
from daemon.http.status_page import snapshot

SCRIPT = Path(__file__).parent / "crash_script.py"
ROOT = Path(__file__).parents[3]


ROLLBACK = {Stage.ROLLBACK_RESTORED, Stage.ROLLBACK_FLIPPED, Stage.ROLLED_BACK}
WATCH = {Stage.WATCHED, Stage.CONDEMNED}
COMPACTION = {Stage.COMPACT_ASKED, Stage.COMPACTED}


CANARY = {Stage.CANARY_FLIPPED, Stage.SOAKING, Stage.SOAKED}


def in_sync(world):
    """As /metrics says it."""
    return list(snapshot(world.ledger, world.replicas).in_sync.values())


@pytest.fixture(scope="module")
def runs():
    """The process that `crash_script.py` is."""
    argv, environment = [sys.executable, str(SCRIPT)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as process:
        yield process
        process.stdin.close()


@pytest.fixture
def crash(runs):
    def run(world, stage, after=0, **more):
        order = {"root": str(world.root), "stage": stage.value, "after": after, "world": more}
        runs.stdin.write(json.dumps(order) + "\n")
        runs.stdin.flush()
        assert int(runs.stdout.readline()) == -signal.SIGKILL, f"{stage} was never reached"

    return run


@pytest.mark.parametrize("stage", [s for s in Stage if s not in {*WATCH, *COMPACTION, *CANARY, Stage.PAUSED}])
def test_a_kill_at_any_stage_applies_exactly_once(world, crash, stage):
    world.post("Z", "first")
    world.run()
    world.post("A", "B")
    world.post("Z", "second")
    world.post("C", "bad")
    if stage in ROLLBACK:
        world.run()
        world.ledger.intake.request("rollback", "v000001", actor="operator")
    crash(world, stage)
    world.open()
    world.run()
    if stage in ROLLBACK:
        assert world.ledger.questions.live_version() == "v000001"
        expected = {"id-Z-first": "live", "id-A-B": "rolled_back", "id-Z-second": "rolled_back"}
    else:
        expected = {"id-Z-first": "superseded", "id-A-B": "live", "id-Z-second": "live"}
    assert world.states() == expected | {"id-C-bad": "rejected"}
    for id in expected:
        lives = [t for t in world.ledger.questions.transitions(id) if t.new == "live"]
        assert len(lives) == (2 if id == "id-Z-first" and stage in ROLLBACK else 1)
    world.check_agreement()
    assert world.run().versions == []
    world.close()


@pytest.mark.parametrize("stage", [*sorted(WATCH), Stage.ROLLBACK_FLIPPED])
def test_a_kill_while_the_guard_rolls_back_leaves_one_rollback(world, crash, stage):
    for subject, target in [("A", "fine"), ("B", "rotten")]:
        world.post(subject, target)
        world.run()
    crash(world, stage, after=700)
    world.open()
    world.now += 701
    assert world.run().live == "v000001"
    assert world.states() == {"id-A-fine": "live", "id-B-rotten": "rolled_back"}
    assert world.steps() == [("rollback", "v000002")]
    assert [(o.actor, o.state) for o in world.ledger.questions.operations()] == [("guard", "done")]
    assert len(world.ledger.questions.policy().rollbacks) == 1
    world.check_agreement()
    assert world.run().held is None
    assert len(world.ledger.questions.operations()) == 1


@pytest.mark.parametrize("stage", [*sorted(COMPACTION), Stage.STORED, Stage.FLIPPED])
def test_a_kill_while_compacting_leaves_one_compaction(world, crash, stage):
    world.post("A", "fine" if stage not in COMPACTION else "greedy")
    if stage not in COMPACTION:
        world.run()
        world.ledger.intake.request("compact", actor="guard")
    crash(world, stage)
    world.open()
    assert world.run().live == world.ledger.questions.live_version()
    (operation,) = world.ledger.questions.operations()
    assert (operation.actor, operation.state) == ("guard", "done")
    assert (
        world.ledger.questions.ancestry(world.ledger.questions.live_version())[-1].operation == operation.id
    )
    assert len(world.ledger.questions.versions()) == 2
    assert set(world.states().values()) == {"live"}
    world.check_agreement()
    assert world.run().versions == []


@pytest.mark.parametrize("stage", [Stage.PAUSED])
def test_a_kill_when_the_guard_has_paused_leaves_it_paused(world, crash, stage):
    world.post("A", "wearing")
    world.run()
    for i in range(4):
        world.post(f"H{i}", "heavy")
    crash(world, stage)
    world.open()
    states = list(world.states().values())
    assert "validated" in states
    world.run()
    assert list(world.states().values()) == states
    assert [step for step, _ in world.steps()].count("pause") == 1
    assert world.ledger.questions.paused()["actor"] == "guard"
    world.check_agreement()


@pytest.mark.parametrize("stage", [*sorted(CANARY), Stage.STAGED, Stage.FLIPPED, Stage.PUBLISHED])
def test_a_kill_while_a_canary_is_watched_is_never_told_as_in_sync(make_world, monkeypatch, crash, stage):
    # The world's measurements are not of the kind that metrics are made of.
    monkeypatch.setattr("daemon.http.status_page.Measurements.from_json", lambda stored: None)
    fleet = {"replicas": 3, "canary": "disk1", "canary_seconds": 0.0}
    world = make_world(**fleet)
    world.post("A", "B")
    world.run()
    world.post("C", "D")
    crash(world, stage, **fleet)
    world.open()
    told = Stage.FLIPPED, Stage.PUBLISHED
    assert [r.served().version for r in world.replicas] == (
        ["v000002"] * 3 if stage in told else ["v000001", "v000002", "v000001"]
    )
    assert world.ledger.questions.live_version() == "v000001"
    assert in_sync(world) == ([False] * 3 if stage in told else [True, False, True])
    assert world.run().live == "v000002"
    assert [r.served().version for r in world.replicas] == ["v000002"] * 3
    assert world.states() == {"id-A-B": "live", "id-C-D": "live"}
    world.check_agreement()
    assert world.run().versions == []


def test_a_batch_that_kills_the_process_each_time_is_given_up(world):
    class Died(BaseException):
        pass

    def die(stage):
        if stage == Stage.EDITED and "deadly" in {fact.target for fact in world.editor.state.facts}:
            raise Died

    world.post("A", "fine")
    world.post("B", "deadly")
    for _ in range(20):
        world.now += 60
        world.open()
        world.applier.reached = die
        try:
            world.run()
        except Died:
            continue
        break
    assert world.states() == {"id-A-fine": "live", "id-B-deadly": "dead"}
    world.check_agreement()
