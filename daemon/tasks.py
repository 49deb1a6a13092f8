"""The Celery tasks: take a correction into the ledger; ring the applier. Neither holds any state."""

import logging
import time
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from celery.worker import state as worker_state
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from daemon.app import celery, services
from daemon.core.errors import ConflictError, CorrectionError, LeaseHeldError, RefusedError
from daemon.core.messages import parse_correction
from daemon.intake import posting
from daemon.intake.intake import submit_or_refuse

log = logging.getLogger("factd")


@celery.task(name="factd.submit", bind=True)
def submit(self: Any, correction: dict[str, Any]) -> str:
    """Records a correction under this task's id and returns the id of the correction.

    A repetition (same id or same key, same content) returns the id of the first post.

    Raises:
        RefusedError: the text names field, value and mend. The ledger shows the id as rejected.
    """
    try:
        accepted = _record(str(self.request.id), correction)
    except (CorrectionError, ConflictError) as error:
        raise RefusedError(str(error)) from None
    ring(self.app)
    services.room.add(1)
    services.valve.turn()
    return accepted


def _record(id: str, correction: dict[str, Any]) -> str:
    """Waits while the ledger cannot be written, here and not in the broker: a message that went back would
    come again behind younger ones, one that failed would be gone.

    Raises:
        CorrectionError, ConflictError: it was refused.
        Reject: the worker is told to stop; the message goes back.
    """
    while True:
        try:
            return submit_or_refuse(services.ledger, id, lambda: parse_correction(correction), "celery")
        except DBAPIError as error:
            # A standby that only reads, a damaged file and the like are mended one day; what the database
            # refuses for its content would be refused for ever.
            if isinstance(error, DataError | IntegrityError):
                raise
            if _stopping():
                raise Reject(error, requeue=True) from None
            log.error("correction %s waits: the ledger does not answer: %s", id, error.orig)
            time.sleep(max(1.0, services.settings.retry_seconds))


def _stopping() -> bool:
    # The exit status once SIGTERM was received; it may be 0.
    return worker_state.should_stop is not None


@celery.task(name="factd.apply", ignore_result=True)
def apply() -> None:
    """Drains the ledger. How often and in which order the bell rings does not matter."""
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
def values(facts: list[list[str]], layer: int, key: str, base: str) -> str:
    """Values of facts on the unedited model, for the applier that asks (`daemon.apply.value_workers`)."""
    from daemon.apply.value_workers import answer

    install, options = services.values
    return answer(install, options, facts, layer, key, base)


def ring(app: Celery, expires: float = posting.DOORBELL_SECONDS) -> None:
    """Rings the applier's doorbell; `expires` in seconds keeps bells from piling up behind a long run.

    A bell that cannot be rung is no fault of the correction, which is in the ledger; the apply worker rings
    by itself as well.
    """
    try:
        posting.ring(app, expires)
    except OperationalError as error:
        log.warning("the doorbell could not be rung: %s", error)
