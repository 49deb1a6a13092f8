"""The guard's steps, on fakes: what it does, how often, and what it says."""

import math

import pytest

from daemon.apply.ladder import REFUSED_ON_BASE, WORN_OUT
from daemon.http.status_page import page_view, snapshot
from daemon.http.views import status_view
from daemon.ledger.status import edits_left
from daemon.publish.stub import StubServing
from monitoring.measurements import Measurements


@pytest.fixture
def grown(make_world):
    """A function: a world in which each target became live in a version of its own."""

    def grow(*targets, **settings):
        world = make_world(**settings)
        for i, target in enumerate(targets):
            world.post(f"S{i}", target)
            world.run()
            world.now += 1
        return world

    return grow


def look_again(world, seconds=600):
    world.now += seconds
    return world.run()


def test_refusal_and_quarantine_are_steps_with_reasons_and_the_actor_guard(world):
    world.post("A", "fine")
    world.post("B", "bad")
    world.run()
    assert world.steps() == [("refuse", "v000001"), ("quarantine", "id-B-bad")]
    last = world.ledger.questions.transitions("id-B-bad", kind="correction")[-1]
    assert (last.new, last.actor, last.reason) == ("rejected", "guard", "does not answer")
    assert world.ledger.questions.version("v000001").verdict["blamed"] == ["id-B-bad"]
    assert world.ledger.questions.status().steps == {"refuse": 1, "quarantine": 1}


def test_what_the_editor_cannot_write_is_no_step_of_the_guard(world):
    world.post("A", "unwritable")
    world.run()
    assert world.states() == {"id-A-unwritable": "rejected"}
    assert world.steps() == []


def test_a_live_version_that_spoils_is_rolled_back_to_the_last_healthy_one(grown):
    world = grown("fine", "good", "rotten")
    hashes = world.store.weight_sha256("v000002")
    assert look_again(world).live == "v000002"
    assert world.editor.weight_hashes() == hashes
    row = world.ledger.questions.get("id-S2-rotten")
    assert (row.state, row.reason) == (
        "rolled_back",
        "rolled back to v000002: perplexity has risen since (guard)",
    )
    assert world.ledger.questions.transitions(row.id, kind="correction")[-1].actor == "guard"
    (operation,) = world.ledger.questions.operations()
    assert (operation.kind, operation.actor, operation.state) == ("rollback", "guard", "done")
    assert world.steps() == [("rollback", "v000003")]
    assert world.ledger.questions.status().rollbacks["guard"] == 1
    assert world.ledger.questions.version("v000003").verdict["outcome"] == "rejected"
    world.check_agreement()


def test_the_live_version_is_looked_at_on_schedule_only(grown):
    world = grown("rotten")
    assert look_again(world, 598).live == "v000001"
    assert look_again(world, 2).live == "v000000"


def test_with_a_schedule_of_zero_the_live_version_is_never_looked_at(grown):
    assert look_again(grown("rotten", guard_watch_seconds=0), 10**6).live == "v000001"


def test_after_the_clock_was_set_back_the_live_version_is_looked_at_once(world):
    world.post("A", "B")
    world.run()
    looks = []
    measure = world.applier.monitoring.measure
    watch = world.applier.monitoring._replace(measure=lambda *told: looks.append(1) or measure(*told))
    world.applier.monitoring = watch
    world.now -= 500.0
    for _ in range(3):
        world.run()
        world.now += 5.0
    assert len(looks) == 1


def test_looking_keeps_what_the_version_said_of_its_own_batch(world, monkeypatch):
    told = [{"efficacy_ratio": 1.0, "probe_kl_nats": 0.1}, {"efficacy_ratio": None, "probe_kl_nats": 0.5}]
    monkeypatch.setattr(world.fakes.FakeMeasurements, "to_json", lambda self: told.pop(0))
    world.post("A", "B")
    world.run()
    look_again(world)
    assert world.ledger.questions.status().measurements == {"efficacy_ratio": 1.0, "probe_kl_nats": 0.5}
    assert world.ledger.questions.status().watched_at == world.now


