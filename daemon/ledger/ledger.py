"""The ledger: the durable record of corrections, versions and operations, and the only truth.

Intake and operators write here; the applier writes through `daemon.ledger.journal`. Every change of state
is a row of `transitions`, committed together with the change.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, insert, select, update

from daemon.core.errors import TransitionError, UnknownIdError
from daemon.core.lifecycle import (
    OperationKind,
    OperationState,
    State,
    VersionState,
    check_transition,
)
from daemon.core.messages import Correction
from daemon.core.publication import BASE_VERSION
from daemon.ledger.chain import Head, extend, storable
from daemon.ledger.database import open_engine
from daemon.ledger.migration import migrate
from daemon.ledger.queries import LedgerQueries, find_correction, find_version
from daemon.ledger.repetition import Known
from daemon.ledger.tables import (
    HEAD,
    aliases,
    control,
    corrections,
    operations,
    transitions,
    versions,
)

#: an id becomes a label, a URL part and a file name in exports
MAX_ID = 200

# Built once: each post runs them, and building a statement takes longer than running it.
_READ_HEAD = select(control.c.value).where(control.c.name == HEAD)
_WRITE_HEAD = update(control).where(control.c.name == HEAD).values(value=bindparam("head"))
_APPEND = insert(transitions)


class Ledger(LedgerQueries):
    """Corrections, versions and operations in one database; many processes may hold it open."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    @classmethod
    def open(cls, url: str, clock: Callable[[], float] = time.time) -> "Ledger":
        """Opens the database at a SQLAlchemy URL; makes and changes tables where that is due.

        Raises:
            SettingsError: the URL cannot be used.
            LedgerVersionError: a newer factd has changed the ledger.
        """
        engine = open_engine(url)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that may write, the only such one; committed at the end, undone by an exception."""
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
        # An id that was made up just now needs no look-up.
        known_ids = [storable(id) for id, _ in posts if id]
        rows: list[dict[str, Any]] = []
        repeats: list[dict[str, str]] = []
        firsts: list[str] = []
        with self.writing() as c:
            known = Known(c, known_ids, [post.key for _, post in posts if post.key is not None])
            now = self.clock()
            for given, correction in posts:
                id = storable(given) if given else str(uuid.uuid4())
                content_hash = correction.content_hash
                first, fresh = known.first(id, correction, content_hash)
                if first is None:
                    rows.append(self._row(id, correction, content_hash, now))
                elif fresh:
                    repeats.append({"id": id, "correction": first})
                known.add(id, correction.key, first or id, content_hash)
                firsts.append(first or id)
            if rows:
                c.execute(insert(corrections), rows)
                self._note_all(c, [entry for row in rows for entry in self._arrival(row["id"], actor)])
            if repeats:
                c.execute(insert(aliases), repeats)
        return firsts

    @staticmethod
    def _row(id: str, correction: Correction, content_hash: str, now: float) -> dict[str, Any]:
        return correction.model_dump() | {
            "id": id,
            "content_hash": content_hash,
            "state": State.VALIDATED,
            "attempts": 0,
            "not_before": 0.0,
            "received_at": now,
        }

    @staticmethod
    def _arrival(id: str, actor: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return (
            _entry("correction", id, None, State.RECEIVED, actor),
            _entry("correction", id, State.RECEIVED, State.VALIDATED, actor),
        )

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
            kind: retract, retry, drop (target: correction id), rollback (target: version), compact, pause,
                resume.
            actor: who asks: ``operator`` or ``alert``, or ``operator:<name>`` and so on; the guard's own
                are written by `daemon.ledger.journal`.

        Raises:
            UnknownIdError: there is no such correction or version.
            TransitionError: the version was never live, or the correction to retry or drop is not dead.
        """
        kind = OperationKind(kind)
        if kind in (OperationKind.RETRY, OperationKind.DROP):
            return self.decide_dead(kind, [target or ""], actor=actor, why=why)[0]
        with self.writing() as c:
            if kind is OperationKind.RETRACT:
                target = find_correction(c, target or "").id
            elif kind is OperationKind.ROLLBACK:
                self._check_rollback_target(c, target or "")
            return self._request(c, kind, target, actor, why)

    def _request(
        self,
        c: Connection,
        kind: OperationKind,
        target: str | None,
        actor: str,
        why: str | None,
        done: str | None = None,
    ) -> int:
        """`done`: what was done about it, for an operation that is carried out in this transaction."""
        now, state = self.clock(), OperationState.PENDING if done is None else OperationState.DONE
        values = {"kind": kind, "target": target, "actor": actor, "why": why, "attempts": 0}
        values |= {"state": state, "created_at": now}
        values |= {} if done is None else {"reason": done, "finished_at": now}
        inserted = c.execute(insert(operations).values(**values)).inserted_primary_key
        assert inserted is not None  # one row of a table with a key
        number = inserted[0]
        self._note(c, "operation", str(number), None, state, actor, why)
        return number

    @staticmethod
    def _check_rollback_target(c: Connection, target: str) -> None:
        version = find_version(c, target)
        served = (VersionState.LIVE, VersionState.PAST, VersionState.ROLLED_BACK)
        if version.state not in served or (version.live_at is None and target != BASE_VERSION):
            raise TransitionError(
                f"version {target} is {version.state} and was never live; see `factd versions`"
            )

    def decide_dead(
        self, kind: OperationKind | str, ids: Sequence[str], *, actor: str, why: str | None = None
    ) -> list[int]:
        """Retries or drops dead corrections, all or none, at once: the applier has no part in it.

        A retried one waits again and is tried alone, with its attempts counted anew. A dropped one ends
        rejected. Each is an operation of its own.

        Args:
            kind: retry or drop.

        Returns:
            The numbers of the operations.

        Raises:
            UnknownIdError: there is no such correction.
            TransitionError: one of them is not dead.
        """
        kind = OperationKind(kind)
        with self.writing() as c:
            return [self._decide_dead(c, kind, id, actor, why) for id in ids]

    def _decide_dead(self, c: Connection, kind: OperationKind, id: str, actor: str, why: str | None) -> int:
        row = find_correction(c, id)
        if row.state is not State.DEAD:
            raise TransitionError(f"correction {row.id} is {row.state}; {kind} is for dead ones")
        if kind is OperationKind.RETRY:
            state, done = State.VALIDATED, "waits again"
            changes: dict[str, Any] = {"attempts": 0, "batch_limit": 1, "not_before": 0.0}
        else:
            state, done, changes = State.REJECTED, f"dropped; it had died: {row.reason}", {}
        number = self._request(c, kind, row.id, actor, why, done)
        reason = f"{done} (operation {number}" + (f": {why})" if why else ")")
        self._advance(c, row.id, state, actor, reason, version=None, **changes)
        return number

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
        self._note_all(c, [_entry(kind, id, old, new, actor, reason)])

    def _note_all(self, c: Connection, entries: Sequence[dict[str, Any]]) -> None:
        """Appends to the chain of transitions; the write lock is held, so the head stays where it is."""
        now = float(self.clock())
        stored = Head(**c.execute(_READ_HEAD).scalar_one())
        rows, head = extend(stored, [{**entry, "at": now} for entry in entries])
        c.execute(_APPEND, rows)
        c.execute(_WRITE_HEAD, {"head": asdict(head)})

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


def _entry(
    kind: str, id: str, old: str | None, new: str, actor: str, reason: str | None = None
) -> dict[str, Any]:
    return {"kind": kind, "id": id, "old": old, "new": new, "reason": reason, "actor": actor}


def _replace(c: Connection, table: Table, key: str, values: dict[str, Any]) -> None:
    # Portable upsert: the write lock is held, so nothing can come between the two statements.
    changed = c.execute(update(table).where(table.c[key] == values[key]).values(**values))
    if changed.rowcount == 0:
        c.execute(insert(table).values(**values))
