"""What factd uses of Celery's consumer and kombu's Redis channel, whose own types leave these out."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from celery import Celery


class Timer(Protocol):
    """Calls functions in the worker's own thread."""

    def call_repeatedly(self, seconds: float, act: Callable[..., object], *arguments: Any) -> object: ...


class Channel(Protocol):
    """A kombu channel to a Redis or Valkey server."""

    unacked_index_key: str
    unacked_key: str
    qos: Any

    def conn_or_acquire(self) -> AbstractContextManager[Any]: ...


class TaskConsumer(Protocol):
    """Where the consumer gets its messages."""

    channel: Channel


class Consumer(Protocol):
    """The part of a worker that takes messages."""

    app: Celery
    timer: Timer
    task_consumer: TaskConsumer

    def cancel_task_queue(self, queue: str) -> object: ...

    def add_task_queue(self, queue: str) -> object: ...
