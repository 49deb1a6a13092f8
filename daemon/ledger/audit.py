"""Checks that the ledger is as it was written: the hash chain, and the states that it leads to."""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, String, cast, select
from sqlalchemy.exc import DatabaseError

from daemon.ledger.chain import CONTENT, Head, link
from daemon.ledger.tables import HEAD, control, corrections, operations, transitions, versions

#: rows fetched at a time: a chain may be larger than the memory
FETCHED = 5000
#: rows with a wrong state that are named of each kind; one is bad enough
NAMED = 20
_STATED = (("correction", corrections), ("version", versions), ("operation", operations))


@dataclass(frozen=True)
class Broken:
    """The first row whose hash does not fit its content and the row before it."""

    seq: int
    kind: str
    id: str
    why: str


@dataclass(frozen=True)
class Stray:
    """A row whose state differs from the last one in the chain."""

    kind: str
    id: str
    state: str
    chained: str | None


@dataclass(frozen=True)
class Audit:
    """What was found. `rows` and `head` count the chain up to its first broken link."""

    rows: int
    head: Head
    broken: Broken | None
    strays: tuple[Stray, ...] = ()

    @property
    def valid(self) -> bool:
        return self.broken is None and not self.strays


def audit(engine: Engine) -> Audit:
    """Reads every transition, in one snapshot."""
    with _tolerant(engine) as c:
        head, rows = Head(), 0
        columns = [transitions.c[name] for name in CONTENT]
        query = select(*columns, transitions.c.hash).order_by(transitions.c.seq)
        try:
            with c.execution_options(yield_per=FETCHED).execute(query) as found:
                for row in found.mappings():
                    expected = link(head.hash, row)
                    if row["hash"] != expected:
                        return Audit(rows, head, _changed(row, expected))
                    head, rows = Head(row["seq"], row["hash"]), rows + 1
            return Audit(rows, head, _ending(c, head), tuple(_strays(c)))
        except DatabaseError as error:
            why = f"the database is damaged behind row {head.seq}: {error.orig}"
            return Audit(rows, head, Broken(head.seq + 1, "", "", why))


def _changed(row: RowMapping, expected: str) -> Broken:
    why = f"its hash should be {expected[:12]}… and is {str(row['hash'])[:12]}…: "
    why += "it was changed, or the row before it is missing"
    return Broken(row["seq"], str(row["kind"]), str(row["id"]), why)


@contextmanager
def _tolerant(engine: Engine) -> Generator[Connection]:
    """A reading connection that also returns bytes that are no text, so that the audit can name their row."""
    with engine.connect() as c:
        raw: Any = c.connection.dbapi_connection
        if not isinstance(raw, sqlite3.Connection):
            yield c
            return
        raw.text_factory = _as_text
        try:
            yield c
        finally:
            raw.text_factory = str


def _as_text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogateescape")


def _ending(c: Connection, head: Head) -> Broken | None:
    try:
        kept = Head(**c.execute(select(control.c.value).where(control.c.name == HEAD)).scalar_one())
    except (ValueError, TypeError) as error:
        return Broken(head.seq, "control", HEAD, f"the kept end of the chain cannot be read: {error}")
    if kept == head:
        return None
    why = f"the chain ends with {head.hash[:12]}…, its kept end is row {kept.seq} with {kept.hash[:12]}…"
    return Broken(head.seq + 1, "control", HEAD, f"{why}: rows are missing, or the end was changed")


def _strays(c: Connection) -> Iterator[Stray]:
    for kind, table in _STATED:
        id = cast(table.c.id, String)
        of_it = (transitions.c.kind == kind) & (transitions.c.id == id)
        newest = select(transitions.c.new).where(of_it).order_by(transitions.c.seq.desc()).limit(1)
        chained = newest.scalar_subquery()
        differs = chained.is_distinct_from(table.c.state)
        for row in c.execute(select(id, table.c.state, chained).where(differs).limit(NAMED)):
            yield Stray(kind, *row)
