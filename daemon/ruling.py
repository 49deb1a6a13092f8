"""What the guard said of a version and what follows from it: one value, from the verdict to the ledger."""

from dataclasses import dataclass
from typing import Any, Literal

from monitoring.policy import Decision
from monitoring.verdict import Verdict

#: actor of what the guard does by itself
GUARD = "guard"


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
        told |= {"blamed": list(verdict.blamed), "guards": dict(verdict.guards)}
        return told | ({"step": self.step} if self.step else {})
