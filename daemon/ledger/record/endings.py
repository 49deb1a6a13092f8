"""How versions are left: given up before they were live, or rolled back after."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from daemon.core.lifecycle import ReasonCode, State, VersionState
from daemon.core.ruling import GUARD, Ruling
from daemon.ledger.reading import fact_ids, live_version, states_of_line
from daemon.ledger.record.guard import ACTOR, GuardRecord
from daemon.ledger.record.transitions import Transitions, set_control
from daemon.ledger.rows import CorrectionRow, OperationRow


@dataclass(frozen=True)
class Discard:
    """A version that is given up; the arguments are those of `Journal.discard`."""

    reason: str
    code: ReasonCode | None
    ruling: Ruling | None
    rejected: Mapping[str, str]
    max_attempts: int | None
    retry: Mapping[str, Any]

    @property
    def actor(self) -> str:
        return ACTOR if self.ruling is None else GUARD

    def end_version(self, c: Connection, version: str, transitions: Transitions) -> None:
        kept: dict[str, Any] = {} if self.ruling is None else {"verdict": self.ruling.to_json()}
        transitions.advance_version(
            c, version, VersionState.DISCARDED, self.actor, self.reason, code=self.code, **kept
        )

    def end_fact(
        self, c: Connection, fact: CorrectionRow, transitions: Transitions, guard: GuardRecord
    ) -> None:
        """Rejected, dead, or waiting again."""
        if fact.id in self.rejected:
            why = self.rejected[fact.id]
            transitions.advance(c, [fact.id], State.REJECTED, self.actor, why, code=self.code, version=None)
            if self.ruling is not None:
                guard.note_step(c, fact.id, self.ruling.judged, "quarantine", why)
        elif self.max_attempts is not None and fact.attempts >= self.max_attempts:
            dead = f"gave up after {fact.attempts} attempts: {self.reason}"
            transitions.advance(c, [fact.id], State.DEAD, ACTOR, dead, version=None)
        else:
            tried = fact.attempts if self.max_attempts is not None else 0
            changes: dict[str, Any] = {"version": None, "attempts": tried, **self.retry}
            transitions.advance(c, [fact.id], State.VALIDATED, ACTOR, self.reason, **changes)


def roll_back(c: Connection, target: str, operation: OperationRow, transitions: Transitions) -> None:
    """The target is live again, and the line that led away from it is left."""
    actor, told = operation.actor, f"rolled back to {target}"
    live = live_version(c)
    old, new = states_of_line(c, live), states_of_line(c, target)
    old_facts, new_facts = fact_ids(c, live), fact_ids(c, target)
    _move_versions(c, old, new, target, actor, transitions)
    kept, held = set(new_facts), set(old_facts)
    why = f"{told}: {operation.why or 'no reason given'} ({actor})"
    left = [id for id in old_facts if id not in kept]
    transitions.advance(c, left, State.ROLLED_BACK, actor, why)
    again = [id for id in new_facts if id not in held]
    transitions.advance(c, again, State.LIVE, actor, f"live again: {told}", superseded_by=None)
    set_control(c, "live", target)


def _move_versions(
    c: Connection,
    old: Mapping[str, VersionState],
    new: Mapping[str, VersionState],
    target: str,
    actor: str,
    transitions: Transitions,
) -> None:
    told = f"rolled back to {target}"
    for id in old:
        if id not in new:
            transitions.advance_version(c, id, VersionState.ROLLED_BACK, actor, told)
    for id, was in new.items():
        state = VersionState.LIVE if id == target else VersionState.PAST
        if was is not state:
            transitions.advance_version(c, id, state, actor, told)
