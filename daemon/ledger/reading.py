"""Questions that several parts of the ledger ask, on a connection of the caller's."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, TypedDict, Unpack

from sqlalchemy import CTE, ColumnElement, Connection, func, literal, or_, select

from daemon.core.errors import UnknownIdError
from daemon.core.lifecycle import REWRITING, OperationKind, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.text import composed, spellings
from daemon.ledger.chain import ledger_id
from daemon.ledger.rows import CorrectionRow, VersionRow, correction_row, version_row
from daemon.ledger.tables import aliases, control, corrections, operations, versions

#: values of one IN list; SQLite takes 32,766 parameters a statement, PostgreSQL 65,535
CHUNK = 1000
#: columns of a correction that a search looks at, besides the prompt with the subject filled in
SEARCHED = ("id", "key", "target", "was", "before", "after", "reason", "version")


def find_correction(c: Connection, id: str) -> CorrectionRow:
    """Raises UnknownIdError. The id may be that of a repetition."""
    known = ledger_id(id)
    target = c.scalar(select(aliases.c.correction).where(aliases.c.id == known)) or known
    row = c.execute(select(corrections).where(corrections.c.id == target)).first()
    if row is None:
        raise UnknownIdError("correction", id)
    return correction_row(row)


def find_version(c: Connection, id: str) -> VersionRow:
    """Raises UnknownIdError. The base is a version without parent."""
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


def rows_of(c: Connection, ids: Sequence[str]) -> dict[str, CorrectionRow]:
    """Id → correction, of those that the ledger knows."""
    found: dict[str, CorrectionRow] = {}
    for chunk in chunks(ids):
        for row in c.execute(select(corrections).where(corrections.c.id.in_(chunk))):
            found[row.id] = correction_row(row)
    return found


def children_of(c: Connection, ids: Sequence[str]) -> Iterator[CorrectionRow]:
    """Corrections that follow from these, in order of arrival."""
    for chunk in chunks(ids):
        query = select(corrections).where(corrections.c.parent.in_(chunk)).order_by(corrections.c.seq)
        yield from (correction_row(row) for row in c.execute(query))


def of_slot(subject: str, prompt: str) -> ColumnElement[bool]:
    """Corrections of this subject and prompt, also those that an older factd took in another spelling."""
    return corrections.c.subject.in_(spellings(subject)) & corrections.c.prompt.in_(spellings(prompt))


class Only(TypedDict, total=False):
    """What a list of corrections may be narrowed to.

    Attributes:
        containing: in a text, an answer, the reason, the id, key or version; case does not count.
        source: as it was posted.
        subject: in any of its spellings.
    """

    containing: str | None
    source: str | None
    subject: str | None


def chosen(states: Collection[State], **only: Unpack[Only]) -> Iterator[ColumnElement[bool]]:
    """Conditions of a list of corrections. States and subjects are found through their indexes."""
    if states:
        yield corrections.c.state.in_(states)
    if subject := only.get("subject"):
        yield corrections.c.subject.in_(spellings(subject))
    if source := only.get("source"):
        yield corrections.c.source.in_(spellings(source))
    if text := only.get("containing"):
        asked = func.replace(corrections.c.prompt, "{}", corrections.c.subject)
        columns = (asked, *(corrections.c[name] for name in SEARCHED))
        yield or_(*(column.icontains(composed(text), autoescape=True) for column in columns))


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values in lists that one statement can take."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


def ancestry(c: Connection, id: str) -> list[VersionRow]:
    """The version and its ancestors, oldest first, without the base. Raises UnknownIdError."""
    line = _line(id)
    query = select(versions).join(line, versions.c.id == line.c.id).order_by(line.c.depth.desc())
    rows = [version_row(row) for row in c.execute(query)]
    if not rows and id != BASE_VERSION:
        raise UnknownIdError("version", id)
    return rows


def accepted_ancestors(c: Connection, id: str) -> list[str]:
    """Ancestors of a version that were accepted when last judged, newest first; itself is left out."""
    line = _line(id)
    query = select(versions.c.id).join(line, versions.c.id == line.c.id).order_by(line.c.depth)
    # Asked in the database: a row's verdict and measurements take longer to parse than the line to walk.
    accepted = versions.c.verdict["outcome"].as_string() == "accepted"
    return list(c.scalars(query.where(line.c.depth > 0, accepted)))


def states_of_line(c: Connection, id: str) -> dict[str, VersionState]:
    """The same without what was measured, which makes rows large: id → state."""
    line = _line(id)
    query = select(versions.c.id, versions.c.state).join(line, versions.c.id == line.c.id)
    return {row[0]: VersionState(row[1]) for row in c.execute(query.order_by(line.c.depth.desc()))}


def recent_ancestry(c: Connection, id: str, most: int) -> list[VersionRow]:
    """The version and its ancestors, the newest `most` of them, and none from before the last compaction."""
    line = _line(id, most, stops_at=REWRITING)
    query = select(versions).join(line, versions.c.id == line.c.id).order_by(line.c.depth.desc())
    return [version_row(row) for row in c.execute(query)]


def fact_ids(c: Connection, version: str) -> list[str]:
    """Ids of the facts that the version holds, in order of addition. Raises UnknownIdError."""
    line = _line(version)
    columns = select(versions.c.added, versions.c.removed)
    query = columns.join(line, versions.c.id == line.c.id).order_by(line.c.depth.desc())
    changes = c.execute(query).all()
    if not changes and version != BASE_VERSION:
        raise UnknownIdError("version", version)
    ids: dict[str, None] = {}
    for added, removed in changes:
        for id in removed:
            ids.pop(id, None)
        ids.update(dict.fromkeys(added))
    return list(ids)


def _line(id: str, most: int | None = None, stops_at: Collection[OperationKind] = ()) -> CTE:
    """Ids of a version and its ancestors with their distance from it, in one statement."""
    first = select(versions.c.id, versions.c.parent, versions.c.operation, literal(0).label("depth"))
    line = first.where(versions.c.id == id).cte("line", recursive=True)
    older = select(versions.c.id, versions.c.parent, versions.c.operation, line.c.depth + 1)
    older = older.join(line, versions.c.id == line.c.parent)
    if most is not None:
        older = older.where(line.c.depth + 1 < most)
    if stops_at:
        those = select(operations.c.id).where(operations.c.kind.in_(sorted(stops_at)))
        older = older.where(line.c.operation.is_(None) | line.c.operation.not_in(those))
    return line.union_all(older)
