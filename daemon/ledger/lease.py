"""The single-writer lease: one applier at a time, with a fence that only grows.

A holder whose lease has expired may still run: a stopped process, a long pause. So every write of the applier
and every publication carries the fence, and the ledger and the replicas refuse a lower one.
"""

import contextlib
import os
import socket
import threading
from collections.abc import Generator
from types import TracebackType

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from daemon.core.errors import LeaseHeldError, LeaseLostError
from daemon.ledger.database import Database
from daemon.ledger.tables import lease

#: renewals within one life of the lease; two may fail before it expires
RENEWALS = 3
#: A lease that is good for more lives than this was written before the clock was set back: a living holder
#: renews it by the new clock within a third of a life. Another host's lease may be longer than ours.
LIVES = 10
NAME = "apply"


class Fence:
    """The writing transactions of one holding of the lease; a newer applier ends them.

    Attributes:
        number: of this holding; a newer applier has a larger one.
    """

    def __init__(self, database: Database, number: int) -> None:
        self._database, self.number = database, number

    @contextlib.contextmanager
    def writing(self) -> Generator[Connection]:
        """The transaction that may write. Raises LeaseLostError when a newer applier holds the lease."""
        with self._database.writing() as c:
            current = c.scalar(select(lease.c.fence))
            if current != self.number:
                raise LeaseLostError(
                    f"this applier's fence is {self.number} and the lease has {current} now: a newer applier "
                    "is at work and this one stops"
                )
            yield c


class Lease:
    """A context manager: holds the lease inside, renews it from a thread.

    Attributes:
        fence: number of this holding; larger than that of every earlier one.

    Raises:
        LeaseHeldError: on entry, when another living holder has it.
    """

    def __init__(
        self, database: Database, seconds: float, *, holder: str | None = None, host: str | None = None
    ) -> None:
        self._database, self.seconds = database, seconds
        self.host = host or socket.gethostname()
        self.holder = holder or f"{self.host}:{os.getpid()}:{threading.get_ident()}"
        self.fence = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Lease":
        self.fence = self._acquire()
        self._thread = threading.Thread(target=self._beat, name="factd-lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._release()

    def _acquire(self) -> int:
        now = self._database.clock()
        values: dict[str, str | float] = {"holder": self.holder, "host": self.host, "pid": os.getpid()}
        values["expires_at"] = now + self.seconds
        with self._database.writing() as c:
            row = c.execute(select(lease).where(lease.c.name == NAME)).first()
            if row is None:
                c.execute(insert(lease).values(name=NAME, fence=1, **values))
                return 1
            held = 0 < row.expires_at - now <= LIVES * self.seconds
            if held and row.holder != self.holder and not self._is_dead(row.host, row.pid):
                raise LeaseHeldError(row.holder, row.expires_at - now)
            # The write lock was taken before the row was read, so nobody came between (`database`).
            c.execute(update(lease).where(lease.c.name == NAME).values(fence=row.fence + 1, **values))
            return row.fence + 1

    def _is_dead(self, host: str, pid: int) -> bool:
        """A holder on this host whose process is gone need not be waited for."""
        return host == self.host and pid != os.getpid() and not _alive(pid)

    def renew(self) -> None:
        """Raises LeaseLostError when a newer holder took the lease."""
        mine = (lease.c.name == NAME) & (lease.c.fence == self.fence) & (lease.c.holder == self.holder)
        with self._database.writing() as c:
            expires = self._database.clock() + self.seconds
            if c.execute(update(lease).where(mine).values(expires_at=expires)).rowcount != 1:
                raise LeaseLostError(
                    f"fence {self.fence} of {self.holder} is out of date: a newer applier holds the lease"
                )

    def _beat(self) -> None:
        while not self._stop.wait(self.seconds / RENEWALS):
            try:
                self.renew()
            except LeaseLostError:
                return  # the next write of the applier finds out and stops it
            except SQLAlchemyError:
                continue  # a busy database now is no reason to stop renewing

    def _release(self) -> None:
        mine = (lease.c.name == NAME) & (lease.c.fence == self.fence) & (lease.c.holder == self.holder)
        # The row stays: it carries the fence on.
        with contextlib.suppress(LeaseLostError), self._database.writing() as c:
            c.execute(update(lease).where(mine).values(expires_at=0.0))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    # A zombie still has its pid but will never write again.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    return True
