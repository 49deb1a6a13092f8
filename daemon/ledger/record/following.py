"""What follows from a correction: its children come once it is live, and leave when it ends.

A pass over the ledger, asked before each batch. Each step may be repeated, so a kill between two loses
nothing: a child's id follows from its parent's, and a retraction is asked for once. A rollback may bring a
parent and its children back; then the parent is looked after again.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select, update

from daemon.core.lifecycle import PENDING, OperationKind, OperationState, State
from daemon.core.messages import Correction, parse_correction
from daemon.ledger.database import Database
from daemon.ledger.intake import Intake
from daemon.ledger.reading import of_slot
from daemon.ledger.record.transitions import Transitions
from daemon.ledger.rows import CorrectionRow, correction_row
from daemon.ledger.tables import corrections, operations

#: Who posts children and asks for their end, in the audit chain.
ACTOR = "applier"
#: How far a parent is (`corrections.following`): children to be posted, posted, ended with it.
DUE, DONE, ENDED = "due", "done", "ended"
#: States in which a parent holds no more.
OVER = (State.SUPERSEDED, State.RETRACTED, State.ROLLED_BACK, State.REJECTED)


class Following:
    """Posts children of what went live, and asks to retract those of what ended."""

    def __init__(self, database: Database) -> None:
        self._database, self._intake = database, Intake(database)
        self._transitions = Transitions(database.clock)

    def tick(self) -> None:
        """One pass. Three small questions where nothing follows from anything."""
        if again := self._parents(ENDED, [State.LIVE]):
            with self._database.writing() as c:
                for parent in again:
                    _mark(c, parent.id, DONE)
        for parent in self._parents(DUE, [State.LIVE]):
            self._post_children(parent)
        for parent in self._parents(DONE, OVER):
            self._end_children(parent)

    def _parents(self, following: str, states: Sequence[State]) -> list[CorrectionRow]:
        mine = (corrections.c.following == following) & corrections.c.state.in_(states)
        with self._database.reading() as c:
            rows = c.execute(select(corrections).where(mine).order_by(corrections.c.seq))
            return [correction_row(row) for row in rows]

    def _post_children(self, parent: CorrectionRow) -> None:
        told = parent.consequences or {}
        posts = [(f"{parent.id}.{one['name']}", _child(one, parent.id)) for one in told.get("children", ())]
        if posts:
            # An intake without a gate: who let the parent in has let in what follows from it.
            self._intake.submit_many(posts, actor=ACTOR)
        with self._database.writing() as c:
            for one in told.get("ends", ()):
                slot = of_slot(one["subject"], one["prompt"])
                same = slot & (corrections.c.target == one["target"]) & (corrections.c.state == State.LIVE)
                ids = c.scalars(select(corrections.c.id).where(same, corrections.c.id != parent.id)).all()
                self._retract(c, ids, f"ended by {parent.id}, which is live")
            _mark(c, parent.id, DONE)

    def _end_children(self, parent: CorrectionRow) -> None:
        with self._database.writing() as c:
            mine = (corrections.c.parent == parent.id) & corrections.c.state.in_([State.LIVE, *PENDING])
            children = [correction_row(row) for row in c.execute(select(corrections).where(mine))]
            # A newer post of the slot takes the child's place; until then what is served stays.
            replaced = [child for child in children if _has_successor(c, child)]
            ids = [child.id for child in children if child not in replaced]
            self._retract(c, ids, f"{parent.id}, which it follows from, is {parent.state}")
            if not replaced:
                _mark(c, parent.id, ENDED)

    def _retract(self, c: Connection, ids: Sequence[str], why: str) -> None:
        for id in ids:
            asked = (operations.c.kind == OperationKind.RETRACT) & (operations.c.target == id)
            # One that was done and is live again came back with a rollback.
            asked &= operations.c.state != OperationState.DONE
            if c.scalar(select(operations.c.id).where(asked).limit(1)) is None:
                self._transitions.request(c, OperationKind.RETRACT, id, ACTOR, why)


def _child(stored: dict[str, Any], parent: str) -> Correction:
    return parse_correction(stored["correction"] | {"parent": parent})


def _has_successor(c: Connection, child: CorrectionRow) -> bool:
    newer = of_slot(child.subject, child.prompt) & corrections.c.state.in_(PENDING)
    newer &= corrections.c.seq > child.seq
    return c.scalar(select(corrections.c.id).where(newer).limit(1)) is not None


def _mark(c: Connection, id: str, following: str) -> None:
    c.execute(update(corrections).where(corrections.c.id == id).values(following=following))
