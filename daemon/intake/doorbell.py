"""The doorbell: an empty message that wakes the apply worker. What there is to do is in the ledger."""

import logging
import threading
import time
from collections.abc import Callable

from celery import Celery
from kombu.exceptions import OperationalError

from daemon.core.names import Names
from daemon.intake.posting import producer

log = logging.getLogger("factd")

APPLY = "factd.apply"
#: A ring that no apply worker has answered for so long is dropped, seconds: the next ring says the same.
EXPIRES_SECONDS = 60.0
#: Two rings of `DoorbellThread` are at least so far apart, seconds; a batch takes seconds.
RING_SECONDS = 0.05


class Doorbell:
    """Wakes the apply worker of one model.

    A ring that fails loses nothing: the request is in the ledger, and the apply worker looks by itself every
    few seconds. So `ring` never raises for a broker that is away; it says so.

    Args:
        app: sends the message; its routes name the queue of the model.
        say: is told in a sentence that the broker is away; the log by default.
    """

    def __init__(self, app: Celery, say: Callable[[str], object] = log.warning) -> None:
        self._app, self._say = app, say

    @classmethod
    def of(cls, redis_url: str, names: Names, say: Callable[[str], object] = log.warning) -> "Doorbell":
        """The doorbell of the model with these names; connects at the first ring. `close` it afterwards."""
        return cls(producer(redis_url, names), say)

    def ring(self, expires: float = EXPIRES_SECONDS) -> None:
        """Rings once; after `expires` seconds without an answer the message is dropped."""
        try:
            self._app.send_task(APPLY, expires=expires, ignore_result=True)
        except OperationalError as error:
            self._say(f"the doorbell could not be rung ({error}); the apply worker looks by itself")

    def close(self) -> None:
        """Closes the connection; only of a doorbell made by `of`."""
        self._app.close()


class DoorbellThread:
    """Rings in a thread of its own: no post waits for the broker, and many posts ring once."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring, self._wake = ring, threading.Event()
        self._due = self._closing = False
        self._thread = threading.Thread(target=self._run, name="doorbell", daemon=True)
        self._thread.start()

    def __call__(self) -> None:
        self._due = True
        self._wake.set()

    def close(self) -> None:
        """Returns when the last ring that was asked for is done."""
        self._closing = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while self._due or not self._closing:
            self._wake.wait()
            self._wake.clear()
            if self._due:
                self._due = False
                try:
                    self._ring()
                except Exception:  # if this thread ended, nobody would ring any more
                    log.exception("the doorbell could not be rung")
                time.sleep(RING_SECONDS)  # the next ring stands for all posts of this time
