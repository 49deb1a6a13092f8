from collections.abc import Callable
from typing import Any, TypeVar, overload

Receiver = TypeVar("Receiver", bound=Callable[..., Any])

class Signal:
    @overload
    def connect(self, receiver: Receiver, *, weak: bool = True) -> Receiver: ...
    @overload
    def connect(self, *, weak: bool = True) -> Callable[[Receiver], Receiver]: ...
    def send(self, sender: object, **named: Any) -> list[tuple[Callable[..., Any], Any]]: ...

celeryd_after_setup: Signal
task_internal_error: Signal
task_rejected: Signal
task_revoked: Signal
task_unknown: Signal
worker_ready: Signal
worker_shutdown: Signal
worker_shutting_down: Signal
