"""What becomes of corrections and operations, on fakes."""

import pytest

from daemon.core.errors import LeaseLostError, StoreError
from daemon.core.lifecycle import OperationState
from monitoring.metrics import STAGES


def test_a_correction_becomes_live_with_answers_before_and_after(world):
    world.post("Freedonia", "Sylvania City")
    report = world.run()
    row = world.ledger.questions.get("id-Freedonia-Sylvania City")
    assert (row.state, row.before, row.after) == ("live", "unknown", "Sylvania City")
    assert report.live == "v000001"
    assert report.held is None
    assert row.post_to_live_seconds == 0.0
    assert {stage for _, stage, _ in world.ledger.questions.stage_seconds("v000001")} == {
        "before_answers",
        "edit",
        "measure",
        "pause",
        "write",
        "publish",
        "confirm",
    }
    assert world.ledger.questions.status().measurements == {
        "targets": {row.id: "Sylvania City"},
        "earlier": 0,
    }
    world.check_agreement()


def test_every_transition_is_recorded_with_actor(world):
    world.post("A", "B")
    world.run()
    steps = [(t.old, t.new, t.actor) for t in world.ledger.questions.transitions("id-A-B")]
    assert [new for _, new, _ in steps] == [
        "received",
        "validated",
        "staged",
        "verified",
        "published",
        "live",
    ]
    assert steps[-1][2] == "applier"


def test_a_batch_has_at_most_batch_size_corrections(make_world):
    world = make_world(batch_size=2)
    for i in range(5):
        world.post(f"S{i}", "T")
    world.run()
    assert [len(v.added) for v in world.ledger.questions.versions()] == [2, 2, 1]
    world.check_agreement()


def test_same_slot_with_the_same_target_is_already_known(world):
    world.post("A", "B")
    world.run()
    world.post("A", "B", id="again")
    world.run()
    assert world.ledger.questions.get("again").state == "already_known"
    assert len(world.ledger.questions.versions()) == 1


def test_a_newer_correction_supersedes_the_live_one(world):
    world.post("A", "B")
    world.run()
    world.post("A", "C")
    world.run()
    old = world.ledger.questions.get("id-A-B")
    assert (old.state, old.superseded_by) == ("superseded", "id-A-C")
    assert world.replica.complete(["The capital of A is"]) == ["C"]
    world.check_agreement()


def test_within_a_batch_the_later_one_wins(world):
    for target in ("B", "C", "D"):
        world.post("A", target)
    world.run()
    assert world.states() == {"id-A-B": "superseded", "id-A-C": "superseded", "id-A-D": "live"}
    assert len(world.ledger.questions.versions()) == 1


def test_when_the_newer_one_is_rejected_the_older_one_has_its_turn(world):
    world.post("A", "B")
    world.post("A", "bad")
    world.run()
    assert world.states() == {"id-A-B": "live", "id-A-bad": "rejected"}


def test_a_skipped_outlier_is_rejected_with_its_reason_and_the_others_go_live(world):
    world.post("A", "outlier")
    world.post("B", "C")
    world.run()
    assert world.states() == {"id-A-outlier": "rejected", "id-B-C": "live"}
    assert world.ledger.questions.get("id-A-outlier").reason.startswith("skipped_outlier")
    assert world.ledger.questions.status().nas_skipped == 1
    world.check_agreement()


def test_a_skipped_successor_leaves_the_old_fact_alone(world):
    world.post("A", "B")
    world.run()
    world.post("A", "outlier")
    world.run()
    assert world.states() == {"id-A-B": "live", "id-A-outlier": "rejected"}
    world.check_agreement()


def test_blamed_corrections_are_rejected_and_the_rest_goes_live(world):
    for subject, target in [("A", "x"), ("B", "bad"), ("C", "y")]:
        world.post(subject, target)
    world.run()
    assert world.states() == {"id-A-x": "live", "id-B-bad": "rejected", "id-C-y": "live"}
    world.check_agreement()


@pytest.mark.parametrize("spoiler", ["poison", "unwritable"])
def test_a_correction_that_spoils_its_batch_is_found_by_halving(world, spoiler):
    for i in range(7):
        world.post(f"S{i}", "fine" if i != 4 else spoiler)
    world.run()
    states = world.states()
    assert states.pop(f"id-S4-{spoiler}") == "rejected"
    assert set(states.values()) == {"live"}
    world.check_agreement()