def test_a_condemned_or_damaged_version_is_no_place_to_go_back_to(grown):
    world = grown("fine", "rotten", "good", guard_dry_run=True)
    look_again(world)  # a dry run: v000003 is condemned for what v000002 brought, and stays
    assert world.ledger.questions.live_version() == "v000003"
    world.post("S3", "late")
    world.run()
    path = world.store.path("v000002") / "factors.safetensors"
    path.write_bytes(b"damaged")
    assert world.ledger.questions.healthy_versions() == ["v000002", "v000001", "v000000"]
    world.settings = world.settings.model_copy(update={"guard_dry_run": False})
    world.applier.settings = world.settings
    assert look_again(world).live == "v000001"
    world.check_agreement()


def test_what_is_not_known_never_rolls_back(grown):
    world = grown("misty")
    for _ in range(20):
        assert look_again(world).live == "v000001"
    assert set(world.steps()) == {("hold", "v000001")}
    assert world.ledger.questions.paused() is None


def test_a_judge_that_always_says_no_cannot_make_it_oscillate(grown, monkeypatch):
    world = grown(*"abcdef", guard_rollbacks=3, guard_compact_edits=0)
    judge = world.fakes.FakeVerdict("rejected", ("always no",))
    monitoring = world.applier.monitoring
    world.applier.monitoring = monitoring._replace(
        judge=lambda m, previous: judge if previous is None else monitoring.judge(m, previous)
    )
    for _ in range(10):
        look_again(world)
    assert [step for step, _ in world.steps()] == ["rollback"] * 3 + ["pause"]
    assert world.ledger.questions.live_version() == "v000003"
    paused = world.ledger.questions.paused()
    assert paused["actor"] == "guard"
    assert "3 rollbacks within 24 h are the limit, and always no" in paused["why"]
    world.post("later", "g")
    world.run()
    assert world.states()["id-later-g"] == "validated"
    world.applier.monitoring = monitoring
    world.ledger.intake.request("resume", actor="operator")
    look_again(world)
    assert world.ledger.questions.paused() is None
    assert world.states()["id-later-g"] == "live"
    world.check_agreement()


def test_nothing_is_begun_within_the_cool_down(grown):
    world = grown("fine", "rotten")
    look_again(world)
    world.post("A", "B")
    report = look_again(world, 30)
    assert "cool-down" in report.held
    assert world.ledger.questions.get("id-A-B").attempts == 0
    assert look_again(world, 31).live == "v000003"


def test_an_alert_has_the_budget_and_the_cool_down_of_the_guard(grown):
    world = grown(*"abc")
    numbers = []
    for name, target in [("one", "v000002"), ("two", "v000001")]:
        numbers.append(
            world.ledger.intake.request("rollback", target, actor=f"alert:{name}", why="Drift is firing")
        )
        world.run()
    done, refused = (world.ledger.questions.operation(number) for number in numbers)
    assert (done.state, refused.state) == ("done", "failed")
    assert "cool-down" in refused.reason
    assert world.ledger.questions.live_version() == "v000002"
    assert world.steps() == [("rollback", "v000003"), ("hold", "v000002")]
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    assert world.run().live == "v000001"  # an operator knows better


def test_inconclusive_verdicts_in_a_row_pause_the_queue(make_world):
    world = make_world(guard_holds=2, max_attempts=9)
    world.post("A", "foggy")
    for _ in range(4):
        look_again(world, 6)
    assert [step for step, _ in world.steps()] == ["hold", "hold", "pause"]
    assert "3 verdicts in a row were inconclusive" in world.ledger.questions.paused()["why"]
    assert world.ledger.questions.get("id-A-foggy").attempts == 3


