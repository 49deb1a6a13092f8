"""The ledger: the durable record of corrections, versions and operations, and the only truth.

Intake and operators write here; the applier writes through `daemon.journal`. Every change of state is a
row of `transitions`, committed together with the change.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Table, insert, select, update

from daemon.errors import ConflictError, TransitionError, UnknownIdError
from daemon.ledger_queries import LedgerQueries, find_correction, find_version
from daemon.ledger_tables import (
    BASE_VERSION,
    aliases,
    control,
    corrections,
    open_engine,
    operations,
    transitions,
    versions,
)
from daemon.lifecycle import (
    OperationKind,
    OperationState,
    State,
    VersionState,
    check_transition,
)
from daemon.messages import Correction

__all__ = ["BASE_VERSION", "Ledger"]

#: an id becomes a label, a URL part and a file name in exports
MAX_ID = 200


class Ledger(LedgerQueries):
    """Corrections, versions and operations in one database; many processes may hold it open."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    @classmethod
    def open(cls, url: str, clock: Callable[[], float] = time.time) -> "Ledger":
        """Opens the database at a SQLAlchemy URL and makes what is missing."""
        return cls(open_engine(url), clock)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write; committed at the end, undone by an exception."""
        with self.engine.connect().execution_options(factd_write=True) as connection, connection.begin():
            yield connection

    # -- intake ---------------------------------------------------------------------------------

    def submit(self, correction: Correction, id: str | None = None, *, actor: str = "submit") -> str:
        """Records a correction as pending and returns its id.

        A repetition (same id or same key, equal content) returns the id of the first post.

        Raises:
            ConflictError: the id or the key is known with other content.
        """
        return self.submit_many([(id, correction)], actor=actor)[0]

    def submit_many(
        self, posts: Sequence[tuple[str | None, Correction]], *, actor: str = "submit"
    ) -> list[str]:
        """Records all or none; returns one id a post."""
        with self.writing() as c:
            return [self._submit(c, correction, id or str(uuid.uuid4()), actor) for id, correction in posts]

    def _submit(self, c: Connection, correction: Correction, id: str, actor: str) -> str:
        known = self._known(c, correction, id)
        if known is not None:
            return known
        row = correction.model_dump(exclude={"neighbours"}) | {
            "neighbours": [neighbour.model_dump() for neighbour in correction.neighbours],
            "id": id,
            "content_hash": correction.content_hash,
            "state": State.VALIDATED,
            "attempts": 0,
            "not_before": 0.0,
            "received_at": self.clock(),
        }
        c.execute(insert(corrections).values(**row))
        self._note(c, "correction", id, None, State.RECEIVED, actor)
        self._note(c, "correction", id, State.RECEIVED, State.VALIDATED, actor)
        return id

    def _known(self, c: Connection, correction: Correction, id: str) -> str | None:
        try:
            row = find_correction(c, id)
        except UnknownIdError:
            row = None
        if row is not None:
            if row.content_hash != correction.content_hash:
                raise ConflictError("id", id, row.id)
            return row.id
        if correction.key is None:
            return None
        first = c.execute(select(corrections).where(corrections.c.key == correction.key)).first()
        if first is None:
            return None
        if first.content_hash != correction.content_hash:
            raise ConflictError("key", correction.key, first.id)
        c.execute(insert(aliases).values(id=id, correction=first.id))
        return first.id

    def refuse(self, id: str, reason: str, *, actor: str = "submit") -> None:
        """Records that a message with this id was refused; does nothing when the id is known."""
        with self.writing() as c:
            try:
                find_correction(c, id)
            except UnknownIdError:
                blank: dict[str, Any] = dict.fromkeys(("subject", "prompt", "target", "content_hash"), "")
                blank |= {
                    "paraphrases": [],
                    "neighbours": [],
                    "priority": 0,
                    "attempts": 0,
                    "not_before": 0.0,
                }
                now = self.clock()
                values = blank | {"id": id, "state": State.REJECTED, "reason": reason, "received_at": now}
                c.execute(insert(corrections).values(**values))
                self._note(c, "correction", id, None, State.RECEIVED, actor)
                self._note(c, "correction", id, State.RECEIVED, State.REJECTED, actor, reason)

    # -- operators ------------------------------------------------------------------------------

    def request(
        self, kind: OperationKind | str, target: str | None = None, *, actor: str, why: str | None = None
    ) -> int:
        """Asks the applier for an operation and returns its number; `operation(number)` tells the result.

        Args:
            kind: retract (target: correction id), rollback (target: version), compact, pause, resume.
            actor: who asks: ``operator`` or ``alert``, or ``operator:<name>`` and so on; the guard's own
                are written by `daemon.journal`.

        Raises:
            UnknownIdError: there is no such correction or version.
            TransitionError: the version was never live.
        """
        kind = OperationKind(kind)
        with self.writing() as c:
            if kind is OperationKind.RETRACT:
                target = find_correction(c, target or "").id
            elif kind is OperationKind.ROLLBACK:
                self._check_rollback_target(c, target or "")
            return self._request(c, kind, target, actor, why)

    def _request(
        self, c: Connection, kind: OperationKind, target: str | None, actor: str, why: str | None
    ) -> int:
        values = {"kind": kind, "target": target, "actor": actor, "why": why, "attempts": 0}
        values |= {"state": OperationState.PENDING, "created_at": self.clock()}
        inserted = c.execute(insert(operations).values(**values)).inserted_primary_key
        assert inserted is not None  # one row of a table with a key
        number = inserted[0]
        self._note(c, "operation", str(number), None, OperationState.PENDING, actor, why)
        return number

    @staticmethod
    def _check_rollback_target(c: Connection, target: str) -> None:
        version = find_version(c, target)
        served = (VersionState.LIVE, VersionState.PAST, VersionState.ROLLED_BACK)
        if version.state not in served or (version.live_at is None and target != BASE_VERSION):
            raise TransitionError(
                f"version {target} is {version.state} and was never live; see `factd versions`"
            )

    def retry_dead(self, id: str, *, actor: str) -> None:
        """Makes a dead correction pending again. Raises TransitionError when it is not dead."""
        with self.writing() as c:
            row = find_correction(c, id)
            if row.state is not State.DEAD:
                raise TransitionError(f"correction {row.id} is {row.state}; only a dead one can be retried")
            again = {"attempts": 0, "batch_limit": 1, "not_before": 0.0, "version": None}
            self._advance(c, row.id, State.VALIDATED, actor, "retry requested", **again)

    # -- shared with the journal ----------------------------------------------------------------

    def _note(
        self,
        c: Connection,
        kind: str,
        id: str,
        old: str | None,
        new: str,
        actor: str,
        reason: str | None = None,
    ) -> None:
        values = {"kind": kind, "id": id, "old": old, "new": new, "reason": reason, "actor": actor}
        c.execute(insert(transitions).values(at=self.clock(), **values))

    def _advance(
        self, c: Connection, id: str, new: State, actor: str, reason: str | None = None, **changes: Any
    ) -> None:
        old = State(c.execute(select(corrections.c.state).where(corrections.c.id == id)).scalar_one())
        check_transition(f"correction {id}", old, new)
        values = {"state": new, "reason": reason, **changes}
        c.execute(update(corrections).where(corrections.c.id == id).values(**values))
        self._note(c, "correction", id, old, new, actor, reason)

    def _advance_version(
        self, c: Connection, id: str, new: VersionState, actor: str, reason: str | None = None, **changes: Any
    ) -> None:
        old = VersionState(c.execute(select(versions.c.state).where(versions.c.id == id)).scalar_one())
        check_transition(f"version {id}", old, new)
        c.execute(update(versions).where(versions.c.id == id).values(state=new, reason=reason, **changes))
        self._note(c, "version", id, old, new, actor, reason)

    @staticmethod
    def _set_control(c: Connection, name: str, value: Any) -> None:
        _replace(c, control, "name", {"name": name, "value": value})


def _replace(c: Connection, table: Table, key: str, values: dict[str, Any]) -> None:
    # Portable upsert: the write lock is held, so nothing can come between the two statements.
    changed = c.execute(update(table).where(table.c[key] == values[key]).values(**values))
    if changed.rowcount == 0:
        c.execute(insert(table).values(**values))
