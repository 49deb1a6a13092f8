import random

import pytest

from monitoring.policy import Decision, Policy, PolicyState, decide, resumed
from monitoring.verdict import Verdict

POLICY = Policy(cooldown_seconds=60, rollback_budget=2, budget_seconds=1000, holds_allowed=2)
ACCEPTED, REJECTED, INCONCLUSIVE = (
    Verdict(outcome, () if outcome == "accepted" else (f"it is {outcome}",), (), {})
    for outcome in ("accepted", "rejected", "inconclusive")
)


def run(steps, policy=POLICY, state=None) -> list[Decision]:
    """Decisions on (time, verdict, where) in turn."""
    state, found = state or PolicyState(), []
    for now, verdict, judged in steps:
        found.append(decide(state, verdict, judged, now, policy))
        state = found[-1].state
    return found


@pytest.mark.parametrize(
    ("verdict", "judged", "action"),
    [
        (ACCEPTED, "staged", "accept"),
        (REJECTED, "staged", "refuse"),
        (INCONCLUSIVE, "staged", "hold"),
        (ACCEPTED, "live", "accept"),
        (REJECTED, "live", "rollback"),
        (INCONCLUSIVE, "live", "hold"),
    ],
)
def test_the_table_of_actions(verdict, judged, action):
    (decision,) = run([(0, verdict, judged)])
    assert decision.action == decision.would == action
    assert all(reason in decision.reason for reason in verdict.reasons)


def test_nothing_is_accepted_or_rolled_back_within_the_cool_down():
    steps = [
        (0, REJECTED, "live"),
        (30, ACCEPTED, "staged"),
        (31, REJECTED, "live"),
        (61, ACCEPTED, "staged"),
    ]
    assert [d.action for d in run(steps)] == ["rollback", "hold", "hold", "accept"]


def test_a_spent_budget_pauses_until_an_operator_resumes():
    steps = [(t, REJECTED, "live") for t in (0, 100, 200)]
    decisions = run([*steps, (5000, ACCEPTED, "staged")])
    assert [d.action for d in decisions] == ["rollback", "rollback", "pause", "pause"]
    assert "2 rollbacks" in decisions[-1].reason
    after = resumed(decisions[-1].state)
    assert run([(5001, ACCEPTED, "staged")], state=after)[0].action == "accept"


def test_a_clock_that_is_set_back_makes_the_rest_longer_and_never_shorter():
    steps = [(1000, REJECTED, "live"), (10, ACCEPTED, "staged"), (69, ACCEPTED, "staged")]
    assert [d.action for d in run(steps)] == ["rollback", "hold", "hold"]
    assert run([*steps, (70, ACCEPTED, "staged")])[-1].action == "accept"


def test_the_budget_comes_back_with_time():
    steps = [(t, REJECTED, "live") for t in (0, 100, 1001, 1102)]
    assert [d.action for d in run(steps)] == ["rollback"] * 4


def test_too_many_holds_pause_and_one_answer_starts_the_count_anew():
    held = (0, INCONCLUSIVE, "staged")
    assert [d.action for d in run([held] * 3)] == ["hold", "hold", "pause"]
    broken = [held, held, (0, REJECTED, "staged"), held]
    assert [d.action for d in run(broken)] == ["hold", "hold", "refuse", "hold"]
    assert {d.action for d in run([(0, INCONCLUSIVE, "live")] * 9)} == {"hold"}


def test_a_dry_run_changes_nothing_and_says_what_it_would_do():
    decisions = run([(0, REJECTED, "live"), (1, INCONCLUSIVE, "staged")], Policy(dry_run=True))
    assert [(d.action, d.would) for d in decisions] == [("accept", "rollback"), ("accept", "hold")]
    assert decisions[-1].state == PolicyState()


def test_the_state_survives_json():
    state = PolicyState(rollbacks=(1.5, 2.5), holds=1, paused="why")
    assert PolicyState.from_json(state.to_json()) == state
    assert PolicyState.from_json(None) == PolicyState()


@pytest.mark.parametrize("seed", range(20))
def test_no_stream_of_verdicts_makes_it_oscillate(seed):
    chance, now, state = random.Random(seed), 0.0, PolicyState()
    rollbacks, settled = [], []
    for _ in range(2000):
        now += chance.expovariate(1 / 20)
        verdict = chance.choice([ACCEPTED, ACCEPTED, REJECTED, INCONCLUSIVE])
        judged = chance.choice(["staged", "live"])
        paused = state.paused
        decision = decide(state, verdict, judged, now, POLICY)
        state = decision.state
        if paused is not None:
            assert decision.action == "pause"
        if decision.action == "rollback":
            assert (verdict, judged) == (REJECTED, "live")
            rollbacks.append(now)
        if decision.action == "accept":
            assert verdict is ACCEPTED
            if judged == "staged" and rollbacks:
                settled.append(now - rollbacks[-1])
        if state.paused is not None and chance.random() < 0.1:
            state, rollbacks = resumed(state), rollbacks[-1:]
        for i in range(len(rollbacks) - 1):
            assert rollbacks[i + 1] - rollbacks[i] >= POLICY.cooldown_seconds
        recent = [t for t in rollbacks if now - t < POLICY.budget_seconds]
        assert len(recent) <= POLICY.rollback_budget
    assert settled
    assert min(settled) >= POLICY.cooldown_seconds