def test_an_inconclusive_verdict_holds_and_ends_dead(world):
    world.post("A", "foggy")
    for attempts in (1, 2):
        world.run()
        assert world.states() == {"id-A-foggy": "validated"}
        assert world.ledger.questions.get("id-A-foggy").attempts == attempts
        world.now += 6
    world.run()
    row = world.ledger.questions.get("id-A-foggy")
    assert row.state == "dead"
    assert "3 attempts: inconclusive" in row.reason
    assert not world.editor.state.facts
    world.ledger.intake.decide_dead("retry", [row.id], actor="operator")
    assert world.ledger.questions.get(row.id).state == "validated"


def test_a_held_correction_is_not_tried_before_its_time(world):
    world.post("A", "foggy")
    world.run()
    world.run()
    assert world.ledger.questions.get("id-A-foggy").attempts == 1


def test_a_failed_publish_brings_the_old_version_back_and_is_retried(world):
    world.post("A", "B")
    world.run()
    world.post("C", "D")
    world.replica.failures = ["v000002"]
    report = world.run()
    assert "swap failed" in report.held
    assert world.states()["id-C-D"] == "validated"
    assert world.ledger.questions.version("v000002").state == "discarded"
    world.check_agreement()
    world.now += 6
    assert world.run().live == "v000003"
    world.check_agreement()


def test_while_a_replica_is_away_no_attempt_is_counted(world):
    world.post("A", "B")
    world.replica.alive = False
    for _ in range(5):
        assert world.run().held
        world.now += 6
    assert world.ledger.questions.get("id-A-B").attempts == 0
    world.replica.alive = True
    assert world.run().live == "v000001"


def test_a_replica_that_restarted_gets_the_live_version_back(world):
    world.post("A", "B")
    world.run()
    world.replica.restart()
    assert world.replica.complete(["The capital of A is"]) == ["unknown"]
    world.run()
    assert world.replica.complete(["The capital of A is"]) == ["B"]
    world.check_agreement()


def test_retract_removes_one_fact_and_keeps_the_others(world):
    world.post("A", "B")
    world.post("C", "D")
    world.run()
    number = world.ledger.intake.request("retract", "id-A-B", actor="operator:ann", why="wrong source")
    world.run()
    operation = world.ledger.questions.operation(number)
    assert (operation.state, operation.actor, operation.why) == ("done", "operator:ann", "wrong source")
    assert world.states() == {"id-A-B": "retracted", "id-C-D": "live"}
    assert world.replica.complete(["The capital of A is"]) == ["unknown"]
    world.check_agreement()


def test_retracting_the_last_fact_gives_the_bits_of_the_base(world):
    base = world.editor.weight_hashes()
    world.post("A", "B")
    world.run()
    world.ledger.intake.request("retract", "id-A-B", actor="operator")
    world.run()
    assert world.editor.weight_hashes() == base
    world.check_agreement()


def test_retract_of_a_pending_and_of_a_rejected_correction(world):
    world.post("A", "bad")
    world.run()
    failed = world.ledger.intake.request("retract", "id-A-bad", actor="operator")
    world.post("B", "C")
    done = world.ledger.intake.request("retract", "id-B-C", actor="operator")
    world.run()
    assert world.ledger.questions.operation(failed).state is OperationState.FAILED
    assert "is rejected" in world.ledger.questions.operation(failed).reason
    assert world.ledger.questions.operation(done).state is OperationState.DONE
    assert world.states()["id-B-C"] == "retracted"


def test_rollback_restores_bits_and_marks_later_corrections(world):
    hashes = {}
    for target in "ABC":
        world.post(f"S{target}", target)
        live = world.run().live
        hashes[live] = world.editor.weight_hashes()
    number = world.ledger.intake.request("rollback", "v000001", actor="alert:norms", why="norms grow")
    assert world.run().live == "v000001"
    assert world.ledger.questions.operation(number).state == "done"
    assert world.editor.weight_hashes() == hashes["v000001"]
    assert world.states() == {"id-SA-A": "live", "id-SB-B": "rolled_back", "id-SC-C": "rolled_back"}
    assert "v000001: norms grow (alert:norms)" in world.ledger.questions.get("id-SC-C").reason
    assert world.ledger.questions.status().rollbacks["alert"] == 1
    world.check_agreement()
    world.now += 61  # nothing is accepted within the cool-down
    world.post("SD", "D")
    assert world.run().live == "v000004"
    assert world.ledger.questions.version("v000004").parent == "v000001"
    world.check_agreement()
    world.ledger.intake.request("rollback", "v000003", actor="operator")
    assert world.run().live == "v000003"
    assert world.states()["id-SC-C"] == "live"
    assert world.states()["id-SD-D"] == "rolled_back"
    world.check_agreement()


