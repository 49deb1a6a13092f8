"""What becomes of an alert: asked for once, carried out by the applier, and answered."""

import threading
from datetime import UTC, datetime

import pytest

from daemon.core.ruling import guard_policy
from daemon.http.alerts import Alert, AlertDesk


def alert(world, name="Drift", fingerprint="abc", *, began=0.0, status="firing", **labels):
    labels = {"alertname": name, "factd_action": "rollback"} | labels
    starts = datetime.fromtimestamp(world.now + began, UTC)
    return Alert(status=status, labels=labels, fingerprint=fingerprint, startsAt=starts)


@pytest.fixture
def grown(make_world):
    """A function: a world with three live versions, a second apart, and its desk."""

    def grow(**settings):
        world = make_world(guard_watch_seconds=0, **settings)
        for i in range(3):
            world.post(f"S{i}", "fine")
            world.run()
            world.now += 1
        return world, AlertDesk(world.ledger, guard_policy(world.settings))

    return grow


def test_a_firing_alert_rolls_back_to_the_newest_healthy_version_once(grown):
    world, desk = grown()
    fires = alert(world)
    said = desk.answer(fires)
    assert said == {
        "fingerprint": "abc",
        "alertname": "Drift",
        "action": "rollback",
        "from": "v000003",
        "to": "v000002",
        "operation": 1,
    }
    assert desk.answer(fires)["why"] == "handled before"
    assert world.run().live == "v000002"
    again = desk.answer(fires)
    assert (again["action"], again["operation"], again["state"]) == ("none", 1, "done")
    world.now += 10**6
    assert desk.answer(fires)["why"] == "handled before"
    assert world.ledger.questions.get("id-S2-fine").reason == (
        f"rolled back to v000002: Drift is firing ({world.ledger.questions.operation(1).actor})"
    )
    assert world.ledger.questions.status().rollbacks["alert"] == 1
    world.check_agreement()


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"status": "resolved"}, "status is resolved"),
        ({"factd_action": ""}, "no label factd_action=rollback"),
        ({"factd_action": "page"}, "no label factd_action=rollback"),
        ({"factd_model": "poems"}, "factd_model is 'poems', and this model's name is ''"),
    ],
)
def test_resolved_alerts_and_those_that_name_no_rollback_change_nothing(grown, labels, why):
    world, desk = grown()
    said = desk.answer(alert(world, **labels))
    assert (said["action"], said["why"]) == ("none", why)
    assert world.ledger.questions.operations() == []


def test_a_named_model_hears_the_alerts_that_name_it(grown):
    world, _ = grown()
    desk = AlertDesk(world.ledger, guard_policy(world.settings), "poems")
    assert desk.answer(alert(world))["why"] == "factd_model is '', and this model's name is 'poems'"
    assert desk.answer(alert(world, factd_model="poems"))["action"] == "rollback"


def test_two_alerts_of_one_drift_are_one_rollback(grown):
    world, desk = grown()
    first, second = alert(world), alert(world, "Other", "def", began=-30)
    assert desk.answer(first)["action"] == "rollback"
    assert desk.answer(second)["why"] == "a rollback is under way"
    world.run()
    assert desk.answer(second)["why"] == "a rollback answers it already"
    world.now += 10**6
    assert desk.answer(second)["why"] == "a rollback answers it already"
    assert len(world.ledger.questions.operations()) == 1


def test_a_new_alert_waits_for_the_end_of_the_cool_down_and_is_then_heard(grown):
    world, desk = grown(guard_cooldown_seconds=60)
    desk.answer(alert(world))
    world.run()
    world.now += 30
    fires = alert(world)  # resolved meanwhile, and firing again
    assert desk.answer(fires)["why"] == "cool-down after a rollback, though Drift is firing"
    assert len(world.ledger.questions.operations()) == 1
    world.now += 31
    assert desk.answer(fires)["to"] == "v000001"
    assert world.run().live == "v000001"


def test_a_failed_rollback_answers_no_other_alert(grown):
    world, desk = grown()
    for version in ("v000001", "v000002"):
        (world.store.path(version) / "factors.safetensors").write_bytes(b"damaged")
    desk.answer(alert(world))
    world.run()
    assert world.ledger.questions.operation(1).state == "failed"
    world.now += 61
    assert desk.answer(alert(world, "Other", "def", began=-100))["action"] == "rollback"


def test_when_the_budget_is_spent_the_queue_is_paused_and_alerts_say_so(grown):
    world, desk = grown(guard_rollbacks=1, guard_cooldown_seconds=0)
    for fingerprint in "ab":
        world.now += 1
        desk.answer(alert(world, fingerprint=fingerprint))
        world.run()
    assert world.ledger.questions.live_version() == "v000002"
    assert world.ledger.questions.paused()["actor"] == "guard"
    world.now += 1
    said = desk.answer(alert(world, fingerprint="c"))
    assert said["why"].startswith("the guard has paused: 1 rollbacks within 24 h are the limit")
    assert len(world.ledger.questions.operations()) == 2


def test_a_dry_run_says_what_it_would_have_done(grown):
    world, desk = grown(guard_dry_run=True)
    desk.answer(alert(world))
    assert world.run().live == "v000003"
    assert world.ledger.questions.operation(1).reason == "a dry run"
    assert ("would_rollback", "v000003") in world.steps()


def test_the_base_model_has_nothing_to_go_back_to(world):
    desk = AlertDesk(world.ledger, guard_policy(world.settings))
    assert desk.answer(alert(world))["why"] == "the base model is live"


def test_one_alert_from_many_senders_at_once_is_one_operation(grown):
    world, desk = grown()
    fires, start, said = alert(world), threading.Barrier(8), []

    def send():
        start.wait()
        said.append(desk.answer(fires)["action"])

    senders = [threading.Thread(target=send) for _ in range(8)]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    assert sorted(said) == ["none"] * 7 + ["rollback"]
    assert len(world.ledger.questions.operations()) == 1
