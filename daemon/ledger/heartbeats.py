"""Signs of life of the workers, in the ledger: who asks for them needs no broker.

A row says when a worker of a kind last gave one. A thread writes it, so that a worker that edits for minutes
stays alive in it.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from daemon.ledger.database import Database
from daemon.ledger.reading import get_control
from daemon.ledger.record.transitions import set_control
from daemon.ledger.rows import Sign

log = logging.getLogger("factd")

#: The kinds of worker that nothing goes on without.
WORKERS = ("intake", "apply")
#: Between two signs of life, seconds.
BEAT_SECONDS = 5.0
#: A worker that was silent for so long counts as gone, seconds: three signs and the wait for another writer.
ALIVE_SECONDS = 20.0


def signs(controls: Mapping[str, Any], now: float) -> dict[str, Sign]:
    """Kind of worker → its sign of life, from the rows of the table `control`."""
    found = {}
    for worker in WORKERS:
        at = (controls.get(_row(worker)) or {}).get("at")
        found[worker] = Sign(at is not None and now - at <= ALIVE_SECONDS, at)
    return found


def _row(worker: str) -> str:
    return f"beat:{worker}"


class Heartbeat:
    """A thread that writes the signs of life of this process.

    Args:
        workers: kinds of worker that it is, of `WORKERS`.
    """

    def __init__(self, database: Database, workers: Sequence[str]) -> None:
        self.database, self.workers = database, tuple(workers)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="factd-heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread and says that this worker is gone, unless another one of its kind gave a sign."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write(self._leave)

    def beat(self) -> None:
        """Writes one sign of life."""
        self._write(self._sign)

    def _write(self, what: Callable[[Connection], None]) -> None:
        try:
            with self.database.writing() as c:
                what(c)
        except DBAPIError as error:  # a full disk, or a restart of the database: the next one may be heard
            log.warning("no sign of life could be written: %s", error.orig)

    def _sign(self, c: Connection) -> None:
        for worker in self.workers:
            set_control(c, _row(worker), {"at": self.database.clock(), "name": self.name})

    def _leave(self, c: Connection) -> None:
        for worker in self.workers:
            if (get_control(c, _row(worker)) or {}).get("name") == self.name:
                set_control(c, _row(worker), None)

    def _run(self) -> None:
        self.beat()
        while not self._stopping.wait(BEAT_SECONDS):
            self.beat()
