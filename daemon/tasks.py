"""The Celery tasks: take a correction into the ledger, drain it, find values. They hold no state."""

import logging
import time
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.worker import state as worker_state
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from daemon.app import celery, services
from daemon.core.errors import ConflictError, CorrectionError, LeaseHeldError, RefusedError
from daemon.core.messages import parse_correction
from daemon.intake.intake import submit_or_refuse

log = logging.getLogger("factd")


@celery.task(name="factd.submit", bind=True)
def submit(self: Task, correction: dict[str, Any]) -> str:
    """Records a correction under this task's id and returns the id of the correction.

    A repetition (same id or same key, same content) returns the id of the first post.

    Raises:
        RefusedError: the text names field, value and mend. The ledger shows the id as rejected.
    """
    try:
        accepted = _record(str(self.request.id), correction)
    except (CorrectionError, ConflictError) as error:
        raise RefusedError(str(error)) from None
    services.doorbell.ring()
    services.room.add(1)
    services.valve.turn()
    return accepted


def _record(id: str, correction: dict[str, Any]) -> str:
    """Records the message; while the ledger cannot be written it waits here, not in the broker.

    A message that went back would come again behind younger ones. A message that failed would be gone.

    Raises:
        CorrectionError, ConflictError: it was refused.
        Reject: the worker is told to stop; the message goes back.
    """
    while True:
        try:
            return submit_or_refuse(services.ledger, id, lambda: parse_correction(correction), "celery")
        except DBAPIError as error:
            # A read-only standby or a damaged file is mended one day. What the database refuses for its
            # content is refused for ever.
            if isinstance(error, DataError | IntegrityError):
                raise
            if _stopping():
                raise Reject(error, requeue=True) from None
            log.error("correction %s waits: the ledger does not answer: %s", id, error.orig)
            time.sleep(max(1.0, services.settings.retry_seconds))


def _stopping() -> bool:
    # None until SIGTERM arrives; afterwards the exit status, which may be 0.
    return worker_state.should_stop is not None


@celery.task(name="factd.apply", ignore_result=True)
def apply() -> None:
    """Drains the ledger. It does not matter how often the doorbell rings, nor in which order."""
    try:
        report = services.applier.run(_stopping)
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
