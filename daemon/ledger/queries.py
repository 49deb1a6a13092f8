"""Questions to the ledger. Nothing here writes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, func, or_, select

from daemon.core.errors import UnknownIdError
from daemon.core.lifecycle import FINAL, PENDING, OperationKind, OperationState, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD
from daemon.ledger.tables import (
    CorrectionRow,
    LedgerStatus,
    OperationRow,
    TransitionRow,
    VersionRow,
    aliases,
    control,
    correction_row,
    corrections,
    operation_row,
    operations,
    stage_seconds,
    transitions,
    version_row,
    versions,
)
from monitoring.policy import PolicyState

#: causes of a rollback that metrics tell apart; an actor `<cause>` or `<cause>:<name>` names it
ROLLBACK_CAUSES = ("operator", "alert", "guard", "publish_failed", "canary_failed")


#: columns of a correction that a search looks at, besides the prompt with the subject filled in
SEARCHED = ("id", "key", "target", "was", "before", "after", "reason", "version")

#: versions that a forecast looks back on, at most
HISTORY = 500


class LedgerQueries:
    """The reading half of the ledger."""

    engine: Engine
    clock: Callable[[], float]

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection

    def get(self, id: str) -> CorrectionRow:
        """The correction with this id, or of which this id is a repetition. Raises UnknownIdError."""
        with self._read() as c:
            return find_correction(c, id)

    def corrections(
        self, *states: State, limit: int | None = None, containing: str | None = None
    ) -> list[CorrectionRow]:
        """Corrections in order of arrival; all states when none is named; the newest `limit` of them.

        Args:
            containing: only those with this in a text, an answer, the reason, the id, key or version; case
                does not count.
        """
        query = select(corrections).order_by(corrections.c.seq.desc()).limit(limit)
        if states:
            query = query.where(corrections.c.state.in_(states))
        if containing:
            columns = (corrections.c[name] for name in SEARCHED)
            asked = func.replace(corrections.c.prompt, "{}", corrections.c.subject)
            query = query.where(or_(*(c.icontains(containing, autoescape=True) for c in (asked, *columns))))
        with self._read() as c:
            return [correction_row(row) for row in c.execute(query)][::-1]

    def facts(self) -> list[CorrectionRow]:
        """Live corrections."""
        return self.corrections(State.LIVE)

    def versions(self) -> list[VersionRow]:
        """All versions but the base, oldest first."""
        with self._read() as c:
            return [version_row(row) for row in c.execute(select(versions).order_by(versions.c.id))]

    def outline(self) -> dict[str, tuple[VersionState, bool]]:
        """Version → its state, and whether it ever went live. Without measurements, which make rows large."""
        query = select(versions.c.id, versions.c.state, versions.c.live_at)
        with self._read() as c:
            return {row[0]: (VersionState(row[1]), row[2] is not None) for row in c.execute(query)}

    def version(self, id: str) -> VersionRow:
        """Raises UnknownIdError. The base is a version without parent."""
        with self._read() as c:
            return find_version(c, id)

    def version_in_flight(self) -> VersionRow | None:
        """The version that was begun and neither went live nor was given up."""
        state = VersionState
        begun = (state.PLANNED, state.WRITTEN, state.CANARY, state.PUBLISHED)
        with self._read() as c:
            row = c.execute(select(versions).where(versions.c.state.in_(begun))).first()
            return version_row(row) if row else None

    def live_version(self) -> str:
        with self._read() as c:
            return live_version(c)

    def chain(self, id: str) -> list[VersionRow]:
        """The version and its ancestors, oldest first, the base left out."""
        with self._read() as c:
            return chain(c, id)

    def fact_ids(self, version: str) -> list[str]:
        """Ids of the facts that the version holds, in order of addition."""
        with self._read() as c:
            return fact_ids(c, version)

    def healthy_versions(self) -> list[str]:
        """Ancestors of the live version that were accepted when last judged, newest first; then the base."""
        with self._read() as c:
            past = chain(c, live_version(c))[:-1]
        accepted = [row.id for row in past if (row.verdict or {}).get("outcome") == "accepted"]
        return [*accepted[::-1], BASE_VERSION]

    def newest_versions(self, count: int) -> list[VersionRow]:
        """The last versions that were begun, newest first, whatever became of them."""
        with self._read() as c:
            query = select(versions).order_by(versions.c.id.desc()).limit(count)
            return [version_row(row) for row in c.execute(query)]

    def live_since(self, at: float) -> int:
        """How many versions went live after a time."""
        with self._read() as c:
            later = versions.c.live_at > at
            return c.scalar(select(func.count()).select_from(versions).where(later)) or 0

    def history(self) -> list[tuple[int, dict[str, Any]]]:
        """(edits written so far, measurements) of the live version and its ancestors since the last
        compaction, oldest first. Each correction that was added counts, also when it was removed later."""
        compactions = operations.c.kind == OperationKind.COMPACT
        rows: list[VersionRow] = []
        with self._read() as c:
            compact = set(c.scalars(select(operations.c.id).where(compactions)))
            id = live_version(c)
            while id != BASE_VERSION and len(rows) < HISTORY:
                rows.append(find_version(c, id))
                if rows[-1].operation in compact:
                    break
                id = rows[-1].parent or BASE_VERSION
        edits, found = 0, []
        for row in rows[::-1]:
            edits += len(row.added)
            if row.measurements is not None:
                found.append((edits, row.measurements))
        return found

    def last_step(self, *steps: str) -> TransitionRow | None:
        """The guard's last step, of those named or of any."""
        with self._read() as c:
            return _last_step(c, *steps)

    def steps(self, since: float = 0.0) -> dict[str, int]:
        """Step of the guard → how often it was taken after a time."""
        with self._read() as c:
            return _steps(c, since)

    def operations(self, *states: OperationState) -> list[OperationRow]:
        query = select(operations).order_by(operations.c.id)
        if states:
            query = query.where(operations.c.state.in_(states))
        with self._read() as c:
            return [operation_row(row) for row in c.execute(query)]

    def operation(self, id: int) -> OperationRow:
        with self._read() as c:
            row = c.execute(select(operations).where(operations.c.id == id)).first()
        if row is None:
            raise UnknownIdError("operation", str(id))
        return operation_row(row)

    def transitions(
        self,
        id: str | None = None,
        *,
        kind: str | None = None,
        limit: int | None = None,
        after: int = 0,
        since: float = 0.0,
    ) -> list[TransitionRow]:
        """Changes of state, oldest first: with `seq` above `after`, from the time `since` on; the newest
        `limit` of them."""
        query = select(transitions).order_by(transitions.c.seq.desc()).limit(limit)
        query = query.where(transitions.c.seq > after)
        if since:
            query = query.where(transitions.c.at >= since)
        if id is not None:
            query = query.where(transitions.c.id == id)
        if kind is not None:
            query = query.where(transitions.c.kind == kind)
        with self._read() as c:
            return [TransitionRow(**row._mapping) for row in c.execute(query)][::-1]

    def counts(self) -> dict[str, int]:
        """Corrections by state; every state is there."""
        with self._read() as c:
            return _counts(c)

    def pending_count(self) -> int:
        """How many corrections wait; read from an index alone."""
        with self._read() as c:
            waits = corrections.c.state.in_(PENDING)
            return c.scalar(select(func.count()).select_from(corrections).where(waits)) or 0

    def paused(self) -> dict[str, Any] | None:
        """Who paused and why, or None."""
        with self._read() as c:
            return get_control(c, "paused")

    def policy(self) -> PolicyState:
        """The guard's memory."""
        with self._read() as c:
            return PolicyState.from_json(get_control(c, "policy"))

    def watched_at(self) -> float | None:
        with self._read() as c:
            return (get_control(c, "watched") or {}).get("at")

    def forecast(self) -> dict[str, Any] | None:
        with self._read() as c:
            return get_control(c, "forecast")

    def stage_seconds(self, version: str | None = None) -> list[tuple[str, str, float]]:
        """(version, stage, seconds) in order of happening."""
        table = stage_seconds
        query = select(table.c.version, table.c.stage, table.c.seconds).order_by(table.c.seq)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._read() as c:
            return [(row[0], row[1], row[2]) for row in c.execute(query)]

    def status(self) -> LedgerStatus:
        """Everything the status page and the metrics show, from one snapshot."""
        with self._read() as c:
            live = find_version(c, live_version(c))
            counts = _counts(c)
            pending = corrections.c.state.in_(PENDING)
            oldest = c.scalar(select(func.min(corrections.c.received_at)).where(pending))
            skipped = corrections.c.reason.like("skipped_outlier%")
            open_operations = operations.c.state == OperationState.PENDING
            return LedgerStatus(
                live=live.id,
                paused=get_control(c, "paused"),
                counts=counts,
                pending=sum(counts[state] for state in PENDING),
                oldest_pending_seconds=None if oldest is None else max(0.0, self.clock() - oldest),
                last_live_at=c.scalar(select(func.max(corrections.c.live_at))),
                measurements=live.measurements,
                verdict=live.verdict,
                rollbacks=_rollbacks(c),
                nas_skipped=c.scalar(select(func.count()).select_from(corrections).where(skipped)) or 0,
                operations_pending=c.scalar(
                    select(func.count()).select_from(operations).where(open_operations)
                )
                or 0,
                ended=_ended(c),
                steps=_steps(c),
                last_step=_last_step(c),
                watched_at=(get_control(c, "watched") or {}).get("at"),
                forecast=get_control(c, "forecast"),
            )


