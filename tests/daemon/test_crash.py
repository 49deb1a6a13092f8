"""`kill -9` at every boundary between steps: applied exactly once, and everything agrees afterwards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.stages import Stage

SCRIPT = Path(__file__).parent / "crash_script.py"
ROOT = Path(__file__).parents[2]


def crash(world, stage):
    environment = os.environ | {"FACTD_CRASH_AT": stage.value, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(world.root)], env=environment, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, f"{stage} was never reached"


@pytest.mark.parametrize("stage", Stage)
def test_a_kill_at_any_stage_applies_exactly_once(world, stage):
    world.post("Z", "first")
    world.run()
    world.post("A", "B")
    world.post("Z", "second")
    world.post("C", "bad")
    if stage.value.startswith("roll"):
        world.run()
        world.ledger.request("rollback", "v000001", actor="operator")
    crash(world, stage)
    world.open()
    world.run()
    if stage.value.startswith("roll"):
        assert world.ledger.live_version() == "v000001"
        expected = {"id-Z-first": "live", "id-A-B": "rolled_back", "id-Z-second": "rolled_back"}
    else:
        expected = {"id-Z-first": "superseded", "id-A-B": "live", "id-Z-second": "live"}
    assert world.states() == expected | {"id-C-bad": "rejected"}
    for id in expected:
        lives = [t for t in world.ledger.transitions(id) if t.new == "live"]
        assert len(lives) == (2 if id == "id-Z-first" and stage.value.startswith("roll") else 1)
    world.check_agreement()
    assert world.run().versions == []
    world.close()


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
        world.applier.checkpoint = die
        try:
            world.run()
        except Died:
            continue
        break
    assert world.states() == {"id-A-fine": "live", "id-B-deadly": "dead"}
    world.check_agreement()
