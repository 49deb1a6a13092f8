from collections.abc import Callable
from typing import Any, TypeVar

Receiver = TypeVar("Receiver", bound=Callable[..., Any])

class Signal:
    def connect(self, *, weak: bool = True) -> Callable[[Receiver], Receiver]: ...

celeryd_after_setup: Signal
worker_ready: Signal
worker_shutting_down: Signal
