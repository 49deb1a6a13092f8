"""Waiting for what other processes and threads do, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
#: Seconds between two looks, at first and at last.
SHORTEST, LONGEST = 0.01, 0.1


def until(look: Callable[[], T], seconds: float = 180.0, said: Callable[[], str] = lambda: "") -> T:
    """What `look` returns, once that is true; after so many seconds a failure that tells what was `said`."""
    deadline, pause = time.monotonic() + seconds, SHORTEST
    while not (found := look()):
        assert time.monotonic() < deadline, f"it did not happen in {seconds:.0f} s. {said()}"
        time.sleep(pause)
        # What is long in coming is looked for less often: looking takes the time of who brings it.
        pause = min(LONGEST, 1.2 * pause)
    return found