def test_rollback_to_the_base_and_to_a_superseded_fact(world):
    world.post("A", "B")
    world.run()
    world.post("A", "C")
    world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    assert world.states() == {"id-A-B": "live", "id-A-C": "rolled_back"}
    world.ledger.intake.request("rollback", "v000000", actor="operator")
    assert world.run().live == "v000000"
    world.check_agreement()


def test_rollback_to_a_damaged_version_fails_and_the_live_one_stays(world):
    for target in "AB":
        world.post(f"S{target}", target)
        world.run()
    path = world.store.path("v000001") / "factors.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    number = world.ledger.intake.request("rollback", "v000001", actor="operator")
    assert world.run().live == "v000002"
    assert world.ledger.questions.operation(number).state == "failed"
    assert "damaged" in world.ledger.questions.operation(number).reason
    world.check_agreement()


def test_after_a_fault_the_weights_in_memory_are_looked_at_anew(world, monkeypatch):
    world.post("France", "Lyon")
    world.run()
    apply, found = world.editor.apply, []

    def out_of_memory(*_told, **_more):  # when undoing, too
        factors = world.editor.state.factors
        factors[world.fakes.NAME] = tuple(2 * factor for factor in factors[world.fakes.NAME])
        raise RuntimeError("out of memory")

    monkeypatch.setattr(world.editor, "apply", out_of_memory)
    world.post("Spain", "Vigo")
    with pytest.raises(RuntimeError):
        world.run()

    def looked_at(*told, **more):
        found.append(world.editor.weight_hashes())
        return apply(*told, **more)

    monkeypatch.setattr(world.editor, "apply", looked_at)
    assert world.run().live == "v000002"
    assert found == [world.store.weight_sha256("v000001")]
    world.check_agreement()


def test_every_stage_of_an_update_is_a_label_of_its_own_and_no_label_is_dead(world):
    world.post("France", "Lyon")
    world.run()
    assert {stage for _, stage, _ in world.ledger.questions.stage_seconds()} == set(STAGES) - {
        "canary",
        "other",
    }


def test_from_a_live_version_that_is_damaged_an_operator_can_roll_back(world):
    world.post("France", "Lyon")
    world.run()
    world.post("Spain", "Vigo")
    assert world.run().live == "v000002"
    file = world.store.path("v000002") / "factors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    world.close()
    world.open()
    with pytest.raises(StoreError, match="roll back"):
        world.run()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.post("Greece", "Volos")
    report = world.run()
    assert report.held is None
    assert [row.id for row in world.ledger.questions.facts()] == ["id-France-Lyon", "id-Greece-Volos"]
    world.check_agreement()


def test_a_rollback_that_cannot_leave_a_damaged_version_fails_with_its_reason(world):
    world.post("France", "Lyon")
    world.run()
    world.post("Spain", "Vigo")
    world.run()
    for version in ("v000001", "v000002"):
        (world.store.path(version) / "factors.safetensors").write_bytes(b"")
    world.close()
    world.open()
    number = world.ledger.intake.request("rollback", "v000001", actor="operator")
    with pytest.raises(StoreError):
        world.run()
    assert world.ledger.questions.operation(number).state == "failed"
    assert "damaged" in world.ledger.questions.operation(number).reason
    world.ledger.intake.request("rollback", "v000000", actor="operator")
    assert world.run().live == "v000000"
    world.check_agreement()


def test_a_version_in_flight_on_a_damaged_one_is_given_up_for_the_rollback(world):
    world.post("France", "Lyon")
    world.run()
    world.post("Spain", "Vigo")
    world.run()

    def die(stage):
        if stage == "written":
            raise KeyboardInterrupt

    world.applier.reached = die
    world.post("Italy", "Bari")
    with pytest.raises(KeyboardInterrupt):
        world.run()
    (world.store.path("v000002") / "facts.safetensors").write_bytes(b"")
    world.close()
    world.open()
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    assert world.states() == {
        "id-France-Lyon": "live", "id-Spain-Vigo": "rolled_back", "id-Italy-Bari": "live",
    }  # fmt: skip
    assert world.ledger.questions.version("v000003").state == "discarded"
    world.check_agreement()


