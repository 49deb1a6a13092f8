# What factd uses of Celery, which ships without types. Mend it when a call of factd's is not found here.
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from celery import bootsteps as bootsteps

class Task:
    request: Any

class Celery:
    conf: Any
    control: Any
    amqp: Any
    steps: dict[str, set[type[bootsteps.StartStopStep]]]
    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        set_as_current: bool = True,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *about: object) -> None: ...
    def add_defaults(self, fun: Callable[[], Mapping[str, Any]]) -> None: ...
    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any: ...
    def task(
        self, *, name: str, bind: bool = False, ignore_result: bool = False
    ) -> Callable[[Callable[..., Any]], Task]: ...
    def close(self) -> None: ...
