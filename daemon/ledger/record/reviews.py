"""Reviews: corrections that are held, and the decisions about them. Every decision is in the audit chain."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from daemon.core.errors import FourEyesError, TransitionError
from daemon.core.lifecycle import State
from daemon.ledger.database import Database
from daemon.ledger.reading import find_correction
from daemon.ledger.record.transitions import Transitions
from daemon.ledger.rows import CorrectionRow, correction_row
from daemon.ledger.tables import corrections, transitions

#: kind of the chain's rows about corrections
_CORRECTION = "correction"


class Reviews:
    """What reviewers may read and write."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transitions = Transitions(database.clock)

    def held(self, limit: int | None = None) -> list[CorrectionRow]:
        """Corrections that wait for a review: what is most suspicious first, then in order of arrival."""
        query = select(corrections).where(corrections.c.state == State.HELD)
        query = query.order_by(corrections.c.score.desc(), corrections.c.seq).limit(limit)
        with self._database.reading() as c:
            return [correction_row(row) for row in c.execute(query)]

    def poster(self, id: str) -> str | None:
        """Who posted it, as the audit chain tells: `http:newsroom`, `stream`. Raises UnknownIdError."""
        with self._database.reading() as c:
            return _poster(c, find_correction(c, id).id)

    def posters(self, ids: Sequence[str]) -> dict[str, str]:
        """Id → who posted it."""
        with self._database.reading() as c:
            told = ((id, _poster(c, id)) for id in ids)
            return {id: poster for id, poster in told if poster is not None}

    def approve(self, id: str, *, reviewer: str, why: str) -> CorrectionRow:
        """Lets a held correction wait for its batch or its time, as if it had just come.

        Args:
            reviewer: an actor: `http:NAME` with the token's name, or `operator:NAME`.

        Raises:
            UnknownIdError: there is no such correction.
            TransitionError: it is not held.
            FourEyesError: the reviewer posted it.
        """
        with self._database.writing() as c:
            row = _to_decide(c, id, reviewer)
            reason = f"approved by {reviewer}: {why}"
            self._transitions.advance(c, [row.id], State.RECEIVED, reviewer, reason, reviewed_by=reviewer)
            if (row.valid_from or 0.0) <= self._database.clock():
                self._transitions.advance(c, [row.id], State.VALIDATED, reviewer, reason)
            return find_correction(c, row.id)

    def reject(self, id: str, *, reviewer: str, why: str) -> CorrectionRow:
        """Ends a held correction. Whoever posted it may do this: it takes a post back.

        Raises:
            UnknownIdError: there is no such correction.
            TransitionError: it is not held.
        """
        with self._database.writing() as c:
            row = _to_decide(c, id, None)
            reason = f"rejected in review by {reviewer}: {why}"
            self._transitions.advance(c, [row.id], State.REJECTED, reviewer, reason, reviewed_by=reviewer)
            return find_correction(c, row.id)


def hold(
    c: Connection,
    recorded: Transitions,
    id: str,
    *,
    actor: str,
    score: float,
    findings: Sequence[dict[str, Any]],
    why: str,
) -> None:
    """Holds a correction that waits for its batch: the applier's own finding has made its score too high."""
    recorded.advance(c, [id], State.HELD, actor, why, score=score, findings=list(findings))


def _to_decide(c: Connection, id: str, reviewer: str | None) -> CorrectionRow:
    row = find_correction(c, id)
    if row.state is not State.HELD:
        raise TransitionError(f"correction {row.id} is {row.state}; a review is for held ones")
    poster = _poster(c, row.id)
    if reviewer is not None and (reviewer == poster or _name(reviewer) == row.source):
        raise FourEyesError(row.id, reviewer)
    return row


def _poster(c: Connection, id: str) -> str | None:
    mine = (transitions.c.kind == _CORRECTION) & (transitions.c.id == id)
    return c.scalar(select(transitions.c.actor).where(mine).order_by(transitions.c.seq).limit(1))


def _name(actor: str) -> str:
    return actor.partition(":")[2]
