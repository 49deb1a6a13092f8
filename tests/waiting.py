"""Waiting for what other processes and threads do, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(look: Callable[[], T], seconds: float = 180.0, said: Callable[[], str] = lambda: "") -> T:
    """What `look` returns, once that is true; after so many seconds a failure that tells what was `said`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"it did not happen in {seconds:.0f} s. {said()}"
        time.sleep(0.01)
    return found
