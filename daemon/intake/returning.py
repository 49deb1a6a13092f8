"""Brings replicas that were started anew back to the live version while nobody rings the applier's bell.

The bell comes through the broker. A broker that stays down must not keep a replica on the unedited model.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from daemon.core.errors import LeaseHeldError

log = logging.getLogger("factd")


class Report(Protocol):
    """What a run of the applier did, as far as it is logged here."""

    @property
    def live(self) -> str: ...
    @property
    def out(self) -> Mapping[str, str]: ...


class BringsBack(Protocol):
    """The applier, as it is looked after here.

    Attributes:
        ran_at: when it last ran, by the monotonic clock.
    """

    ran_at: float

    def bring_back(self) -> Report | None:
        """Brings replicas that were started anew to the live version; None when there is none."""
        ...


class Returning:
    """A thread that looks at the replicas when the applier has not run for a while.

    Args:
        every: seconds between two looks; the bell rings as often.
    """

    def __init__(self, applier: BringsBack, every: float) -> None:
        self.applier, self.every = applier, every
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="factd-returning", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; waits for what it is at."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Brings replicas back, unless the applier ran a moment ago or is at work."""
        if time.monotonic() - self.applier.ran_at < 2 * self.every:
            return
        try:
            report = self.applier.bring_back()
        except LeaseHeldError as error:
            log.info("not bringing replicas back: %s", error)
        except Exception:  # if this thread ended, nobody would look while the broker is down
            log.exception("replicas cannot be brought back; tried again in %g s", self.every)
        else:
            if report is not None:
                log.info("replicas were brought to %s without the broker; out: %s", report.live, report.out)

    def _run(self) -> None:
        while not self._stopping.wait(self.every):
            self.look()
