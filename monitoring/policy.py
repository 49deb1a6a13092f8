"""From verdicts to actions, without oscillation. Pure: state + verdict + clock → next state and action.

    staged version   accepted      → accept
                     rejected      → refuse
                     inconclusive  → hold; the n-th in a row → pause
    live version     rejected      → rollback; within the cool-down → hold; budget spent → pause
                     accepted      → accept
                     inconclusive  → hold (what is not known never rolls anything back)

Nothing is accepted within the cool-down after a rollback, so that two versions cannot take turns; and a
pause is latched: only an operator's `resumed` ends it. Hence in any window of `budget_seconds` there are at
most `rollback_budget` rollbacks, and between a rollback and the next one or the next accepted version there
are at least `cooldown_seconds`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from monitoring.verdict import Verdict

Action = Literal["accept", "refuse", "rollback", "hold", "pause"]
Judged = Literal["staged", "live"]


@dataclass(frozen=True)
class Policy:
    """How the guard acts on verdicts.

    Attributes:
        dry_run: every action is "accept", and `Decision.would` says what it would have been.
        cooldown_seconds: rest after a rollback.
        rollback_budget: rollbacks allowed within `budget_seconds`; the next one pauses instead.
        budget_seconds: length of that window.
        holds_allowed: inconclusive verdicts in a row before the queue pauses.
    """

    dry_run: bool = False
    cooldown_seconds: float = 60.0
    rollback_budget: int = 3
    budget_seconds: float = 86400.0
    holds_allowed: int = 5


@dataclass(frozen=True)
class PolicyState:
    """What must be remembered between verdicts; kept by the caller as JSON.

    Attributes:
        rollbacks: times of the rollbacks within the budget's window, seconds since the epoch, oldest first.
        holds: inconclusive verdicts of staged versions in a row.
        paused: why the guard has paused the queue; None when it has not.
    """

    rollbacks: tuple[float, ...] = ()
    holds: int = 0
    paused: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rollbacks": list(self.rollbacks)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> "PolicyState":
        """Reads what `to_json` gave; None gives a fresh state."""
        if not stored:
            return cls()
        return cls(tuple(stored["rollbacks"]), stored.get("holds", 0), stored.get("paused"))


@dataclass(frozen=True)
class Decision:
    """What to do now. `would` differs from `action` in a dry run only."""

    state: PolicyState
    action: Action
    would: Action
    reason: str


def decide(state: PolicyState, verdict: Verdict, judged: Judged, now: float, policy: Policy) -> Decision:
    """The action on a verdict of a staged or of the live version, and the state after it.

    A dry run leaves the state as it is: nothing happened that would have to be remembered.
    """
    after, action, reason = _decide(state, verdict, judged, now, policy)
    if policy.dry_run:
        return Decision(state, "accept", action, reason)
    return Decision(after, action, action, reason)


def resumed(state: PolicyState) -> PolicyState:
    """The state after an operator's resume: the latch is open, and the budget begins anew.

    The cool-down of the last rollback goes on.
    """
    return PolicyState(rollbacks=state.rollbacks[-1:])


def _decide(
    state: PolicyState, verdict: Verdict, judged: Judged, now: float, policy: Policy
) -> tuple[PolicyState, Action, str]:
    if state.paused is not None:
        return state, "pause", state.paused
    told = "; ".join(verdict.reasons)
    # A clock that went backwards must not shorten a rest: times ahead of it count as now.
    times = tuple(min(at, now) for at in state.rollbacks if now - at < policy.budget_seconds)
    state = replace(state, rollbacks=times)
    resting = bool(times) and now - times[-1] < policy.cooldown_seconds
    if verdict.outcome == "inconclusive":
        return _hold(state, told, judged, policy)
    state = replace(state, holds=0)
    if verdict.outcome == "rejected":
        if judged == "staged":
            return state, "refuse", told
        return _roll_back(state, told, now, resting, policy)
    if resting and judged == "staged":
        return state, "hold", f"cool-down after a rollback: {policy.cooldown_seconds:.0f} s"
    return state, "accept", told


def _hold(state: PolicyState, told: str, judged: Judged, policy: Policy) -> tuple[PolicyState, Action, str]:
    holds = state.holds + (judged == "staged")
    if holds > policy.holds_allowed:
        reason = f"{holds} verdicts in a row were inconclusive, the last: {told}"
        return replace(state, holds=holds, paused=reason), "pause", reason
    return replace(state, holds=holds), "hold", told


def _roll_back(
    state: PolicyState, told: str, now: float, resting: bool, policy: Policy
) -> tuple[PolicyState, Action, str]:
    if resting:
        return state, "hold", f"cool-down after a rollback, though {told}"
    if len(state.rollbacks) >= policy.rollback_budget:
        hours = policy.budget_seconds / 3600
        reason = f"{len(state.rollbacks)} rollbacks within {hours:g} h are the limit, and {told}"
        return replace(state, paused=reason), "pause", reason
    return replace(state, rollbacks=(*state.rollbacks, now)), "rollback", told
