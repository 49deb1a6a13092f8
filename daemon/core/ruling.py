"""The guard's verdict on a version and the action that follows, as one value for the ledger."""

from dataclasses import dataclass
from typing import Any, Literal

from daemon.core.lifecycle import OperationKind
from daemon.core.settings import Settings
from editing.consolidation.numbers import unable
from monitoring.policy import Decision, Policy
from monitoring.verdict import Verdict

#: The actor in the ledger of what the guard does by itself.
GUARD = "guard"


def guard_policy(settings: Settings) -> Policy:
    """How the guard acts on verdicts, by the settings."""
    return Policy(
        dry_run=settings.guard_dry_run,
        cooldown_seconds=settings.guard_cooldown_seconds,
        rollback_budget=settings.guard_rollbacks,
        holds_allowed=settings.guard_holds,
    )


def guard_rewrites(settings: Settings) -> OperationKind:
    """What the guard asks for where room is short."""
    consolidates = settings.guard_rewrites == "consolidate" and why_compacts(settings) is None
    return OperationKind.CONSOLIDATE if consolidates else OperationKind.COMPACT


def why_compacts(settings: Settings) -> str | None:
    """Why the guard compacts though it is told to consolidate; None where it does what it is told."""
    if settings.guard_rewrites != "consolidate":
        return None
    if (why := unable(settings.method, settings.protect)) is not None:
        return f"FACTD_METHOD = {settings.method!r}, FACTD_PROTECT = {settings.protect!r}: {why}"
    if not settings.background:
        return "FACTD_BACKGROUND = false: the applier would do it itself, and corrections wait for hours"
    return None


@dataclass(frozen=True)
class Ruling:
    """A verdict on a staged or on the live version, and the action that the policy takes on it."""

    judged: Literal["staged", "live"]
    verdict: Verdict
    decision: Decision

    @property
    def action(self) -> str:
        return self.decision.action

    @property
    def reason(self) -> str:
        return self.decision.reason

    @property
    def step(self) -> str | None:
        """The step of the ladder, `would_…` in a dry run; None when the version passes."""
        would = self.decision.would
        if would == "accept":
            return None
        return would if self.action == would else f"would_{would}"

    def to_json(self) -> dict[str, Any]:
        """What is kept with the version."""
        verdict = self.verdict
        told: dict[str, Any] = {"outcome": verdict.outcome, "reasons": list(verdict.reasons)}
        told |= {"blamed": list(verdict.blamed), "guards": dict(verdict.states)}
        return told | ({"step": self.step} if self.step else {})
