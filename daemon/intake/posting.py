"""The producer's side of the queue: what any Celery program may do to post corrections."""

import uuid
from collections.abc import Sequence
from typing import Any

from celery import Celery

from daemon.core.names import MAIN, Names

SUBMIT = "factd.submit"
#: A broker that does not answer within so long is away, seconds.
CONNECT_SECONDS = 5


def producer(redis_url: str, names: Names = MAIN) -> Celery:
    """A Celery application that only sends, to one model. When the broker is away it fails within seconds."""
    app = Celery("factd-producer", broker=redis_url, set_as_current=False)
    app.conf.update(
        task_routes=names.routes,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        broker_connection_timeout=CONNECT_SECONDS,
        broker_transport_options={"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": 30},
        task_publish_retry=False,
    )
    return app


def post(app: Celery, corrections: Sequence[dict[str, Any]], ids: Sequence[str] | None = None) -> list[str]:
    """Sends corrections to the queue in order; the returned task ids become the correction ids."""
    ids = list(ids) if ids else [str(uuid.uuid4()) for _ in corrections]
    for id, correction in zip(ids, corrections, strict=True):
        app.send_task(SUBMIT, args=[correction], task_id=id)
    return ids


def answering(app: Celery, names: Sequence[str], timeout: float = 1.5) -> set[str]:
    """Those of the named workers that answer a ping; a name is the part before the @."""
    replies: list[dict[str, Any]] = app.control.ping(timeout=timeout) or []
    alive = {name.split("@")[0] for reply in replies for name in reply}
    return alive & set(names)
