"""The Celery tasks: take a correction into the ledger; ring the applier. Neither holds any state."""

import logging
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from daemon.app import APPLY_QUEUE, celery, services
from daemon.errors import ConflictError, CorrectionError, LeaseHeldError, RefusedError
from daemon.intake import submit_or_refuse
from daemon.messages import parse_correction

log = logging.getLogger("factd")


@celery.task(name="factd.submit", bind=True)
def submit(self: Any, correction: dict[str, Any]) -> str:
    """Records a correction under this task's id and returns the id of the correction.

    A repetition (same id or same key, same content) returns the id of the first post.

    Raises:
        RefusedError: the text names field, value and mend. The ledger shows the id as rejected.
    """
    try:
        accepted = submit_or_refuse(
            services.ledger, str(self.request.id), lambda: parse_correction(correction), "celery"
        )
    except (CorrectionError, ConflictError) as error:
        raise RefusedError(str(error)) from None
    ring(self.app)
    services.room.add(1)
    services.valve.turn()
    return accepted


@celery.task(name="factd.apply", ignore_result=True)
def apply() -> None:
    """Drains the ledger. How often and in which order the bell rings does not matter."""
    try:
        report = services.applier.run()
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
    """Values of facts on the unedited model, for the applier that asks (`daemon.value_workers`)."""
    from daemon.value_workers import answer

    install, options = services.values
    return answer(install, options, facts, layer, key, base)


def ring(app: Celery, expires: float | None = None) -> None:
    """Rings the applier's doorbell; `expires` in seconds keeps bells from piling up behind a long run.

    A bell that cannot be rung is no fault of the correction, which is in the ledger; the apply worker rings
    by itself as well.
    """
    try:
        app.send_task("factd.apply", queue=APPLY_QUEUE, expires=expires, ignore_result=True)
    except OperationalError as error:
        log.warning("the doorbell could not be rung: %s", error)
