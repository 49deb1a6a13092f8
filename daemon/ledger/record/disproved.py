"""Replicas that say the live version and compute something else, as the last run found them, with the reason.

A replica cannot tell this of itself. It stands in the ledger, where whoever asks for the status reads it.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from daemon.ledger.reading import get_control
from daemon.ledger.record.transitions import set_control

_ROW = "disproved"


def record_disproved(c: Connection, found: Mapping[str, str]) -> None:
    """Keeps name of replica → why, in the place of what an earlier run found."""
    if (get_control(c, _ROW) or {}) != dict(found):
        set_control(c, _ROW, dict(found))


def disproved(controls: Mapping[str, Any]) -> dict[str, str]:
    """Name of replica → why, from the rows of the table `control`."""
    return controls.get(_ROW) or {}