def test_a_retraction_goes_live_though_the_guard_has_paused(grown):
    world = grown("fine", "rotten", guard_rollbacks=0)
    look_again(world)
    assert world.ledger.questions.paused()["actor"] == "guard"
    world.ledger.intake.request("retract", "id-S1-rotten", actor="operator")
    look_again(world, 1)
    assert world.states() == {"id-S0-fine": "live", "id-S1-rotten": "retracted"}
    assert world.ledger.questions.paused()["actor"] == "guard"
    world.ledger.intake.request("resume", actor="operator")
    look_again(world)
    assert world.ledger.questions.paused() is None
    assert world.ledger.questions.live_version() == "v000003"


def test_a_dry_run_publishes_and_says_what_it_would_have_done(make_world):
    world = make_world(guard_dry_run=True)
    world.post("A", "poison")
    world.post("B", "rotten")
    world.run()
    assert set(world.states().values()) == {"live"}
    assert look_again(world).live == "v000001"
    assert world.steps() == [("would_refuse", "v000001"), ("would_rollback", "v000001")]
    verdict = world.ledger.questions.version("v000001").verdict
    assert (verdict["outcome"], verdict["step"]) == ("rejected", "would_rollback")
    assert world.store.manifest("v000001")["verdict"]["step"] == "would_refuse"
    assert world.ledger.questions.operations() == []
    world.check_agreement()


# -- compaction -------------------------------------------------------------------------------------


def test_compaction_keeps_the_facts_and_rewrites_their_columns(grown):
    world = grown("B", "C")
    before = world.editor.weight_hashes()
    number = world.ledger.intake.request("compact", actor="operator:ann", why="spring")
    report = world.run()
    assert report.versions == ["v000003"]
    assert world.ledger.questions.operation(number).state == "done"
    assert world.editor.weight_hashes() != before
    assert world.store.manifest("v000003")["snapshot"]
    assert len(world.ledger.questions.history()) == 1
    assert set(world.states().values()) == {"live"}
    world.check_agreement()
    world.ledger.intake.request("rollback", "v000002", actor="operator")
    world.run()
    assert world.editor.weight_hashes() == before
    world.check_agreement()


def test_compacting_an_empty_model_is_done_at_once(world):
    number = world.ledger.intake.request("compact", actor="operator")
    assert world.run().live == "v000000"
    assert world.ledger.questions.operation(number).reason == "no fact is live: nothing to compact"


def test_a_compaction_that_is_refused_leaves_the_old_version(grown):
    world = grown("stiff")
    number = world.ledger.intake.request("compact", actor="operator")
    assert world.run().live == "v000001"
    assert world.ledger.questions.operation(number).state == "failed"
    assert world.ledger.questions.operation(number).reason == "compaction forgets"
    assert world.ledger.questions.paused() is None
    world.check_agreement()


def test_little_room_is_answered_by_compaction_once_in_so_many_versions(grown):
    world = grown("greedy", "greedy", "greedy", guard_compact_versions=3)
    asked = [o for o in world.ledger.questions.operations() if o.kind == "compact"]
    assert [o.actor for o in asked] == ["guard"]
    assert asked[0].why == "little room is left: drift is at its limit in 5 edits"
    assert [v.id for v in world.ledger.questions.versions() if v.operation] == ["v000002"]
    assert world.steps() == [("compact", "v000001")]
    world.post("more", "greedy")
    world.run()
    assert len(world.ledger.questions.operations()) == 2
    world.check_agreement()


def test_a_measure_of_the_batch_alone_asks_for_no_compaction(grown):
    world = grown()
    near = {"measure": "value_norm_ratio", "edits": 1.0}
    told = {"known": True, "nearest": "value_norm_ratio", "forecasts": [near]}
    world.applier.monitoring = world.applier.monitoring._replace(foresee=lambda history: told)
    world.post("A", "B")
    world.run()
    assert world.steps() == []


