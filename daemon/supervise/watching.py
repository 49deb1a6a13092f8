"""Watches the processes of `factd up`: starts what ended again, and rings the doorbell."""

import contextlib
import threading
import time
from collections.abc import Callable, Mapping

from daemon.intake.doorbell import Doorbell
from daemon.supervise.embedded import EmbeddedValkey
from daemon.supervise.processes import ManagedProcess, ProcessError

#: Says in a sentence what happens.
Say = Callable[[str], None]

DOORBELL_EVERY_SECONDS = 5.0
WATCH_EVERY_SECONDS = 1.0
#: A child that ends is started again after this pause, doubled each time up to a minute.
RESTART_SECONDS, RESTART_MAX_SECONDS = 1.0, 60.0
#: Longest wait for the thread to end; a look at the processes takes milliseconds.
JOIN_SECONDS = 30.0


class Watcher:
    """A thread that restarts what ended until it is told to stop.

    Args:
        children: the processes by name; those added later are watched too.
        valkey: the embedded broker; None where the user has a broker.

    Attributes:
        restarts: how often each child was started again.
    """

    def __init__(
        self,
        children: Mapping[str, ManagedProcess],
        valkey: EmbeddedValkey | None,
        doorbell: Doorbell,
        say: Say,
    ) -> None:
        self.restarts: dict[str, int] = {}
        self._children, self._valkey, self._doorbell, self._say = children, valkey, doorbell, say
        self._retry_at: dict[str, float] = {}
        self._pauses: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when nothing is started any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)
        self._doorbell.close()

    def _run(self) -> None:
        next_ring = 0.0
        while not self._stopping.wait(WATCH_EVERY_SECONDS):
            try:
                self._restart_the_dead()
                if time.monotonic() >= next_ring:
                    next_ring = time.monotonic() + DOORBELL_EVERY_SECONDS
                    self._doorbell.ring()
            except Exception as error:  # if this thread ended, nobody would restart anything
                with contextlib.suppress(OSError):  # stdout may be a file on a full disk
                    self._say(f"supervisor: {error!r}")

    def _restart_the_dead(self) -> None:
        if self._valkey is not None and not self._valkey.running():
            self._say("Valkey ended; starting it again")
            self._start_again("Valkey", self._valkey.start)
        for name, child in list(self._children.items()):
            if child.running() or time.monotonic() < self._retry_at.get(name, 0.0):
                continue
            if self._stopping.is_set():
                return
            self.restarts[name] = self.restarts.get(name, 0) + 1
            self._put_off(name)
            self._say(f"{name} ended with status {child.returncode}; starting it again (see {child.log})")
            child.stop()
            self._start_again(name, child.start)

    def _put_off(self, name: str) -> None:
        """Doubles the pause before the next restart; a child that ran for long begins with the short one."""
        ran_long = time.monotonic() - self._retry_at.get(name, 0.0) > RESTART_MAX_SECONDS
        last = 0.0 if ran_long else self._pauses.get(name, 0.0)
        self._pauses[name] = min(RESTART_MAX_SECONDS, max(RESTART_SECONDS, last) * 2)
        self._retry_at[name] = time.monotonic() + self._pauses[name]

    def _start_again(self, name: str, start: Callable[[], None]) -> None:
        try:
            start()
        except (ProcessError, OSError) as error:  # a full disk, say; the other processes are still watched
            self._say(f"{name} cannot be started: {error}")