def find_correction(c: Connection, id: str) -> CorrectionRow:
    target = c.scalar(select(aliases.c.correction).where(aliases.c.id == id)) or id
    row = c.execute(select(corrections).where(corrections.c.id == target)).first()
    if row is None:
        raise UnknownIdError("correction", id)
    return correction_row(row)


def find_version(c: Connection, id: str) -> VersionRow:
    if id == BASE_VERSION:
        state = VersionState.LIVE if live_version(c) == BASE_VERSION else VersionState.PAST
        return VersionRow(BASE_VERSION, None, state)
    row = c.execute(select(versions).where(versions.c.id == id)).first()
    if row is None:
        raise UnknownIdError("version", id)
    return version_row(row)


def live_version(c: Connection) -> str:
    return get_control(c, "live") or BASE_VERSION


def get_control(c: Connection, name: str) -> Any:
    return c.scalar(select(control.c.value).where(control.c.name == name))


def chain(c: Connection, id: str) -> list[VersionRow]:
    found: list[VersionRow] = []
    while id != BASE_VERSION:
        found.append(find_version(c, id))
        id = found[-1].parent or BASE_VERSION
    return found[::-1]


def fact_ids(c: Connection, version: str) -> list[str]:
    ids: dict[str, None] = {}
    for row in chain(c, version):
        for id in row.removed:
            ids.pop(id, None)
        ids.update(dict.fromkeys(row.added))
    return list(ids)


