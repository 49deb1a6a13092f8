"""Questions to the ledger. Nothing here writes."""

from collections.abc import Sequence
from typing import Any, Unpack

from sqlalchemy import func, select

from daemon.core.errors import UnknownIdError
from daemon.core.lifecycle import PENDING, OperationState, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD
from daemon.ledger.database import Database
from daemon.ledger.reading import (
    Only,
    accepted_ancestors,
    ancestry,
    children_of,
    chosen,
    fact_ids,
    find_correction,
    find_version,
    get_control,
    live_version,
    of_slot,
    recent_ancestry,
    rows_of,
)
from daemon.ledger.record.repetition import of_keys
from daemon.ledger.record.schedule import over
from daemon.ledger.rows import (
    Candidate,
    CorrectionRow,
    LedgerStatus,
    OperationRow,
    TransitionRow,
    VersionRow,
    correction_row,
    operation_row,
    version_row,
)
from daemon.ledger.status import corrections_by_state, last_step, read_status
from daemon.ledger.tables import corrections, operations, stage_seconds, stage_totals, transitions, versions
from daemon.ledger.waiting import facts_about, pending
from monitoring.durations import Durations
from monitoring.policy import PolicyState

#: versions that a forecast looks back on, at most
HISTORY = 500


class Questions:
    """What anybody may ask of the ledger. Each answer is of one moment."""

    def __init__(self, database: Database) -> None:
        self._database, self._read = database, database.reading

    def get(self, id: str) -> CorrectionRow:
        """The correction with this id, or of which this id is a repetition. Raises UnknownIdError."""
        with self._read() as c:
            return find_correction(c, id)

    def rows(self, ids: Sequence[str]) -> list[CorrectionRow]:
        """The corrections with these ids, in the order of `ids`."""
        with self._read() as c:
            found = rows_of(c, ids)
        return [found[id] for id in ids]

    def corrections(
        self, *states: State, limit: int | None = None, **only: Unpack[Only]
    ) -> list[CorrectionRow]:
        """Corrections in order of arrival; all states when none is named; the newest `limit` of them.

        Args:
            only: those with a source, with a subject, or that hold a text (`daemon.ledger.reading.Only`).
        """
        query = select(corrections).where(*chosen(states, **only))
        with self._read() as c:
            rows = c.execute(query.order_by(corrections.c.seq.desc()).limit(limit))
            return [correction_row(row) for row in rows][::-1]

    def children(self, *ids: str) -> list[CorrectionRow]:
        """Corrections that follow from one of these; of each in order of arrival."""
        with self._read() as c:
            return list(children_of(c, ids))

    def facts(self) -> list[CorrectionRow]:
        """Live corrections."""
        return self.corrections(State.LIVE)

    def to_plan(self, limit: int) -> tuple[list[Candidate], list[Candidate]]:
        """What the next batch is planned from: corrections that wait, and live facts of their subjects.

        So many that wait come, and of the same subjects as many again at most (`daemon.ledger.waiting`).
        """
        with self._read() as c:
            waiting = pending(c, limit)
            return waiting, facts_about(c, {row.subject for row in waiting})

    def pending_count(self) -> int:
        """How many corrections wait: for a batch, or for their time."""
        counts = self.counts()
        return sum(counts[state] for state in PENDING)

    def ready_count(self) -> int:
        """How many corrections wait for a batch."""
        return self.counts()[State.VALIDATED]

    def keys(self, keys: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Idempotency key → (id of its correction, hash of the content), of the keys that are in use."""
        with self._read() as c:
            return dict(of_keys(c, keys))

    def of_slot(self, subject: str, prompt: str) -> list[CorrectionRow]:
        """The corrections of a slot, the newest first, whatever became of them; refused ones are left out."""
        mine = of_slot(subject, prompt) & (corrections.c.state != State.REJECTED)
        with self._read() as c:
            rows = c.execute(select(corrections).where(mine).order_by(corrections.c.seq.desc()))
            return [correction_row(row) for row in rows]

    def over(self, limit: int) -> list[str]:
        """Ids of live facts whose time is over, the oldest end first."""
        with self._read() as c:
            return over(c, [State.LIVE], self._database.clock(), limit)

    def counts(self) -> dict[str, int]:
        """Corrections by state; every state is there."""
        with self._read() as c:
            return corrections_by_state(c)

    # -- versions -------------------------------------------------------------------------------

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

    def ancestry(self, id: str) -> list[VersionRow]:
        """The version and its ancestors, oldest first, the base left out. Raises UnknownIdError."""
        with self._read() as c:
            return ancestry(c, id)

    def fact_ids(self, version: str) -> list[str]:
        """Ids of the facts that the version holds, in order of addition. Raises UnknownIdError."""
        with self._read() as c:
            return fact_ids(c, version)

    def healthy_versions(self) -> list[str]:
        """Ancestors of the live version that were accepted when last judged, newest first; then the base."""
        with self._read() as c:
            return [*accepted_ancestors(c, live_version(c)), BASE_VERSION]

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
        with self._read() as c:
            rows = recent_ancestry(c, live_version(c), HISTORY)
        edits, found = 0, list[tuple[int, dict[str, Any]]]()
        for row in rows:
            edits += len(row.added)
            if row.measurements is not None:
                found.append((edits, row.measurements))
        return found

    def operations(self, *states: OperationState) -> list[OperationRow]:
        """Operations in the order in which they were asked for; all states when none is named."""
        query = select(operations).order_by(operations.c.id)
        if states:
            query = query.where(operations.c.state.in_(states))
        with self._read() as c:
            return [operation_row(row) for row in c.execute(query)]

    def operation(self, id: int) -> OperationRow:
        """Raises UnknownIdError."""
        with self._read() as c:
            row = c.execute(select(operations).where(operations.c.id == id)).first()
        if row is None:
            raise UnknownIdError("operation", str(id))
        return operation_row(row)

    def last_step(self, *steps: str) -> TransitionRow | None:
        """The guard's last step, of those named or of any."""
        with self._read() as c:
            return last_step(c, *steps)

    def steps(self, since: float = 0.0) -> dict[str, int]:
        """Step of the guard → how often it was taken after a time."""
        mine = (transitions.c.kind == GUARD) & (transitions.c.at > since)
        query = select(transitions.c.new, func.count()).where(mine).group_by(transitions.c.new)
        with self._read() as c:
            return dict(c.execute(query).all())

    def paused(self) -> dict[str, Any] | None:
        """Who paused and why, or None."""
        return self._control("paused")

    def policy(self) -> PolicyState:
        """The guard's memory."""
        return PolicyState.from_json(self._control("policy"))

    def watched_at(self) -> float | None:
        """When the live version was last measured again; None before the first time."""
        watched = self._control("watched")
        return watched.get("at") if watched else None

    def forecast(self) -> dict[str, Any] | None:
        return self._control("forecast")

    def background(self) -> dict[str, Any] | None:
        """How far work in the background is (`daemon.ledger.record.background`); None when none runs."""
        return self._control("background")

    def _control(self, name: str) -> Any:
        with self._read() as c:
            return get_control(c, name)

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
            return [TransitionRow(*row) for row in c.execute(query)][::-1]

    def stage_seconds(self, version: str | None = None) -> list[tuple[str, str, float]]:
        """(version, stage, seconds) in order of happening; of one version or of all."""
        table = stage_seconds
        query = select(table.c.version, table.c.stage, table.c.seconds).order_by(table.c.seq)
        if version is not None:
            query = query.where(table.c.version == version)
        with self._read() as c:
            return [(row[0], row[1], row[2]) for row in c.execute(query)]

    def stage_durations(self) -> dict[str, Durations]:
        """Stage of an update → how long it took, over all updates there were."""
        found: dict[str, Durations] = {}
        with self._read() as c:
            for stage, at_most, count, seconds in c.execute(select(stage_totals)):
                found[stage] = found.get(stage, Durations()) + Durations({at_most: count}, seconds)
        return found

    def last_seconds(self, stage: str) -> float | None:
        """How long a stage took the last time; None before the first."""
        table = stage_seconds
        query = select(table.c.seconds).where(table.c.stage == stage).order_by(table.c.seq.desc()).limit(1)
        with self._read() as c:
            return c.scalar(query)

    def status(self) -> LedgerStatus:
        """Everything the status page and the metrics show, from one snapshot."""
        with self._read() as c:
            return read_status(c, self._database.clock())
