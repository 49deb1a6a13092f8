"""Changes of state: the row's new state, its link of the hash chain and the running totals together.

Intake and the journal use this inside a writing transaction of theirs; nobody else does.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, text, update

from daemon.core.actors import actor_kind
from daemon.core.lifecycle import (
    OperationKind,
    OperationState,
    ReasonCode,
    State,
    VersionState,
    check_transition,
)
from daemon.ledger.chain import Head, extend
from daemon.ledger.reading import chunks
from daemon.ledger.tables import HEAD, control, corrections, operations, transitions, versions

# Built once: each post runs them, and building a statement takes longer than running it.
_READ_HEAD = select(control.c.value).where(control.c.name == HEAD)
_WRITE_HEAD = update(control).where(control.c.name == HEAD).values(value=bindparam("head"))
_APPEND = insert(transitions)
_COUNT = text(
    "INSERT INTO tallies (kind, old, new, code, count) VALUES (:kind, :old, :new, :code, :count)"
    " ON CONFLICT (kind, old, new, code) DO UPDATE SET count = tallies.count + excluded.count"
)


def entry(
    kind: str,
    id: str,
    old: str | None,
    new: str,
    actor: str,
    reason: str | None = None,
    code: ReasonCode | None = None,
) -> dict[str, Any]:
    """One change of state as `Transitions.note_all` takes it."""
    told = {"kind": kind, "id": id, "old": old, "new": new, "reason": reason, "actor": actor}
    return told | ({"code": code} if code else {})


class Transitions:
    """Writes changes of state. Times come from the database's clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def note(
        self, c: Connection, kind: str, id: str, old: str | None, new: str, actor: str, why: str | None = None
    ) -> None:
        """Appends one change to the chain."""
        self.note_all(c, [entry(kind, id, old, new, actor, why)])

    def note_all(self, c: Connection, entries: Sequence[Mapping[str, Any]]) -> None:
        """Appends changes to the chain. The write lock is held, so nobody else moves the head meanwhile."""
        if not entries:
            return
        now = float(self._clock())
        stored = Head(**c.execute(_READ_HEAD).scalar_one())
        chained = [{name: each[name] for name in each if name != "code"} | {"at": now} for each in entries]
        rows, head = extend(stored, chained)
        c.execute(_APPEND, rows)
        c.execute(_WRITE_HEAD, {"head": asdict(head)})
        c.execute(_COUNT, _tallied(entries))

    def advance(
        self,
        c: Connection,
        ids: Sequence[str],
        new: State,
        actor: str,
        reason: str | None = None,
        *,
        code: ReasonCode | None = None,
        **changes: Any,
    ) -> None:
        """Brings corrections to one state for one reason. Raises TransitionError."""
        if not ids:
            return
        old = self._states_of(c, ids)
        for id in ids:
            check_transition(f"correction {id}", old[id], new)
        values = {"state": new, "reason": reason, "code": code, **changes}
        for chunk in chunks(ids):
            c.execute(update(corrections).where(corrections.c.id.in_(chunk)).values(**values))
        self.note_all(c, [entry("correction", id, old[id], new, actor, reason, code) for id in ids])

    @staticmethod
    def _states_of(c: Connection, ids: Sequence[str]) -> dict[str, State]:
        found: dict[str, State] = {}
        for chunk in chunks(ids):
            query = select(corrections.c.id, corrections.c.state).where(corrections.c.id.in_(chunk))
            found |= {id: State(state) for id, state in c.execute(query)}
        return found

    def advance_version(
        self,
        c: Connection,
        id: str,
        new: VersionState,
        actor: str,
        reason: str | None = None,
        *,
        code: ReasonCode | None = None,
        **changes: Any,
    ) -> None:
        """Brings a version to a state. Raises TransitionError."""
        old = VersionState(c.execute(select(versions.c.state).where(versions.c.id == id)).scalar_one())
        check_transition(f"version {id}", old, new)
        values = {"state": new, "reason": reason, "code": code, **changes}
        c.execute(update(versions).where(versions.c.id == id).values(**values))
        self.note_all(c, [entry("version", id, old, new, actor, reason, code)])

    def request(
        self,
        c: Connection,
        kind: OperationKind,
        target: str | None,
        actor: str,
        why: str | None,
        done: str | None = None,
    ) -> int:
        """Records an operation that somebody asks for, and returns its number.

        Args:
            done: what was done about it, for an operation that is carried out in this transaction.
        """
        now, state = self._clock(), OperationState.PENDING if done is None else OperationState.DONE
        values = {"kind": kind, "target": target, "actor": actor, "why": why, "attempts": 0}
        values |= {"actor_kind": actor_kind(actor), "state": state, "created_at": now}
        values |= {} if done is None else {"reason": done, "finished_at": now}
        inserted = c.execute(insert(operations).values(**values)).inserted_primary_key
        assert inserted is not None  # one row of a table with a key
        number = inserted[0]
        self.note(c, "operation", str(number), None, state, actor, why)
        return number


def set_control(c: Connection, name: str, value: object) -> None:
    """Portable upsert: the write lock is held, so nothing can come between the two statements."""
    changed = c.execute(update(control).where(control.c.name == name).values(value=value))
    if changed.rowcount == 0:
        c.execute(insert(control).values(name=name, value=value))


def _tallied(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    counted = Counter((e["kind"], e["old"] or "", e["new"], e.get("code") or "") for e in entries)
    names = ("kind", "old", "new", "code")
    return [dict(zip(names, map(str, key), strict=True)) | {"count": count} for key, count in counted.items()]