def rows_of(c: Connection, ids: Sequence[str]) -> dict[str, CorrectionRow]:
    query = select(corrections).where(corrections.c.id.in_(list(ids)))
    return {row.id: correction_row(row) for row in c.execute(query)}


def edits_left(forecast: Mapping[str, Any] | None) -> float | None:
    """Edits until the nearest limit: infinite when none is approached, None while too little is known."""
    if not forecast or not forecast["known"]:
        return None
    left = [one["edits"] for one in forecast["forecasts"]]
    return min((math.inf if edits is None else edits for edits in left), default=math.inf)


def _last_step(c: Connection, *steps: str) -> TransitionRow | None:
    query = select(transitions).where(transitions.c.kind == GUARD).order_by(transitions.c.seq.desc())
    if steps:
        query = query.where(transitions.c.new.in_(steps))
    row = c.execute(query.limit(1)).first()
    return TransitionRow(**row._mapping) if row else None


def _steps(c: Connection, since: float = 0.0) -> dict[str, int]:
    mine = (transitions.c.kind == GUARD) & (transitions.c.at > since)
    found = c.execute(select(transitions.c.new, func.count()).where(mine).group_by(transitions.c.new))
    return {row[0]: row[1] for row in found}


def _ended(c: Connection) -> dict[str, int]:
    mine = (transitions.c.kind == "correction") & transitions.c.new.in_(FINAL)
    found = c.execute(select(transitions.c.new, func.count()).where(mine).group_by(transitions.c.new))
    return {row[0]: row[1] for row in found}


def _counts(c: Connection) -> dict[str, int]:
    found = c.execute(select(corrections.c.state, func.count()).group_by(corrections.c.state))
    return {state.value: 0 for state in State} | {row[0]: row[1] for row in found}


def _rollbacks(c: Connection) -> dict[str, int]:
    result: dict[str, int] = dict.fromkeys(ROLLBACK_CAUSES, 0)
    done = (operations.c.kind == "rollback") & (operations.c.state == OperationState.DONE)
    for (actor,) in c.execute(select(operations.c.actor).where(done)):
        cause = actor.split(":")[0]
        result[cause if cause in result else "operator"] += 1
    for cause, words in (("publish_failed", "publish failed%"), ("canary_failed", "canary failed%")):
        failed = transitions.c.reason.like(words) & (transitions.c.kind == "version")
        result[cause] += c.scalar(select(func.count()).select_from(transitions).where(failed)) or 0
    return result
