"""The Celery tasks: take a correction into the ledger, drain it, find values. They hold no state."""

import logging
import uuid
from collections.abc import Callable
from typing import Any

from celery import Task
from celery.exceptions import Reject
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from daemon.app import celery, services, stopping
from daemon.core.errors import ConflictError, CorrectionError, LeaseHeldError, RefusedError
from daemon.core.messages import Correction, parse_correction
from daemon.intake.letters import argument

log = logging.getLogger("factd")


class Submission(Task):
    """What a post that fails leaves behind: a refusal in the ledger, whatever the fault was."""

    def on_failure(self, exc: Exception, task_id: str, *_: Any) -> None:
        if isinstance(exc, RefusedError):
            return  # recorded with its reason
        # Does nothing when the ledger has the id: then it was taken.
        services.ledger.intake.refuse(task_id, f"the message cannot be taken: {exc}", actor="celery")


@celery.task(name="factd.submit", bind=True, base=Submission)
def submit(self: Task, *given: Any, **named: Any) -> str:
    """Records a correction under this task's id and returns the id of the correction.

    It takes one argument, the correction: `factd.submit(correction)` or `factd.submit(correction=…)`. Celery
    would drop a call with other arguments, so they are looked at here. A repetition (same id or same key,
    same content) returns the id of the first post.

    Raises:
        RefusedError: the text names field, value and mend. The ledger shows the id as rejected.
    """
    id = str(self.request.id or self.request.correlation_id or uuid.uuid4())
    accepted = _record(id, lambda: parse_correction(argument(given, named)))
    services.doorbell.ring()
    services.room.add(1)
    services.valve.turn()
    return accepted


def _record(id: str, parse: Callable[[], Correction]) -> str:
    """Raises RefusedError, or Reject when the worker is told to stop and the ledger does not answer."""
    try:
        return services.submit(id, parse)
    except (CorrectionError, ConflictError) as error:
        raise RefusedError(str(error)) from None
    except DBAPIError as error:
        if isinstance(error, DataError | IntegrityError):
            raise
        raise Reject(error, requeue=True) from None


@celery.task(name="factd.apply", ignore_result=True)
def apply() -> None:
    """Drains the ledger. It does not matter how often the doorbell rings, nor in which order."""
    try:
        report = services.applier.run(stopping)
    except LeaseHeldError as error:
        log.info("not applying: %s", error)
        return
    if report.versions:
        log.info("live: %s (new: %s)", report.live, ", ".join(report.versions))
    for replica, why in report.out.items():
        log.warning("not in sync: %s: %s", replica, why)
    if report.held:
        log.warning("held: %s", report.held)


@celery.task(name="factd.values")
def values(facts: list[list[Any]], layer: int, key: str, base: str) -> str:
    """Values of facts on the unedited model, for the applier that asks (`daemon.apply.value_workers`)."""
    return services.values(facts, layer, key, base)
