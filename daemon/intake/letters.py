"""Messages on the queue of posts that are no correction: each is refused in the ledger, under its own id.

Celery logs such a message and drops it: one of an unknown task, one that it cannot decode, one whose time
was over before a worker took it. Whoever sent it has an id in hand, and would find nothing under it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from celery import Celery, bootsteps
from celery.signals import task_internal_error, task_rejected, task_revoked, task_unknown

from daemon.core.errors import CorrectionError, Problem
from daemon.core.messages import shortened
from daemon.intake.posting import SUBMIT

#: The name of the one argument of `factd.submit`.
ARGUMENT = "correction"
MEND = "call factd.submit with one argument, the correction: args=[{…}], or kwargs={'correction': {…}}"
#: What Celery raises at a message that lacks a part or has another in its place. What a task itself raises
#: does not come so far.
SHAPE_ERRORS = (LookupError, TypeError, ValueError, AttributeError)
#: (id of the message, why it is no correction)
Refuse = Callable[[str, Problem], object]


def argument(given: Sequence[object], named: Mapping[str, object]) -> object:
    """The correction among the arguments of a call.

    Raises:
        CorrectionError: there is none, or more than the correction.
    """
    if len(given) == 1 and not named:
        return given[0]
    if not given and set(named) == {ARGUMENT}:
        return named[ARGUMENT]
    called = f"{len(given)} arguments" + (f" and {', '.join(sorted(named))}" if named else "")
    raise CorrectionError([Problem("", shortened(called), MEND)])


class Letter(Protocol):
    """A kombu message."""

    headers: object
    properties: object
    delivery_info: Mapping[str, Any] | None
    delivery_tag: object
    acknowledged: bool


Take = Callable[[Letter], object]


class TakingConsumer(Protocol):
    """The part of a worker that reads messages."""

    on_decode_error: Callable[[Letter, Exception], object]
    create_task_handler: Callable[[], Take]

    def on_invalid_task(self, body: object, message: Letter, exc: Exception) -> object: ...


class Revoked(Protocol):
    """A request that Celery does not carry out."""

    id: str
    task: str


class Named(Protocol):
    """A task."""

    name: str


def letter_id(message: Letter) -> str:
    """What the sender knows it by: the task's id, or one made of the broker's tag."""
    for known in (message.headers, message.properties):
        if isinstance(known, Mapping):
            found = cast("Mapping[str, object]", known)
            if id := found.get("id") or found.get("correlation_id"):
                return str(id)
    return f"celery-{message.delivery_tag}"


class Misshapen(bootsteps.Step):
    """Tells of what Celery only logs, or dies of.

    For a message that cannot be decoded it has a method and no signal. One with a body of another shape, or
    without an id, ends the worker, which would find it again at each start.
    """

    def __init__(self, parent: TakingConsumer, **more: Any) -> None:
        super().__init__(parent, **more)
        drop, handler = parent.on_decode_error, parent.create_task_handler

        def undecoded(message: Letter, error: Exception) -> None:
            task_rejected.send(sender=parent, message=message, exc=error)
            drop(message, error)

        def taking() -> Take:
            take = handler()
            return lambda message: _taken(take, message, parent)

        parent.on_decode_error, parent.create_task_handler = undecoded, taking


def _taken(take: Take, message: Letter, consumer: TakingConsumer) -> None:
    try:
        take(message)
    except SHAPE_ERRORS as error:
        if message.acknowledged:
            raise
        consumer.on_invalid_task(None, message, error)


class DeadLetters:
    """Listens to a worker's consumer for messages that Celery drops.

    Args:
        queue: of posts; other queues hold no corrections.
        refuse: writes into the ledger.
    """

    def __init__(self, app: Celery, queue: Callable[[], str], refuse: Refuse) -> None:
        self.queue, self.refuse = queue, refuse
        task_unknown.connect(self._unknown, weak=False)
        task_rejected.connect(self._rejected, weak=False)
        task_revoked.connect(self._revoked, weak=False)
        task_internal_error.connect(self._uncalled, weak=False)
        app.steps["consumer"].add(Misshapen)

    def _unknown(self, message: Letter, name: str, **_: Any) -> None:
        self._note(message, Problem("task", shortened(name), MEND))

    def _rejected(self, message: Letter, exc: Exception | None, **_: Any) -> None:
        self._note(message, Problem("", shortened(str(exc or "unknown form")), f"is no Celery task; {MEND}"))

    def _uncalled(self, sender: Named, task_id: str, exception: Exception, **_: Any) -> None:
        if sender.name == SUBMIT:
            self.refuse(task_id, Problem("", shortened(str(exception)), MEND))

    def _revoked(self, request: Revoked, expired: bool, **_: Any) -> None:
        if request.task == SUBMIT:
            value = "expired" if expired else "revoked"
            self.refuse(str(request.id), Problem("", value, "before a worker took it; post it again"))

    def _note(self, message: Letter, problem: Problem) -> None:
        if (message.delivery_info or {}).get("routing_key") == self.queue():
            self.refuse(letter_id(message), problem)
