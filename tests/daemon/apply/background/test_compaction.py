"""A compaction that is prepared beside the applier: corrections go on, and changes meanwhile are taken over.

The process is a stand-in that works when the test says so; `test_process.py` starts the real one.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.apply.background.job import Job
from daemon.apply.background.jobs import ATTEMPTS, Jobs
from daemon.apply.background.process import work
from daemon.core.stages import Stage
from daemon.http.views import status_view


class Died(BaseException):
    """A process ends, and nothing catches it."""


def dies(world, stage):
    """The applier runs up to a stage and ends there."""

    def die(reached):
        if reached is stage:
            raise Died

    world.applier.reached = die
    with pytest.raises(Died):
        world.run()
    world.close()


@dataclass
class FakeProcess:
    status: int | None = None
    killed: bool = False

    def poll(self):
        return self.status

    def kill(self):
        self.killed, self.status = True, -9


class Beside:
    """A world whose compactions are prepared by a process that the test moves."""

    def __init__(self, world):
        self.world, self.started = world, []
        self.attach()

    def attach(self, fewest=1, consolidation="epochs=6"):
        """A new applier has a new `Jobs`, on the same folder."""
        settings = self.world.editor.settings_hash
        self.world.applier.jobs = Jobs(
            self.folder, settings, self._launch, fewest, consolidation=consolidation
        )

    def _launch(self, folder: Path) -> FakeProcess:
        self.started.append((folder, FakeProcess()))
        return self.started[-1][1]

    @property
    def folder(self) -> Path:
        return self.world.root / "background"

    @property
    def process(self) -> FakeProcess:
        return self.started[-1][1]

    def prepare(self):
        """The process does its work and ends."""
        work(Job(self.started[-1][0]), self.world.fakes.FakeEditor(), self.world.store)
        self.process.status = 0

    def reopen(self):
        """The applier was killed, and its process with it."""
        self.world.open()
        self.attach()

    def ask(self, kind="compact"):
        return self.world.ledger.intake.request(kind, actor="operator")

    def compacted(self):
        """The keys that `FakeEditor.compact` has changed, by fact."""
        state = self.world.store.load_state(self.world.ledger.questions.live_version())
        fresh = self.world.fakes.FakeEditor()
        fresh.apply(state.facts)
        name = f"{self.world.fakes.NAME}/keys"
        pairs = zip(state.facts, state.columns[name].T, fresh.state.columns[name].T, strict=True)
        return {fact.id for fact, now, plain in pairs if not now.equal(plain)}


@pytest.fixture
def beside(world):
    world.post("A", "one")
    world.post("B", "two")
    world.run()
    return Beside(world)


def operation_state(world):
    return [str(each.state) for each in world.ledger.questions.operations()]


def test_few_facts_are_compacted_without_a_process(beside):
    beside.attach(fewest=3)
    beside.ask()
    assert beside.world.run().live == "v000002"
    assert operation_state(beside.world) == ["done"]
    assert beside.started == []
    # What was begun goes on, however few facts are left.
    beside.attach(fewest=2)
    beside.ask()
    beside.world.run()
    beside.attach(fewest=3)
    assert operation_state(beside.world) == ["done", "pending"]
    beside.world.run()
    assert operation_state(beside.world) == ["done", "pending"]


def test_corrections_go_live_while_it_is_prepared(beside):
    world = beside.world
    beside.ask()
    assert world.run().live == "v000001"
    world.post("C", "three")
    assert world.run().live == "v000002"
    assert operation_state(world) == ["pending"]
    assert len(beside.started) == 1
    beside.prepare()
    assert world.run().live == "v000003"
    assert operation_state(world) == ["done"]
    assert beside.compacted() == {"id-A-one", "id-B-two"}
    assert set(world.states().values()) == {"live"}
    world.check_agreement()
    assert world.run().versions == []
    assert not beside.folder.exists()


def test_a_consolidation_is_prepared_by_a_process_however_few_facts_there_are(beside):
    world = beside.world
    beside.attach(fewest=99)
    beside.ask("consolidate")
    assert world.run().live == "v000001"
    assert len(beside.started) == 1
    world.post("C", "three")
    assert world.run().live == "v000002"
    beside.prepare()
    assert Job(beside.started[-1][0]).progress() == {"stage": "consolidating", "fraction": 0.5}
    assert world.run().live == "v000003"
    assert operation_state(world) == ["done"]
    assert beside.compacted() == {"id-A-one", "id-B-two"}
    # Prepared in another order, and what came meanwhile behind it.
    assert world.store.load_state("v000003").ids == ("id-B-two", "id-A-one", "id-C-three")
    assert set(world.states().values()) == {"live"}
    world.check_agreement()


def test_without_processes_the_applier_consolidates_itself(beside):
    world = beside.world
    world.applier.jobs = None
    beside.ask("consolidate")
    assert world.run().live == "v000002"
    assert beside.compacted() == {"id-A-one", "id-B-two"}
    assert operation_state(world) == ["done"]


def test_a_compaction_waits_for_the_consolidation_that_was_asked_for_first(beside):
    world = beside.world
    beside.ask("consolidate")
    beside.ask("compact")
    world.run()
    assert len(beside.started) == 1
    beside.prepare()
    world.run()
    assert operation_state(world) == ["done", "pending"]
    beside.prepare()
    world.run()
    assert operation_state(world) == ["done", "done"]


def test_nothing_live_is_nothing_to_consolidate(world):
    world.ledger.intake.request("consolidate", actor="operator")
    world.run()
    (done,) = world.ledger.questions.operations()
    assert (str(done.state), done.reason) == ("done", "no fact is live: nothing to consolidate")


def test_what_was_retracted_or_superseded_meanwhile_is_not_in_the_result(beside):
    world = beside.world
    world.post("D", "four")
    world.run()
    beside.ask()
    world.run()
    world.ledger.intake.request("retract", "id-A-one", actor="operator")
    world.post("B", "five")
    world.run()
    beside.prepare()
    world.run()
    assert beside.compacted() == {"id-D-four"}
    assert world.states() == {
        "id-A-one": "retracted",
        "id-B-two": "superseded",
        "id-B-five": "live",
        "id-D-four": "live",
    }
    world.check_agreement()


def test_without_a_change_it_is_the_very_version_that_the_applier_makes_itself(beside, make_world):
    world = beside.world
    beside.ask()
    world.run()
    beside.prepare()
    world.run()
    prepared = world.store.weight_sha256("v000002")
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    world.applier.jobs = None
    beside.ask()
    assert world.run().live == "v000003"
    assert world.store.weight_sha256("v000003") == prepared


def test_a_rollback_meanwhile_is_taken_over_too(beside):
    world = beside.world
    world.post("A", "newer")
    world.run()
    beside.ask()
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    beside.prepare()
    world.run()
    assert beside.compacted() == {"id-B-two"}
    assert world.states()["id-A-one"] == "live"
    world.check_agreement()


@pytest.mark.parametrize(
    "stage", [Stage.PLANNED, Stage.COUNTED, Stage.COMPACTED, Stage.MEASURED, Stage.STORED, Stage.FLIPPED]
)
def test_an_applier_killed_while_it_takes_the_result_publishes_one_compaction(beside, stage):
    world = beside.world
    beside.ask()
    world.run()
    world.post("C", "three")
    world.run()
    beside.prepare()
    dies(world, stage)
    beside.reopen()
    assert world.run().live == "v000003"
    assert beside.compacted() == {"id-A-one", "id-B-two"}
    assert len(beside.started) == 1
    assert operation_state(world) == ["done"]
    world.check_agreement()
    assert world.run().versions == []


def test_a_killed_process_is_started_again_on_the_same_version(beside):
    world = beside.world
    beside.ask()
    world.run()
    world.post("C", "three")
    beside.process.status = -9
    world.run()
    assert len(beside.started) == 2
    beside.reopen()
    world.run()
    assert len(beside.started) == 3
    beside.prepare()
    world.run()
    assert beside.compacted() == {"id-A-one", "id-B-two"}


def test_a_process_that_always_ends_fails_the_operation_and_says_what_to_do(beside):
    world = beside.world
    beside.ask()
    for _ in range(ATTEMPTS):
        world.run()
        beside.process.status = 137
    world.run()
    (operation,) = world.ledger.questions.operations()
    assert str(operation.state) == "failed"
    assert "status 137" in operation.reason
    assert "FACTD_BACKGROUND=false" in operation.reason
    assert world.ledger.questions.live_version() == "v000001"


def test_a_damaged_result_is_prepared_again(beside):
    world = beside.world
    beside.ask()
    world.run()
    beside.prepare()
    (file,) = beside.started[0][0].glob("result-*.safetensors")
    file.write_bytes(b"torn" + file.read_bytes()[4:])
    assert "damaged" in world.run().held
    world.run()
    assert len(beside.started) == 2
    beside.prepare()
    assert world.run().live == "v000003"
    assert operation_state(world) == ["done"]
    world.check_agreement()


def test_a_result_of_another_method_is_not_taken(beside):
    world = beside.world
    beside.ask()
    world.run()
    beside.prepare()
    world.open()
    world.editor.settings_hash = "t" * 64
    beside.attach()
    assert world.run().live == "v000001"
    assert len(beside.started) == 2


def test_a_consolidation_with_other_numbers_is_begun_anew(beside):
    world = beside.world
    beside.ask("consolidate")
    world.run()
    beside.prepare()
    world.open()
    beside.attach(consolidation="epochs=7")
    assert world.run().live == "v000001"
    assert len(beside.started) == 2
    beside.prepare()
    assert world.run().live == "v000002"
    assert operation_state(world) == ["done"]


def test_a_compaction_knows_nothing_of_a_consolidations_numbers(beside):
    world = beside.world
    beside.ask()
    world.run()
    beside.prepare()
    world.open()
    beside.attach(consolidation="epochs=7")
    assert world.run().live == "v000002"
    assert len(beside.started) == 1


def test_a_result_of_other_numbers_is_not_taken_by_a_version_that_was_planned_before(beside):
    world = beside.world
    beside.ask("consolidate")
    world.run()
    beside.prepare()
    dies(world, Stage.PLANNED)
    world.open()
    beside.attach(consolidation="epochs=7")
    assert "other settings" in world.run().held
    world.run()
    assert len(beside.started) == 2
    beside.prepare()
    world.run()
    assert operation_state(world) == ["done"]
    world.check_agreement()


def test_many_changes_are_first_taken_over_by_the_process(beside, monkeypatch):
    monkeypatch.setattr("daemon.apply.background.jobs.TAKEN_OVER", 1)
    world = beside.world
    beside.ask()
    world.run()
    world.post("C", "three")
    world.post("D", "four")
    world.run()
    beside.prepare()
    assert world.run().live == "v000002"
    assert len(beside.started) == 2
    beside.prepare()
    world.post("E", "five")
    world.run()
    assert operation_state(world) == ["done"]
    assert beside.compacted() == {"id-A-one", "id-B-two"}
    assert len(world.store.load_state(world.ledger.questions.live_version()).ids) == 5
    world.check_agreement()


def test_a_stream_that_never_rests_is_caught_up_with_so_often_at_most(beside, monkeypatch):
    monkeypatch.setattr("daemon.apply.background.jobs.TAKEN_OVER", 0)
    world = beside.world
    beside.ask()
    world.run()
    for i in range(10):
        world.post(f"S{i}", "more")
        world.run()
        if operation_state(world) == ["done"]:
            break
        beside.prepare()
    assert operation_state(world) == ["done"]
    assert len(beside.started) == 4
    world.check_agreement()


def test_two_compactions_are_prepared_one_after_the_other(beside):
    world = beside.world
    beside.ask()
    beside.ask()
    world.run()
    world.run()
    assert len(beside.started) == 1
    beside.prepare()
    world.run()
    assert operation_state(world) == ["done", "pending"]
    assert [folder.name for folder, _ in beside.started] == ["op000001", "op000002"]


def test_how_far_it_is_stands_in_the_status_and_the_metrics(beside, monkeypatch):
    world = beside.world
    beside.ask()
    world.run()
    assert world.ledger.questions.status().background is None  # it has not told anything yet
    Job(beside.started[0][0]).tell("values", 0.4)
    world.run()
    told = status_view(world.ledger.questions.status())["background"]
    assert told == {"job": "compact", "operation": 1, "stage": "values", "fraction": 0.4}
    beside.prepare()
    world.run()
    world.run()
    assert world.ledger.questions.status().background is None


def test_a_correction_refused_for_wear_alone_waits_for_the_compaction_and_loses_no_attempt(make_world):
    world = make_world(max_attempts=2, guard_compact_versions=1)
    world.post("A", "wearing")
    world.run()
    beside = Beside(world)
    world.post("B", "light")
    world.run()
    assert [(str(o.kind), o.actor) for o in world.ledger.questions.operations()] == [("compact", "guard")]
    for _ in range(5):
        world.now += 6
        world.run()
    assert world.states()["id-B-light"] == "validated"
    assert world.ledger.questions.paused() is None
    assert len(beside.started) == 1


def test_an_operation_that_is_over_ends_its_process(beside):
    world = beside.world
    beside.ask()
    world.run()
    for id in ("id-A-one", "id-B-two"):
        world.ledger.intake.request("retract", id, actor="operator")
    world.run()
    world.run()
    assert operation_state(world) == ["done", "done", "done"]
    world.run()
    assert beside.process.killed
    assert not beside.folder.exists()
