"""The applier's half of the ledger: each step of a version, written only under a valid fence."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from daemon.core.errors import LeaseLostError
from daemon.core.lifecycle import PENDING, OperationKind, OperationState, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD, Ruling
from daemon.ledger.ledger import Ledger
from daemon.ledger.queries import chain, fact_ids, find_version, get_control, live_version, rows_of
from daemon.ledger.tables import (
    CorrectionRow,
    OperationRow,
    VersionRow,
    attempts,
    correction_row,
    corrections,
    lease,
    measurements,
    operations,
    publications,
    stage_seconds,
    versions,
)
from monitoring.measurements import measured_again
from monitoring.policy import PolicyState

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
        """Corrections that wait: higher priority first, then in order of arrival.

        With a limit, those of the same subjects come too, as many again at most: what is older than an
        urgent correction of its subject goes first (`daemon.apply.planning`).
        """
        ready = corrections.c.state.in_(PENDING)
        order = (corrections.c.priority.desc(), corrections.c.seq)
        first = select(corrections).where(ready).order_by(*order).limit(limit)
        with self._read() as c:
            rows = [correction_row(row) for row in c.execute(first)]
            if limit is None or len(rows) < limit:
                return rows
            chosen = first.subquery()
            same = corrections.c.subject.in_(select(chosen.c.subject))
            others = ready & same & corrections.c.seq.not_in(select(chosen.c.seq))
            rest = select(corrections).where(others).order_by(corrections.c.seq).limit(limit)
            return rows + [correction_row(row) for row in c.execute(rest)]

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
            told = {"version": version, "number": row.attempts + 1, "corrections": list(row.added)}
            c.execute(insert(attempts).values(**told, fence=self.fence, at=self.clock()))
            mine = corrections.c.id.in_(row.added)
            c.execute(update(corrections).where(mine).values(attempts=corrections.c.attempts + 1))
            return find_version(c, version)

    def record_fault(self, version: str, reason: str) -> None:
        """Keeps what an unexpected fault said, for the reason given when attempts run out."""
        with self.writing() as c:
            c.execute(update(versions).where(versions.c.id == version).values(reason=reason))
            last = (attempts.c.version == version) & (attempts.c.number == find_version(c, version).attempts)
            c.execute(update(attempts).where(last).values(fault=reason))

    def attempt_operation(self, id: int, ruling: Ruling | None = None) -> int:
        """Counts an attempt of an operation and returns the count.

        Args:
            ruling: the guard's on the live version, when the operation follows from it.
        """
        with self.writing() as c:
            if ruling is not None:
                self._rule(c, live_version(c), ruling)
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

    def record_measured(self, version: str, ruling: Ruling, measurements: dict[str, Any]) -> None:
        """Keeps what was measured of a staged version, also when it goes no further."""
        with self.writing() as c:
            self._keep_measured(c, version, ruling, measurements)

    def _keep_measured(self, c: Connection, version: str, ruling: Ruling, measured: dict[str, Any]) -> None:
        found = {"judged": ruling.judged, "verdict": ruling.to_json(), "measurements": measured}
        c.execute(insert(measurements).values(version=version, at=self.clock(), **found))

    def record_written(self, version: str, ruling: Ruling, measured: dict[str, Any]) -> None:
        with self.writing() as c:
            kept: dict[str, Any] = {"verdict": ruling.to_json(), "measurements": measured}
            self._advance_version(c, version, VersionState.WRITTEN, ACTOR, None, **kept)
            self._rule(c, version, ruling)
            self._advance_all(c, version, State.VERIFIED)

    def record_canary(self, version: str, reason: str) -> None:
        """Once a version: one that is tried out anew stays in the state."""
        with self.writing() as c:
            if find_version(c, version).state is not VersionState.CANARY:
                self._advance_version(c, version, VersionState.CANARY, ACTOR, reason)

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
        ruling: Ruling | None = None,
        rejected: Mapping[str, str] | None = None,
        max_attempts: int | None = None,
        **retry: Any,
    ) -> None:
        """Gives a version up: `rejected` end with their reasons, the others wait again.

        Args:
            ruling: the guard's, when the version is given up for what it said.
            max_attempts: the work did not finish: those that were tried so often are dead. None: it did
                finish, and the count starts anew.
            retry: columns of those that wait again (batch_limit, not_before).
        """
        rejected = rejected or {}
        with self.writing() as c:
            row, actor, kept = find_version(c, version), ACTOR, dict[str, Any]()
            if ruling is not None:
                actor, kept = GUARD, {"verdict": ruling.to_json()}
                self._rule(c, version, ruling)
            self._advance_version(c, version, VersionState.DISCARDED, actor, reason, **kept)
            for fact in rows_of(c, row.added).values():
                if fact.id in rejected:
                    self._advance(c, fact.id, State.REJECTED, actor, rejected[fact.id], version=None)
                    if ruling is not None:
                        self._note(c, GUARD, fact.id, ruling.judged, "quarantine", GUARD, rejected[fact.id])
                elif max_attempts is not None and fact.attempts >= max_attempts:
                    dead = f"gave up after {fact.attempts} attempts: {reason}"
                    self._advance(c, fact.id, State.DEAD, ACTOR, dead, version=None)
                else:
                    tried = fact.attempts if max_attempts is not None else 0
                    changes = {"version": None, "attempts": tried} | retry
                    self._advance(c, fact.id, State.VALIDATED, ACTOR, reason, **changes)

    def record_disproved(self, version: str, reason: str, asked: int | None = None) -> None:
        """A version that a replica served but must not: rolled back, never live.

        Args:
            asked: operation by which an alert asked for a rollback; it is answered by this one, and the
                version before is not at fault.
        """
        with self.writing() as c:
            row = find_version(c, version)
            self._advance_version(c, version, VersionState.ROLLED_BACK, ACTOR, reason)
            for id in row.added:
                self._advance(c, id, State.ROLLED_BACK, ACTOR, reason)
            if row.operation is not None:
                self._finish(c, row.operation, OperationState.FAILED, reason)
            if asked is not None:
                instead = f"not done: {version} was on the canary only and was rolled back there"
                self._finish(c, asked, OperationState.FAILED, instead)

    def record_rollback(self, target: str, operation: OperationRow) -> None:
        """The commit of a rollback: `target` is live; facts it does not hold are rolled back."""
        actor = operation.actor
        reason = f"{operation.why or 'no reason given'} ({actor})"
        with self.writing() as c:
            old_chain = {row.id for row in chain(c, live_version(c))}
            new_chain = [row.id for row in chain(c, target)]
            old_facts, new_facts = fact_ids(c, live_version(c)), fact_ids(c, target)
            for id in old_chain - set(new_chain):
                self._advance_version(c, id, VersionState.ROLLED_BACK, actor, f"rolled back to {target}")
            for id in new_chain:
                state = VersionState.LIVE if id == target else VersionState.PAST
                if find_version(c, id).state is not state:
                    self._advance_version(c, id, state, actor, f"rolled back to {target}")
            for id in set(old_facts) - set(new_facts):
                self._advance(c, id, State.ROLLED_BACK, actor, f"rolled back to {target}: {reason}")
            for id in set(new_facts) - set(old_facts):
                again = f"live again: rolled back to {target}"
                self._advance(c, id, State.LIVE, actor, again, superseded_by=None)
            self._set_control(c, "live", target)
            self._finish(c, operation.id, OperationState.DONE, f"{target} is live and verified")

    # -- the guard ------------------------------------------------------------------------------

    def record_watch(
        self, version: str, ruling: Ruling, measured: dict[str, Any], rollback_to: str | None
    ) -> None:
        """What the live version is found to be now, with the rollback that follows, if one does."""
        with self.writing() as c:
            row = find_version(c, version)
            now = {
                "verdict": ruling.to_json(),
                "measurements": measured_again(measured, row.measurements or {}),
            }
            c.execute(update(versions).where(versions.c.id == version).values(**now))
            self._keep_measured(c, version, ruling, measured)
            self._set_control(c, "watched", {"version": version, "at": self.clock()})
            self._rule(c, version, ruling)
            if rollback_to is not None:
                self._request(c, OperationKind.ROLLBACK, rollback_to, GUARD, ruling.reason)

    def refuse_alert(self, operation: int, ruling: Ruling) -> None:
        """An alert asked for a rollback that the guard's policy does not allow now."""
        with self.writing() as c:
            self._rule(c, live_version(c), ruling)
            reason = f"not now: {ruling.reason}" if ruling.step != "would_rollback" else "a dry run"
            self._finish(c, operation, OperationState.FAILED, reason)

    def record_forecast(self, version: str, forecast: dict[str, Any]) -> None:
        with self.writing() as c:
            self._set_control(c, "forecast", {"version": version, **forecast})

    def ask_compaction(self, why: str, dry_run: bool) -> None:
        """The guard's step; a dry run says so and asks for nothing."""
        with self.writing() as c:
            step = "would_compact" if dry_run else "compact"
            self._note(c, GUARD, live_version(c), "live", step, GUARD, why)
            if not dry_run:
                self._request(c, OperationKind.COMPACT, None, GUARD, why)

    def pause(self, why: str) -> None:
        """The guard's last step."""
        with self.writing() as c:
            self._pause(c, live_version(c), "live", why)

    def _rule(self, c: Connection, id: str, ruling: Ruling) -> None:
        """Keeps the guard's memory, and the step when it takes one."""
        before = PolicyState.from_json(get_control(c, "policy"))
        self._set_control(c, "policy", ruling.decision.state.to_json())
        if ruling.action != "pause":
            if ruling.step:
                self._note(c, GUARD, id, ruling.judged, ruling.step, GUARD, ruling.reason)
        elif before.paused is None:
            self._pause(c, id, ruling.judged, ruling.reason)

    def _pause(self, c: Connection, id: str, judged: str | None, why: str) -> None:
        state = PolicyState.from_json(get_control(c, "policy"))
        self._set_control(c, "policy", replace(state, paused=why).to_json())
        self._set_control(c, "paused", {"actor": GUARD, "why": why, "at": self.clock()})
        self._note(c, GUARD, id, judged, "pause", GUARD, why)

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
        asked = c.execute(select(operations).where(operations.c.id == operation)).one()
        if state is OperationState.FAILED and asked.actor == GUARD:
            # A step of the ladder that could not be taken: only the last one is left.
            self._pause(c, str(operation), None, f"{asked.kind} failed: {reason}")

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
        with self.writing() as c:
            told = {"version": version, "cause": cause}
            told |= {"replicas": list(replicas), "failures": list(failures)}
            at = {"fence": self.fence, "at": self.clock()}
            c.execute(insert(publications).values(**told, pause_seconds=pause, **at))
        if pause is not None:
            self.record_seconds(version, "pause", pause)

    def record_seconds(self, version: str, stage: str, seconds: float) -> None:
        with self.writing() as c:
            values = {"version": version, "stage": stage, "seconds": seconds, "at": self.clock()}
            c.execute(insert(stage_seconds).values(**values))
