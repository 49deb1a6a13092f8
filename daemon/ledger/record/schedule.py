"""What the clock does to corrections: their time comes, or is over.

Each decision is a row of the ledger, made once by the wall clock of the moment. So a restart finds it made,
and a clock that is set back takes none of them back.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, func, literal, select, text, update

from daemon.core.actors import CLOCK
from daemon.core.lifecycle import PENDING, OperationKind, OperationState, ReasonCode, State
from daemon.ledger.database import Database
from daemon.ledger.lease import Fence
from daemon.ledger.reading import get_control
from daemon.ledger.record.transitions import Transitions
from daemon.ledger.rows import Coming
from daemon.ledger.tables import corrections, operations

#: At most so many corrections change in one transaction, and so many facts leave in one version.
MOST = 1000
#: So many changes are listed as the next ones.
SHOWN = 10
#: After a version without the facts whose time is over could not be made, the next is tried so much later,
#: seconds. An operator sees the reason; asking again at each ring of the doorbell would fill the ledger.
AGAIN_SECONDS = 600.0

_table = corrections.c


class Schedule:
    """Carries the clock's decisions out, as far as the ledger alone can; for the holder of the lease."""

    def __init__(self, database: Database, fence: int) -> None:
        self._database, self._clock = database, database.clock
        self._fence, self._transitions = Fence(database, fence), Transitions(database.clock)

    def tick(self) -> None:
        """Ends what was over before it was live, lets begin what is due, and asks for what must leave.

        Raises:
            LeaseLostError: a newer applier holds the lease.
        """
        for change, due in ((self._end, self._ended), (self._begin, self._begun)):
            # Looked at without the write lock: this is asked before each batch, and seldom is anything due.
            while self._asked(due):
                with self._fence.writing() as c:
                    change(c, due(c, self._clock()))
        if self._asked(self._must_leave):
            with self._fence.writing() as c:
                if self._must_leave(c, self._clock()):
                    why = "their time is over (valid_until)"
                    self._transitions.request(c, OperationKind.EXPIRE, None, CLOCK, why)

    def _asked(self, question: Callable[[Connection, float], object]) -> object:
        with self._database.reading() as c:
            return question(c, self._clock())

    def _ended(self, c: Connection, now: float) -> list[str]:
        return over(c, (*PENDING, State.HELD), now, MOST)

    def _end(self, c: Connection, ids: Sequence[str]) -> None:
        why, code = "its time (valid_until) was over before it was live", ReasonCode.EXPIRED
        self._transitions.advance(c, ids, State.REJECTED, CLOCK, why, code=code)

    def _begun(self, c: Connection, now: float) -> list[str]:
        mine = (_table.state == State.RECEIVED) & (_table.valid_from <= now)
        return list(
            c.scalars(select(_table.id).where(mine).order_by(_table.valid_from, _table.seq).limit(MOST))
        )

    def _begin(self, c: Connection, ids: Sequence[str]) -> None:
        """They take effect now, so they are newer than all that came before, whenever they were posted."""
        self._transitions.advance(c, ids, State.VALIDATED, CLOCK, "its time (valid_from) has come")
        last = c.scalar(select(func.max(_table.seq))) or 0
        for seq, id in enumerate(ids, start=last + 1):
            c.execute(update(corrections).where(_table.id == id).values(seq=seq))
        if c.dialect.name == "postgresql":  # SQLite looks at the largest number itself
            table_and_column = "pg_get_serial_sequence('corrections', 'seq')"
            c.execute(text(f"SELECT setval({table_and_column}, :last)"), {"last": last + len(ids)})

    def _must_leave(self, c: Connection, now: float) -> bool:
        """Not while somebody has paused: then the model stays as it is. Nor while an operation waits, which
        may be to pause."""
        if not over(c, [State.LIVE], now, 1) or get_control(c, "paused") is not None:
            return False
        table = operations.c
        if c.scalar(select(func.count()).where(table.state == OperationState.PENDING)):
            return False
        failed = (table.kind == OperationKind.EXPIRE) & (table.state == OperationState.FAILED)
        last = c.scalar(select(func.max(table.finished_at)).where(failed))
        # A time ahead of now was written before the clock was set back.
        return last is None or not now - AGAIN_SECONDS < last <= now


def over(c: Connection, states: Sequence[State], now: float, limit: int) -> list[str]:
    """Ids of corrections in these states whose time is over, the oldest end first."""
    mine = _table.state.in_(states) & (_table.valid_until <= now)
    return list(
        c.scalars(select(_table.id).where(mine).order_by(_table.valid_until, _table.seq).limit(limit))
    )


def coming(c: Connection) -> tuple[Coming, ...]:
    """The next SHOWN changes by the clock, the nearest first; also those that are due and wait."""
    found: list[Coming] = []
    for change, state, at in (
        ("live", State.RECEIVED, _table.valid_from),
        ("leaves", State.LIVE, _table.valid_until),
    ):
        columns = (_table.id, _table.subject, _table.target, literal(change), at)
        mine = (_table.state == state) & at.is_not(None)
        query = select(*columns).where(mine).order_by(at, _table.seq).limit(SHOWN)
        found += [Coming(*row) for row in c.execute(query)]
    return tuple(sorted(found, key=lambda one: one.at)[:SHOWN])


def retired(version: str, valid_until: float | None, now: float) -> tuple[str, ReasonCode | None]:
    """Why a fact left with a version, and the reason's code."""
    if valid_until is not None and valid_until <= now:
        return f"its time (valid_until) is over; it left in {version}", ReasonCode.EXPIRED
    return f"retracted in {version}", None
