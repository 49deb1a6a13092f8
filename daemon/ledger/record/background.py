"""How far work in the background is: one row of `control`, rewritten as it goes on."""

from typing import Any

from sqlalchemy import Connection

from daemon.ledger.record.transitions import set_control

#: row of `control`
ROW = "background"


def keep_background(c: Connection, told: dict[str, Any] | None) -> None:
    """Keeps it in place of the last one.

    Args:
        told: job (the operation's kind), operation (its number), stage, fraction; None when none runs.
    """
    set_control(c, ROW, told)