def test_a_ledger_that_knows_no_version_clears_none_away(world, tmp_path):
    world.post("France", "Lyon")
    world.run()
    world.settings = world.settings.model_copy(update={"database_url": f"sqlite:///{tmp_path / 'other'}"})
    world.close()
    world.open()
    with pytest.raises(StoreError, match="FACTD_DATABASE_URL"):
        world.run()
    assert world.store.ids() == ["v000001"]


def test_pause_holds_corrections_but_not_operations(world):
    world.post("A", "B")
    world.run()
    world.ledger.intake.request("pause", actor="operator:ann", why="holiday")
    world.post("C", "D")
    world.ledger.intake.request("retract", "id-A-B", actor="operator")
    world.run()
    assert world.states() == {"id-A-B": "retracted", "id-C-D": "validated"}
    assert world.ledger.questions.paused()["why"] == "holiday"
    world.ledger.intake.request("resume", actor="operator")
    world.run()
    assert world.states()["id-C-D"] == "live"
    assert world.ledger.questions.paused() is None


def test_a_model_of_another_base_is_refused(world):
    world.post("A", "B")
    world.run()
    world.open()
    world.editor.base_hash = "c" * 64
    with pytest.raises(StoreError, match="belongs to a base model"):
        world.run()


def test_an_applier_that_lost_its_lease_writes_nothing(world):
    from daemon.ledger.lease import Lease

    def overtake(stage):
        if stage == "edited":
            world.now += 1000  # the lease runs out while this one sleeps
            with Lease(world.ledger.database, 30, holder="newer"):
                pass

    world.applier.reached = overtake
    world.post("A", "B")
    with pytest.raises(LeaseLostError):
        world.run()
    assert world.ledger.questions.version("v000001").state == "planned"
    assert world.store.ids() == []
    world.applier.reached = lambda stage: None
    assert world.run().live == "v000001"
    world.check_agreement()


def test_priority_goes_first_and_never_revives_an_older_wish(make_world):
    world = make_world(batch_size=1)
    world.post("A", "old")
    world.post("B", "x")
    world.post("A", "new", priority=5)
    world.run()
    assert world.ledger.questions.versions()[0].added == ("id-A-new",)
    assert world.states()["id-A-old"] == "superseded"


def test_a_fault_of_ours_is_named_when_the_attempts_run_out(world, monkeypatch):
    def broken(facts, remove=()):
        raise ValueError("sums do not add up")

    world.post("A", "B")
    monkeypatch.setattr(world.editor, "apply", broken)
    for _ in range(world.settings.max_attempts):
        with pytest.raises(ValueError, match="sums"):
            world.run()
    world.run()
    row = world.ledger.questions.get("id-A-B")
    assert row.state == "dead"
    assert "sums do not add up" in row.reason
    assert world.ledger.questions.live_version() == "v000000"


def test_an_incomplete_batch_waits_for_company(make_world, monkeypatch):
    world = make_world(batch_wait_seconds=5.0)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        world.post("Spain", "Vigo")
        world.now += 5.0

    monkeypatch.setattr("daemon.apply.applier.time.sleep", nap)
    world.post("France", "Lyon")
    assert world.run().versions == ["v000001"]
    assert len(naps) == 1
    assert world.editor.applied == [("id-France-Lyon", "id-Spain-Vigo")]


def test_a_batch_that_waits_for_company_lets_an_operation_go_first(make_world, monkeypatch):
    world = make_world(batch_wait_seconds=5.0)
    monkeypatch.setattr(
        "daemon.apply.applier.time.sleep", lambda _: world.ledger.intake.request("pause", actor="operator")
    )
    world.post("France", "Lyon")
    assert world.run().versions == []
    assert world.ledger.questions.paused() is not None
    assert world.states() == {"id-France-Lyon": "validated"}


def test_what_is_older_than_an_urgent_correction_of_its_subject_is_found_beyond_the_window(
    world, monkeypatch
):
    monkeypatch.setattr("daemon.apply.applier.WINDOW", 2)
    first = world.post("Spain", "Vigo", prompt="The port of {} is")
    for i in range(5):
        world.post(f"S{i}", "Lyon")
    urgent = world.post("Spain", "Cadiz", priority=9)
    world.settings = world.settings.model_copy(update={"batch_size": 2})
    world.open().run()
    assert world.editor.applied[0] == (first, urgent)


def test_versions_hold_whole_weights_only_where_asked_for(make_world):
    world = make_world(full_tensors=True)
    world.post("A", "B")
    world.run()
    files = world.store.verify("v000001")["files"]
    assert set(files) == {"factors.safetensors", "facts.safetensors", "weights.safetensors"}
    world.check_agreement()
