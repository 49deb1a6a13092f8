"""How long the stages of an update took: one row each, and running totals by stage and bound.

A duration waits for the applier's next transaction, which writes it along: a commit of its own would cost an
fsync. A process that is killed before that loses the duration and nothing else.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, insert, text

from daemon.ledger.tables import stage_seconds
from monitoring.durations import bound_of

_TOTAL = text(
    "INSERT INTO stage_totals (stage, at_most, count, seconds) VALUES (:stage, :at_most, 1, :seconds)"
    " ON CONFLICT (stage, at_most) DO UPDATE SET"
    " count = stage_totals.count + 1, seconds = stage_totals.seconds + excluded.seconds"
)


class StageSeconds:
    """Durations that wait to be written."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: list[dict[str, Any]] = []

    def add(self, version: str, stage: str, seconds: float) -> None:
        """Keeps a duration for the next transaction."""
        self._waiting.append({"version": version, "stage": stage, "seconds": seconds, "at": self._clock()})

    def write(self, c: Connection) -> int:
        """Writes what waits and returns how many rows; they wait until the transaction is committed."""
        rows = list(self._waiting)
        if rows:
            c.execute(insert(stage_seconds), rows)
            c.execute(_TOTAL, [_total(row) for row in rows])
        return len(rows)

    def forget(self, count: int) -> None:
        """The oldest so many are committed."""
        del self._waiting[:count]


def _total(row: dict[str, Any]) -> dict[str, Any]:
    return {"stage": row["stage"], "at_most": bound_of(row["seconds"]), "seconds": row["seconds"]}
