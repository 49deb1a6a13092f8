"""What waits, and the live facts beside it: what a batch is planned from. It is asked before each batch."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, Text, bindparam, select, type_coerce

from daemon.core.lifecycle import State
from daemon.core.text import spellings
from daemon.ledger.reading import chunks
from daemon.ledger.rows import Candidate
from daemon.ledger.tables import corrections

# Built once: each batch asks them. Building one for 1,000 subjects takes a tenth of the time of asking it.
_CANDIDATES = select(*(corrections.c[name] for name in Candidate._fields))
# The subjects come from the ledger: they need no look for what a database cannot hold.
_SUBJECTS: BindParameter[str] = bindparam("subjects", expanding=True)
_MOST: BindParameter[int] = bindparam("most")
_ABOUT = type_coerce(corrections.c.subject, Text).in_(_SUBJECTS)
_LIVE = _CANDIDATES.where(_ABOUT & (corrections.c.state == State.LIVE))
# A state is a stretch of an index. What waits for its time is in another.
_OF_STATE = _CANDIDATES.where(corrections.c.state == bindparam("state"))
_FIRST = _OF_STATE.order_by(corrections.c.priority.desc(), corrections.c.seq)
_LATER = (corrections.c.priority == bindparam("priority")) & (corrections.c.seq > bindparam("seq"))
_BEHIND = (corrections.c.state == State.VALIDATED) & (
    (corrections.c.priority < bindparam("priority")) | _LATER
)
_OTHERS = _CANDIDATES.where(_ABOUT & _BEHIND).order_by(corrections.c.seq).limit(_MOST)


def facts_about(c: Connection, subjects: Collection[str]) -> list[Candidate]:
    """Live corrections of these subjects, in order of arrival."""
    rows: list[Candidate] = []
    for chunk in chunks(spellings(*subjects)):
        rows += _asked(c, _LIVE, {"subjects": chunk})
    return sorted(rows, key=lambda row: row.seq)


def pending(c: Connection, limit: int) -> list[Candidate]:
    """Corrections that wait for a batch, `limit` at most: higher priority first, then in order of arrival.

    Behind them come others of their subjects, as many again at most: an older correction of a subject goes
    before an urgent one of it (`daemon.apply.planning`).
    """
    rows = _asked(c, _FIRST.limit(limit), {"state": State.VALIDATED})
    if len(rows) < limit:
        return rows
    behind = {"priority": rows[-1].priority, "seq": rows[-1].seq, "most": limit}
    rest: list[Candidate] = []
    for chunk in chunks(spellings(*{row.subject for row in rows})):
        rest += _asked(c, _OTHERS, behind | {"subjects": chunk})
    return rows + sorted(rest, key=lambda row: row.seq)[:limit]


def _asked(c: Connection, query: Select[Any], values: dict[str, Any]) -> list[Candidate]:
    return [Candidate(*row) for row in c.execute(query, values).all()]
