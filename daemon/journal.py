"""The applier's half of the ledger: each step of a version, written only under a valid fence."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from daemon.errors import LeaseLostError
from daemon.ledger import Ledger
from daemon.ledger_queries import chain, fact_ids, find_version, live_version, rows_of
from daemon.ledger_tables import (
    BASE_VERSION,
    CorrectionRow,
    VersionRow,
    correction_row,
    corrections,
    lease,
    operations,
    stage_seconds,
    versions,
)
from daemon.lifecycle import PENDING, OperationState, State, VersionState

ACTOR = "applier"


class Journal(Ledger):
    """A ledger whose writes raise LeaseLostError once a newer applier holds the lease."""

    def __init__(self, ledger: Ledger, fence: int) -> None:
        super().__init__(ledger.engine, ledger.clock)
        self.fence = fence

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with super().writing() as c:
            current = c.scalar(select(lease.c.fence))
            if current != self.fence:
                raise LeaseLostError(
                    f"fence {self.fence} was passed by {current}; a newer applier is at work"
                )
            yield c

    def pending(self, limit: int | None = None) -> list[CorrectionRow]:
        """Corrections that wait: higher priority first, then in order of arrival."""
        ready = corrections.c.state.in_(PENDING)
        order = (corrections.c.priority.desc(), corrections.c.seq)
        with self._read() as c:
            query = select(corrections).where(ready).order_by(*order).limit(limit)
            return [correction_row(row) for row in c.execute(query)]

    def rows(self, ids: Sequence[str]) -> list[CorrectionRow]:
        """The corrections with these ids, in the order of `ids`."""
        with self._read() as c:
            found = rows_of(c, ids)
        return [found[id] for id in ids]

    def check_fence(self) -> None:
        """Raises LeaseLostError when a newer applier holds the lease."""
        with self.writing():
            pass

    def plan(
        self, added: Sequence[str], removed: Sequence[str] = (), operation: int | None = None
    ) -> VersionRow:
        """Journals a batch before any work, under the next version number."""
        with self.writing() as c:
            last = c.scalar(select(func.max(versions.c.id))) or BASE_VERSION
            id = f"v{int(last[1:]) + 1:06d}"
            values = {"id": id, "parent": live_version(c), "added": list(added), "removed": list(removed)}
            values |= {"operation": operation, "attempts": 0, "fence": self.fence, "created_at": self.clock()}
            c.execute(insert(versions).values(state=VersionState.PLANNED, **values))
            self._note(c, "version", id, None, VersionState.PLANNED, ACTOR)
            for correction in added:
                self._advance(c, correction, State.STAGED, ACTOR, version=id)
            return find_version(c, id)

    def attempt(self, version: str) -> VersionRow:
        """Counts an attempt before its work, so that one that kills the process is counted too."""
        with self.writing() as c:
            row = find_version(c, version)
            one_more = {"attempts": row.attempts + 1, "fence": self.fence}
            c.execute(update(versions).where(versions.c.id == version).values(**one_more))
            mine = corrections.c.id.in_(row.added)
            c.execute(update(corrections).where(mine).values(attempts=corrections.c.attempts + 1))
            return find_version(c, version)

    def record_fault(self, version: str, reason: str) -> None:
        """Keeps what an unexpected fault said, for the reason given when attempts run out."""
        with self.writing() as c:
            c.execute(update(versions).where(versions.c.id == version).values(reason=reason))

    def attempt_operation(self, id: int) -> int:
        """Counts an attempt of an operation and returns the count."""
        with self.writing() as c:
            more = operations.c.attempts + 1
            c.execute(update(operations).where(operations.c.id == id).values(attempts=more))
            return c.execute(select(operations.c.attempts).where(operations.c.id == id)).scalar_one()

    def settle(self, id: str, state: State, reason: str, *, superseded_by: str | None = None) -> None:
        """Ends a pending correction without work: already known, superseded, retracted."""
        with self.writing() as c:
            self._advance(c, id, state, ACTOR, reason, superseded_by=superseded_by)

    def skip(self, version: str, reasons: Mapping[str, str]) -> VersionRow:
        """Takes corrections that were not written out of a planned version; they end rejected."""
        with self.writing() as c:
            row = find_version(c, version)
            left = [id for id in row.added if id not in reasons]
            c.execute(update(versions).where(versions.c.id == version).values(added=left))
            for id, reason in reasons.items():
                self._advance(c, id, State.REJECTED, ACTOR, reason)
            return find_version(c, version)

    def record_answers(self, column: str, answers: Mapping[str, str]) -> None:
        """`column`: before or after."""
        with self.writing() as c:
            for id, answer in answers.items():
                c.execute(update(corrections).where(corrections.c.id == id).values({column: answer}))

    def record_written(self, version: str, verdict: dict[str, Any], measurements: dict[str, Any]) -> None:
        with self.writing() as c:
            self._advance_version(
                c, version, VersionState.WRITTEN, ACTOR, verdict=verdict, measurements=measurements
            )
            self._advance_all(c, version, State.VERIFIED)

    def record_published(self, version: str) -> None:
        with self.writing() as c:
            self._advance_version(c, version, VersionState.PUBLISHED, ACTOR)
            self._advance_all(c, version, State.PUBLISHED)

    def _advance_all(self, c: Connection, version: str, state: State, **changes: Any) -> None:
        for id in find_version(c, version).added:
            self._advance(c, id, state, ACTOR, **changes)

    def record_live(self, version: str, after: Mapping[str, str]) -> None:
        """The commit: the version is live, its facts are, what it removed is not, its operation is done."""
        with self.writing() as c:
            now, row, old = self.clock(), find_version(c, version), live_version(c)
            self._advance_version(c, version, VersionState.LIVE, ACTOR, live_at=now)
            if old != BASE_VERSION:
                self._advance_version(c, old, VersionState.PAST, ACTOR, f"{version} is live")
            self._set_control(c, "live", version)
            added = list(rows_of(c, row.added).values())
            for fact in added:
                self._advance(c, fact.id, State.LIVE, ACTOR, live_at=now, after=after.get(fact.id))
            self._end_removed(c, row, {fact.slot: fact.id for fact in added})
            for fact in added:
                self._end_older(c, fact)
            if row.operation is not None:
                self._finish(c, row.operation, OperationState.DONE, f"live in {version}")

    def _end_removed(
        self, c: Connection, version: VersionRow, winners: Mapping[tuple[str, str], str]
    ) -> None:
        for fact in rows_of(c, version.removed).values():
            winner = winners.get(fact.slot)
            if winner is not None:
                reason = f"superseded by {winner}"
                self._advance(c, fact.id, State.SUPERSEDED, ACTOR, reason, superseded_by=winner)
            else:
                self._advance(c, fact.id, State.RETRACTED, ACTOR, f"retracted in {version.id}")

    def _end_older(self, c: Connection, winner: CorrectionRow) -> None:
        """Older posts of the slot that still wait have lost."""
        slot = (corrections.c.subject == winner.subject) & (corrections.c.prompt == winner.prompt)
        older = slot & corrections.c.state.in_(PENDING) & (corrections.c.seq < winner.seq)
        for (id,) in c.execute(select(corrections.c.id).where(older)).all():
            reason = f"superseded by {winner.id}"
            self._advance(c, id, State.SUPERSEDED, ACTOR, reason, superseded_by=winner.id)

    def discard(
        self,
        version: str,
        reason: str,
        *,
        rejected: Mapping[str, str] | None = None,
        max_attempts: int | None = None,
        **retry: Any,
    ) -> None:
        """Gives a version up: `rejected` end with their reasons, the others wait again.

        Args:
            max_attempts: the work did not finish: those that were tried so often are dead. None: it did
                finish, and the count starts anew.
            retry: columns of those that wait again (batch_limit, not_before).
        """
        rejected = rejected or {}
        with self.writing() as c:
            row = find_version(c, version)
            self._advance_version(c, version, VersionState.DISCARDED, ACTOR, reason)
            for fact in rows_of(c, row.added).values():
                if fact.id in rejected:
                    self._advance(c, fact.id, State.REJECTED, ACTOR, rejected[fact.id], version=None)
                elif max_attempts is not None and fact.attempts >= max_attempts:
                    dead = f"gave up after {fact.attempts} attempts: {reason}"
                    self._advance(c, fact.id, State.DEAD, ACTOR, dead, version=None)
                else:
                    attempts = fact.attempts if max_attempts is not None else 0
                    changes = {"version": None, "attempts": attempts} | retry
                    self._advance(c, fact.id, State.VALIDATED, ACTOR, reason, **changes)

    def record_rollback(self, target: str, operation: int, reason: str) -> None:
        """The commit of a rollback: `target` is live; facts it does not hold are rolled back."""
        with self.writing() as c:
            old_chain = {row.id for row in chain(c, live_version(c))}
            new_chain = [row.id for row in chain(c, target)]
            old_facts, new_facts = fact_ids(c, live_version(c)), fact_ids(c, target)
            for id in old_chain - set(new_chain):
                self._advance_version(c, id, VersionState.ROLLED_BACK, ACTOR, f"rolled back to {target}")
            for id in new_chain:
                state = VersionState.LIVE if id == target else VersionState.PAST
                if find_version(c, id).state is not state:
                    self._advance_version(c, id, state, ACTOR, f"rolled back to {target}")
            for id in set(old_facts) - set(new_facts):
                self._advance(c, id, State.ROLLED_BACK, ACTOR, f"rolled back to {target}: {reason}")
            for id in set(new_facts) - set(old_facts):
                again = f"live again: rolled back to {target}"
                self._advance(c, id, State.LIVE, ACTOR, again, superseded_by=None)
            self._set_control(c, "live", target)
            self._finish(c, operation, OperationState.DONE, f"{target} is live and verified")

    def finish(self, operation: int, state: OperationState, reason: str, **controls: Any) -> None:
        """Stores the result of an operation, with control values (paused) in the same commit."""
        with self.writing() as c:
            for name, value in controls.items():
                self._set_control(c, name, value)
            self._finish(c, operation, state, reason)

    def _finish(self, c: Connection, operation: int, state: OperationState, reason: str) -> None:
        values = {"state": state, "reason": reason, "finished_at": self.clock()}
        c.execute(update(operations).where(operations.c.id == operation).values(**values))
        self._note(c, "operation", str(operation), OperationState.PENDING, state, ACTOR, reason)

    def record_seconds(self, version: str, stage: str, seconds: float) -> None:
        with self.writing() as c:
            values = {"version": version, "stage": stage, "seconds": seconds, "at": self.clock()}
            c.execute(insert(stage_seconds).values(**values))