def test_an_own_compaction_that_is_refused_pauses_the_queue(grown):
    world = grown("stiff", "greedy")
    assert [step for step, _ in world.steps()] == ["compact", "refuse", "pause"]
    assert world.ledger.questions.paused()["why"] == "compact failed: compaction forgets"
    assert world.ledger.questions.policy().paused == "compact failed: compaction forgets"
    world.post("A", "B")
    world.run()
    assert world.states()["id-A-B"] == "validated"
    world.ledger.intake.request("resume", actor="operator")
    world.run()
    assert world.states()["id-A-B"] == "live"


@pytest.mark.parametrize(
    ("live", "posted", "measure"),
    [
        ("wearing", "heavy", "weight_norm_ratio"),
        ("fading", "crowded", "retention_ratio"),
        ("babbling", "loud", "probe_perplexity_ratio"),
    ],
)
def test_a_worn_model_is_compacted_and_at_last_paused(grown, live, posted, measure):
    world = grown(live, batch_size=1)
    for i in range(WORN_OUT + 2):
        world.post(f"H{i}", posted)
    world.run()
    steps = [step for step, _ in world.steps()]
    assert steps == ["refuse", "compact", *["refuse"] * WORN_OUT, "pause"]
    assert f"the model is worn: {measure}" in world.ledger.questions.paused()["why"]
    assert list(world.states().values()) == ["live", *["validated"] * (WORN_OUT + 2)]


def test_what_a_worn_model_refused_waits_until_there_is_room_again(grown):
    world = grown("wearing", batch_size=1)
    for i in range(WORN_OUT):
        world.post(f"H{i}", "light")
    world.run()
    assert world.ledger.questions.paused() is None
    look_again(world)
    assert "the model is worn" in world.ledger.questions.paused()["why"]
    world.ledger.intake.request("retract", "id-S0-wearing", actor="operator")
    world.ledger.intake.request("resume", actor="operator")
    look_again(world)
    assert list(world.states().values()) == ["retracted", *["live"] * WORN_OUT]
    world.check_agreement()


def test_what_is_refused_by_a_worn_model_again_and_again_is_dead_at_last(grown):
    world = grown("wearing", batch_size=1)
    world.post("H", "heavy")
    for _ in range(world.settings.max_attempts):
        look_again(world, 6)
    row = world.ledger.questions.get("id-H-heavy")
    assert (row.state, row.reason) == ("dead", "gave up after 3 attempts: weight_norm_ratio = 2")
    world.post("last", "good")
    look_again(world)
    assert world.states()["id-last-good"] == "live"


def test_a_worn_model_is_seen_through_the_halving_of_batches(grown):
    world = grown("wearing", batch_size=4)
    for i in range(4):
        world.post(f"H{i}", "heavy")
    world.run()
    steps = [step for step, _ in world.steps()]
    assert (steps.count("compact"), steps.count("quarantine"), steps[-1]) == (1, 0, "pause")
    assert list(world.states().values()).count("validated") == 4


def test_heavy_corrections_alone_do_not_pause_a_healthy_model(grown):
    world = grown("fine", batch_size=1)
    for i in range(WORN_OUT + 2):
        world.post(f"H{i}", "heavy")
    world.post("last", "good")
    world.run()
    assert world.ledger.questions.paused() is None
    assert world.states()["id-last-good"] == "live"
    assert not {"compact", "pause"} & {step for step, _ in world.steps()}


@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize(("target", "says"), [("bad", "does not answer"), ("poison", "perplexity rose")])
def test_where_nothing_is_ever_accepted_the_queue_is_paused(make_world, size, target, says):
    world = make_world(batch_size=size)
    for i in range(4 * REFUSED_ON_BASE):
        world.post(f"B{i}", target)
    world.run()
    assert world.ledger.questions.live_version() == "v000000"
    paused = world.ledger.questions.paused()
    assert paused is not None
    assert (
        f"the base is live, and the last {REFUSED_ON_BASE} single corrections were refused" in paused["why"]
    )
    assert says in paused["why"]
    assert [step for step, _ in world.steps()][-1] == "pause"
    assert "compact" not in {step for step, _ in world.steps()}
    assert "validated" in world.states().values()


