"""The guard's part of the journal: its memory, its steps, and what it asks for."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from daemon.core.lifecycle import OperationKind, OperationState
from daemon.core.ruling import GUARD, Ruling
from daemon.ledger.lease import Fence
from daemon.ledger.reading import find_version, get_control, live_version
from daemon.ledger.record.pace import pace
from daemon.ledger.record.transitions import Transitions, set_control
from daemon.ledger.tables import measurements, operations, versions
from monitoring.measurements import measured_again
from monitoring.policy import PolicyState

ACTOR = "applier"


class GuardRecord:
    """Writes under the applier's fence what the guard decides.

    Methods with a connection write in the transaction of `Journal` that they are part of.
    """

    def __init__(self, fence: Fence, transitions: Transitions, clock: Callable[[], float]) -> None:
        self._fence, self._transitions, self._clock = fence, transitions, clock

    def record_watch(
        self, version: str, ruling: Ruling, measured: dict[str, Any], rollback_to: str | None
    ) -> None:
        """What the live version is found to be now, with the rollback that follows, if one does."""
        with self._fence.writing() as c:
            row = find_version(c, version)
            again = measured_again(measured, row.measurements or {})
            now = {"verdict": ruling.to_json(), "measurements": again}
            c.execute(update(versions).where(versions.c.id == version).values(**now))
            self.keep_measured(c, version, ruling, measured)
            set_control(c, "watched", {"version": version, "at": self._clock()})
            self.rule(c, version, ruling)
            if rollback_to is not None:
                self._transitions.request(c, OperationKind.ROLLBACK, rollback_to, GUARD, ruling.reason)

    def refuse_alert(self, operation: int, ruling: Ruling) -> None:
        """An alert asked for a rollback that the guard's policy does not allow now."""
        with self._fence.writing() as c:
            self.rule(c, live_version(c), ruling)
            reason = f"not now: {ruling.reason}" if ruling.step != "would_rollback" else "a dry run"
            self.finish(c, operation, OperationState.FAILED, reason)

    def record_forecast(
        self, version: str, forecast: dict[str, Any], fact_seconds: float | None = None
    ) -> None:
        """Keeps what the forecast says of the live version, in place of the last one.

        Args:
            fact_seconds: what a consolidation is estimated to take of each live fact, where the guard
                consolidates: the forecast then also says what will come meanwhile.
        """
        with self._fence.writing() as c:
            told = {"version": version, **forecast}
            if fact_seconds is not None:
                told |= {"meanwhile": pace(c, version, fact_seconds, self._clock())}
            set_control(c, "forecast", told)

    def ask_rewrite(self, kind: OperationKind, why: str, dry_run: bool) -> None:
        """The guard's step, a compaction or a consolidation; a dry run says so and asks for nothing."""
        with self._fence.writing() as c:
            if dry_run:
                self.note_step(c, live_version(c), "live", f"would_{kind}", why)
            else:
                self._rewrite(c, kind, why)

    def _rewrite(self, c: Connection, kind: OperationKind, why: str) -> None:
        self.note_step(c, live_version(c), "live", str(kind), why)
        self._transitions.request(c, kind, None, GUARD, why)

    def pause(self, why: str) -> None:
        """The guard's last step: corrections stay queued until somebody resumes."""
        with self._fence.writing() as c:
            self._pause(c, live_version(c), "live", why)

    def forgive_operation(self, id: int) -> None:
        """The last attempt of an operation does not count: a replica was too slow."""
        with self._fence.writing() as c:
            forgive_attempt(c, id)

    # -- part of a transaction of the journal ---------------------------------------------------

    def note_step(self, c: Connection, id: str, judged: str | None, step: str, why: str) -> None:
        """`id`: the version, correction or operation concerned; `judged`: staged or live."""
        self._transitions.note(c, GUARD, id, judged, step, GUARD, why)

    def rule(self, c: Connection, id: str, ruling: Ruling) -> None:
        """Keeps the guard's memory, and the step when it takes one."""
        before = PolicyState.from_json(get_control(c, "policy"))
        set_control(c, "policy", ruling.decision.state.to_json())
        if ruling.action != "pause":
            if ruling.step:
                self.note_step(c, id, ruling.judged, ruling.step, ruling.reason)
        elif before.paused is None:
            self._pause(c, id, ruling.judged, ruling.reason)

    def _pause(self, c: Connection, id: str, judged: str | None, why: str) -> None:
        state = PolicyState.from_json(get_control(c, "policy"))
        set_control(c, "policy", replace(state, paused=why).to_json())
        set_control(c, "paused", {"actor": GUARD, "why": why, "at": self._clock()})
        self.note_step(c, id, judged, "pause", why)

    def keep_measured(self, c: Connection, version: str, ruling: Ruling, measured: dict[str, Any]) -> None:
        """One row of all that was ever measured."""
        found = {"judged": ruling.judged, "verdict": ruling.to_json(), "measurements": measured}
        c.execute(insert(measurements).values(version=version, at=self._clock(), **found))

    def finish(self, c: Connection, operation: int, state: OperationState, reason: str) -> None:
        """Stores the result of an operation.

        When a step of the guard failed, only the pause is left; after a consolidation the compaction is.
        """
        values = {"state": state, "reason": reason, "finished_at": self._clock()}
        c.execute(update(operations).where(operations.c.id == operation).values(**values))
        self._transitions.note(c, "operation", str(operation), OperationState.PENDING, state, ACTOR, reason)
        asked = c.execute(select(operations).where(operations.c.id == operation)).one()
        if state is not OperationState.FAILED or asked.actor != GUARD:
            return
        why = f"{asked.kind} failed: {reason}"
        if asked.kind == OperationKind.CONSOLIDATE:
            self._rewrite(c, OperationKind.COMPACT, why)
        else:
            self._pause(c, str(operation), None, why)


def forgive_attempt(c: Connection, operation: int) -> None:
    """The last attempt of an operation does not count."""
    mine = (operations.c.id == operation) & (operations.c.attempts > 0)
    c.execute(update(operations).where(mine).values(attempts=operations.c.attempts - 1))
