"""The applier's half of the ledger: each step of a version, written only under a valid fence."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from daemon.core.asks import Ask
from daemon.core.lifecycle import OperationState, ReasonCode, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import Ruling
from daemon.ledger.database import Database
from daemon.ledger.lease import Fence
from daemon.ledger.questions import Questions
from daemon.ledger.reading import find_version, live_version, of_slot, rows_of
from daemon.ledger.record.answers import Lost, When, keep_answers, keep_lost
from daemon.ledger.record.endings import Discard, roll_back
from daemon.ledger.record.guard import ACTOR, GuardRecord
from daemon.ledger.record.schedule import retired
from daemon.ledger.record.stages import StageSeconds
from daemon.ledger.record.transitions import Transitions, set_control
from daemon.ledger.rows import CorrectionRow, OperationRow, VersionRow
from daemon.ledger.tables import attempts, corrections, operations, publications, versions


class Journal:
    """What the holder of the lease may write; LeaseLostError once a newer applier holds it.

    It takes no corrections and asks for no operation but the guard's.

    Attributes:
        fence: number of this holding of the lease.
        questions: to the same ledger.
        guard: what the guard writes.
    """

    def __init__(self, database: Database, fence: int) -> None:
        self.clock: Callable[[], float] = database.clock
        self.fence, self.questions = fence, Questions(database)
        self._fence, self._transitions = Fence(database, fence), Transitions(database.clock)
        self.guard = GuardRecord(self._fence, self._transitions, database.clock)
        self._stages = StageSeconds(database.clock)

    @contextmanager
    def writing(self) -> Generator[Connection]:
        """The transaction that may write. Raises LeaseLostError when a newer applier holds the lease."""
        with self._fence.writing() as c:
            kept = self._stages.write(c)
            yield c
        self._stages.forget(kept)

    def check_fence(self) -> None:
        """Raises LeaseLostError when a newer applier holds the lease."""
        with self.writing():
            pass

    # -- a version ------------------------------------------------------------------------------

    def plan(
        self, added: Sequence[str], removed: Sequence[str] = (), operation: int | None = None
    ) -> VersionRow:
        """Journals a batch before any work, under the next version number."""
        with self.writing() as c:
            last = c.scalar(select(func.max(versions.c.id))) or BASE_VERSION
            id = f"v{int(last[1:]) + 1:06d}"
            row = VersionRow(
                id,
                live_version(c),
                VersionState.PLANNED,
                tuple(added),
                tuple(removed),
                operation,
                fence=self.fence,
                created_at=self.clock(),
            )
            values = {"parent": row.parent, "added": list(added), "removed": list(removed)}
            values |= {"operation": operation, "attempts": 0, "fence": self.fence}
            c.execute(insert(versions).values(id=id, state=row.state, created_at=row.created_at, **values))
            self._transitions.note(c, "version", id, None, VersionState.PLANNED, ACTOR)
            self._transitions.advance(c, added, State.STAGED, ACTOR, version=id)
            return row

    def attempt(self, version: str) -> VersionRow:
        """Counts an attempt before its work, so that one that kills the process is counted too."""
        with self.writing() as c:
            row = find_version(c, version)
            row = replace(row, attempts=row.attempts + 1, fence=self.fence)
            counted = {"attempts": row.attempts, "fence": self.fence}
            c.execute(update(versions).where(versions.c.id == version).values(**counted))
            told = {"version": version, "number": row.attempts, "corrections": list(row.added)}
            c.execute(insert(attempts).values(**told, fence=self.fence, at=self.clock()))
            mine = corrections.c.id.in_(row.added)
            c.execute(update(corrections).where(mine).values(attempts=corrections.c.attempts + 1))
            return row

    def record_fault(self, version: str, reason: str) -> None:
        """Keeps what an unexpected fault said, for the reason given when attempts run out."""
        with self.writing() as c:
            c.execute(update(versions).where(versions.c.id == version).values(reason=reason))
            last = (attempts.c.version == version) & (attempts.c.number == find_version(c, version).attempts)
            c.execute(update(attempts).where(last).values(fault=reason))

    def skip(self, version: str, reasons: Mapping[str, str]) -> VersionRow:
        """Takes outliers, which were not written, out of a planned version; they end rejected."""
        with self.writing() as c:
            row = find_version(c, version)
            left = [id for id in row.added if id not in reasons]
            c.execute(update(versions).where(versions.c.id == version).values(added=left))
            for id, reason in reasons.items():
                code = ReasonCode.SKIPPED_OUTLIER
                self._transitions.advance(c, [id], State.REJECTED, ACTOR, reason, code=code)
            return replace(row, added=tuple(left))

    def record_answers(self, when: When, told: Mapping[Ask, str]) -> None:
        with self.writing() as c:
            keep_answers(c, when, told)

    def record_asked_again(self, found: Lost) -> None:
        """What facts said that were asked again: id → name of a form that is lost → what was said there."""
        with self.writing() as c:
            keep_lost(c, found)

    def record_measured(self, version: str, ruling: Ruling, measurements: dict[str, Any]) -> None:
        """Keeps what was measured of a staged version, also when it goes no further."""
        with self.writing() as c:
            self.guard.keep_measured(c, version, ruling, measurements)

    def record_written(self, version: str, ruling: Ruling, measured: dict[str, Any]) -> None:
        """The version was accepted and its files are durable; from here on recovery rolls it forward."""
        with self.writing() as c:
            kept: dict[str, Any] = {"verdict": ruling.to_json(), "measurements": measured}
            self._transitions.advance_version(c, version, VersionState.WRITTEN, ACTOR, None, **kept)
            self.guard.rule(c, version, ruling)
            self._transitions.advance(c, find_version(c, version).added, State.VERIFIED, ACTOR)

    def record_canary(self, version: str, reason: str) -> None:
        """Once a version: one that is tried out anew stays in the state."""
        with self.writing() as c:
            if find_version(c, version).state is not VersionState.CANARY:
                self._transitions.advance_version(c, version, VersionState.CANARY, ACTOR, reason)

    def record_published(self, version: str) -> None:
        """Every replica was told; the answers are not read back yet."""
        with self.writing() as c:
            self._transitions.advance_version(c, version, VersionState.PUBLISHED, ACTOR)
            self._transitions.advance(c, find_version(c, version).added, State.PUBLISHED, ACTOR)

    def record_live(self, version: str, after: Mapping[Ask, str], lost: Lost | None = None) -> None:
        """The commit: the version is live, its facts are, what it removed is not, its operation is done."""
        with self.writing() as c:
            now, row, old = self.clock(), find_version(c, version), live_version(c)
            self._transitions.advance_version(c, version, VersionState.LIVE, ACTOR, live_at=now)
            if old != BASE_VERSION:
                self._transitions.advance_version(c, old, VersionState.PAST, ACTOR, f"{version} is live")
            set_control(c, "live", version)
            added = list(rows_of(c, row.added).values())
            self._transitions.advance(c, [fact.id for fact in added], State.LIVE, ACTOR, live_at=now)
            again: Lost = (row.measurements or {}).get("again", {})
            # What a replica was asked itself counts more than what the model in memory said.
            keep_lost(c, {**again, **{fact.id: {} for fact in added}, **(lost or {})})
            keep_answers(c, "after", after)
            self._end_removed(c, row, {fact.slot: fact.id for fact in added})
            for fact in added:
                self._end_older(c, fact)
            if row.operation is not None:
                self.guard.finish(c, row.operation, OperationState.DONE, f"{version} is live")

    def _end_removed(self, c: Connection, row: VersionRow, winners: Mapping[tuple[str, str], str]) -> None:
        for fact in rows_of(c, row.removed).values():
            winner = winners.get(fact.slot)
            if winner is not None:
                self._supersede(c, [fact.id], winner)
            else:
                why, code = retired(row.id, fact.valid_until, self.clock())
                self._transitions.advance(c, [fact.id], State.RETRACTED, ACTOR, why, code=code)

    def _end_older(self, c: Connection, winner: CorrectionRow) -> None:
        """Older posts of the slot that still wait have lost; not those whose time is still to come."""
        slot = of_slot(winner.subject, winner.prompt)
        older = slot & (corrections.c.state == State.VALIDATED) & (corrections.c.seq < winner.seq)
        ids = c.scalars(select(corrections.c.id).where(older).order_by(corrections.c.seq)).all()
        self._supersede(c, ids, winner.id)

    def _supersede(self, c: Connection, ids: Sequence[str], winner: str) -> None:
        why = f"superseded by {winner}"
        self._transitions.advance(c, ids, State.SUPERSEDED, ACTOR, why, superseded_by=winner)

    def discard(
        self,
        version: str,
        reason: str,
        *,
        code: ReasonCode | None = None,
        ruling: Ruling | None = None,
        rejected: Mapping[str, str] | None = None,
        max_attempts: int | None = None,
        counted: bool = True,
        **retry: Any,
    ) -> None:
        """Gives a version up: `rejected` end with their reasons, the others wait again.

        Args:
            code: of the reason, for the version and for those rejected.
            ruling: the guard's, when the version is given up for what it said.
            max_attempts: the work did not finish: those that were tried so often are dead. None: it did
                finish, and the count starts anew.
            counted: False: a replica was too slow, so this attempt is taken off the count again.
            retry: columns of those that wait again (batch_limit, not_before).
        """
        ending = Discard(reason, code, ruling, rejected or {}, max_attempts, counted, retry)
        with self.writing() as c:
            row = find_version(c, version)
            if ruling is not None:
                self.guard.rule(c, version, ruling)
            ending.end_version(c, row, self._transitions)
            for fact in rows_of(c, row.added).values():
                ending.end_fact(c, fact, self._transitions, self.guard)

    def record_disproved(
        self, version: str, reason: str, *, code: ReasonCode | None = None, asked: int | None = None
    ) -> None:
        """A version that a replica served but must not: rolled back, never live.

        Args:
            asked: operation by which an alert asked for a rollback; it is answered by this one, and the
                version before is not at fault.
        """
        with self.writing() as c:
            row = find_version(c, version)
            rolled_back = VersionState.ROLLED_BACK
            self._transitions.advance_version(c, version, rolled_back, ACTOR, reason, code=code)
            self._transitions.advance(c, row.added, State.ROLLED_BACK, ACTOR, reason, code=code)
            if row.operation is not None:
                self.guard.finish(c, row.operation, OperationState.FAILED, reason)
            if asked is not None:
                instead = f"not done: {version} was on the canary only and was rolled back there"
                self.guard.finish(c, asked, OperationState.FAILED, instead)

    def settle(self, id: str, state: State, reason: str, *, superseded_by: str | None = None) -> None:
        """Ends a pending correction without work: already known, superseded, retracted."""
        with self.writing() as c:
            self._transitions.advance(c, [id], state, ACTOR, reason, superseded_by=superseded_by)

    def record_rollback(self, target: str, operation: OperationRow) -> None:
        """The commit of a rollback: `target` is live; facts it does not hold are rolled back."""
        with self.writing() as c:
            roll_back(c, target, operation, self._transitions)
            self.guard.finish(c, operation.id, OperationState.DONE, f"{target} is live and verified")

    def attempt_operation(self, id: int, ruling: Ruling | None = None) -> int:
        """Counts an attempt of an operation and returns the count.

        Args:
            ruling: the guard's on the live version, when the operation follows from it.
        """
        with self.writing() as c:
            if ruling is not None:
                self.guard.rule(c, live_version(c), ruling)
            more = operations.c.attempts + 1
            c.execute(update(operations).where(operations.c.id == id).values(attempts=more))
            return c.execute(select(operations.c.attempts).where(operations.c.id == id)).scalar_one()

    def finish(self, operation: int, state: OperationState, reason: str, **controls: Any) -> None:
        """Stores the result of an operation, with control values (paused) in the same commit."""
        with self.writing() as c:
            for name, value in controls.items():
                set_control(c, name, value)
            self.guard.finish(c, operation, state, reason)

    # -- publications and durations -------------------------------------------------------------

    def record_publication(
        self,
        version: str,
        cause: str,
        replicas: Sequence[str],
        *,
        pause: float | None = None,
        failures: Sequence[str] = (),
    ) -> None:
        """What the replicas were told, and how it went.

        Args:
            cause: canary, update, rollback, push_back (the new version could not be confirmed) or
                reconcile.
            pause: longest pause of a replica's scheduler, in seconds.
        """
        if pause is not None:
            self.record_seconds(version, "pause", pause)
        with self.writing() as c:
            told = {"version": version, "cause": cause}
            told |= {"replicas": list(replicas), "failures": list(failures)}
            at = {"fence": self.fence, "at": self.clock()}
            c.execute(insert(publications).values(**told, pause_seconds=pause, **at))

    def record_seconds(self, version: str, stage: str, seconds: float) -> None:
        """Written with the next transaction (`daemon.ledger.record.stages`)."""
        self._stages.add(version, stage, seconds)