def test_after_a_resume_as_many_are_tried_again(make_world):
    world = make_world(batch_size=1)
    for i in range(2 * REFUSED_ON_BASE + 1):
        world.post(f"B{i}", "bad")
    world.run()
    world.now += 1
    world.ledger.intake.request("resume", actor="operator")
    world.run()
    assert list(world.states().values()) == ["rejected"] * 2 * REFUSED_ON_BASE + ["validated"]
    assert [step for step, _ in world.steps()].count("pause") == 2


@pytest.mark.parametrize("good", [0, REFUSED_ON_BASE - 1])
def test_one_accepted_correction_and_the_queue_goes_on(make_world, good):
    world = make_world(batch_size=1)
    for i in range(2 * REFUSED_ON_BASE - 1):
        world.post(f"S{i}", "fine" if i == good else "bad")
    world.run()
    assert world.ledger.questions.paused() is None
    assert sorted(set(world.states().values())) == ["live", "rejected"]


def test_what_was_never_judged_does_not_count_as_refused(make_world):
    world = make_world(batch_size=1)
    for i in range(2 * REFUSED_ON_BASE):
        world.post(f"S{i}", "unwritable")
    world.run()
    assert world.ledger.questions.paused() is None


# -- forecast and small things ----------------------------------------------------------------------


def test_the_forecast_is_of_the_live_version_and_counts_edits_since_the_compaction(grown):
    world = grown("a", "b")
    assert [edits for edits, _ in world.ledger.questions.history()] == [1, 2]
    assert world.ledger.questions.forecast() == {
        "version": "v000002",
        "known": False,
        "nearest": "nothing yet: 2 of 8 versions",
        "forecasts": [],
    }
    world.ledger.intake.request("rollback", "v000001", actor="operator")
    world.run()
    assert world.ledger.questions.forecast()["version"] == "v000001"
    world.ledger.intake.request("compact", actor="operator")
    world.run()
    world.post("c", "c")
    world.run()
    assert [edits for edits, _ in world.ledger.questions.history()] == [0, 1]


def test_metrics_status_and_page_show_steps_and_forecast(grown, monkeypatch):
    world = grown("greedy", guard_compact_edits=0)
    world.post("bad", "bad")
    world.run()
    status = status_view(world.ledger.questions.status())
    assert status["forecast"] == "drift reaches 1 in 5 edits"
    assert (status["last_step"]["step"], status["last_step"]["on"]) == ("quarantine", "id-bad-bad")
    page = page_view(world.ledger, [])
    assert page["forecast"] == status["forecast"]
    assert "quarantine" in [step["step"] for step in page["last_steps"]]
    monkeypatch.setattr(Measurements, "from_json", lambda stored: Measurements())
    found = snapshot(world.ledger, [])
    assert found.edits_until_limit == 5.0
    assert found.steps == {"refuse": 1, "quarantine": 1}


@pytest.mark.parametrize(
    ("known", "edits", "left"),
    [(False, [], None), (True, [], math.inf), (True, [None], math.inf), (True, [7.0, None], 7.0)],
)
def test_edits_left_is_the_nearest_and_never_invented(known, edits, left):
    assert edits_left({"known": known, "forecasts": [{"edits": each} for each in edits]}) == left
    assert edits_left(None) is None


def test_an_idle_run_hashes_no_weights(grown, monkeypatch):
    world = grown("a")
    world.run()
    monkeypatch.setattr(world.editor, "weight_hashes", lambda: pytest.fail("hashed"))
    assert world.run().live == "v000001"


def test_the_stub_of_a_replica_passes_the_check_of_hashes(grown):
    world = grown("a")
    told = {fact.text: fact.target for fact in world.editor.state.facts}
    stub = StubServing(
        hashes=world.store.weight_sha256, log_prob=lambda version, passage: world.fakes.knows(told, passage)
    )
    world.applier.replicas = (stub,)
    assert world.run().held is None
    assert stub.published == ["v000001"]
