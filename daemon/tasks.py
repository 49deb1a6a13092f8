"""The Celery tasks: take a correction into the ledger; ring the applier. Neither holds any state."""

import logging
from typing import Any

from celery import Celery

from daemon.app import APPLY_QUEUE, celery, services
from daemon.errors import ConflictError, CorrectionError, LeaseHeldError, RefusedError
from daemon.ledger import MAX_ID
from daemon.messages import parse_correction

log = logging.getLogger("factd")


@celery.task(name="factd.submit", bind=True)
def submit(self: Any, correction: dict[str, Any]) -> str:
    """Records a correction under this task's id and returns the id of the correction.

    A repetition (same id or same key, same content) returns the id of the first post.

    Raises:
        RefusedError: the text names field, value and mend. The ledger shows the id as rejected.
    """
    id = str(self.request.id)[:MAX_ID]
    ledger = services.ledger
    try:
        accepted = ledger.submit(parse_correction(correction), id, actor="celery")
    except (CorrectionError, ConflictError) as error:
        ledger.refuse(id, str(error), actor="celery")
        log.warning("correction %s refused: %s", id, error)
        raise RefusedError(str(error)) from None
    ring(self.app)
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


def ring(app: Celery, expires: float | None = None) -> None:
    """Rings the applier's doorbell; `expires` in seconds keeps bells from piling up behind a long run."""
    app.send_task("factd.apply", queue=APPLY_QUEUE, expires=expires, ignore_result=True)
