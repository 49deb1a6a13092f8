"""Celery's configuration of every factd worker."""

from typing import Any

from daemon.core.settings import Settings

#: The module that defines the tasks; a worker imports it when it starts.
TASKS = "daemon.tasks"


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration; the reason stands beside each entry."""
    return {**_transport(settings), **_delivery(settings), **_messages(settings)}


def _transport(settings: Settings) -> dict[str, Any]:
    """Where messages go, and when one that nobody acknowledged is handed out again."""
    timeout = settings.visibility_timeout_seconds
    transport = {
        # Redis gives an unacknowledged message to another worker after this; the shortest value of all
        # apps on a broker counts, so it is set in each of the three places that Celery reads.
        "visibility_timeout": timeout,
        # The sweep for lost messages runs every 5 s; with the defaults recovery takes about 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
    return {
        "broker_url": settings.redis_url,
        # A producer can read the id or the refusal; the record itself is the ledger.
        "result_backend": settings.redis_url,
        "result_expires": 86400,
        "broker_transport_options": transport,
        "result_backend_transport_options": {"visibility_timeout": timeout},
        "visibility_timeout": timeout,
        "broker_connection_retry_on_startup": True,
        # A producer's correction must not wait behind minutes of editing.
        "task_routes": settings.names.routes,
        "task_default_queue": settings.names.queue("corrections"),
    }


def _delivery(settings: Settings) -> dict[str, Any]:
    """When a message counts as done, and how a worker ends."""
    return {
        # A message counts as done only after its row is committed: a killed worker loses none.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A message that raises is refused for good, never redelivered: no crash loop.
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # No hoarding: a message that this worker is not working on belongs to whoever is free.
        "worker_prefetch_multiplier": 1,
        # One task a process: the model is one, and `-P solo` never forks after CUDA was started.
        "worker_concurrency": 1,
        # Must end before the message is handed out again (enforced by pools other than solo).
        "task_time_limit": settings.visibility_timeout_seconds // 2,
        # No soft shutdown and no REMAP_SIGTERM. With `-P solo` a soft shutdown would stop the very task that
        # it waits for. Plain SIGTERM lets the running task end and takes no other.
        "worker_soft_shutdown_timeout": 0.0,
        # After a lost connection the message comes again; the first run would be a duplicate.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
    }


def _messages(settings: Settings) -> dict[str, Any]:
    """What a message may hold, and what a worker reports of it."""
    return {
        # Pickle would run code from the queue.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # For exporters and Flower.
        "task_track_started": True,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "timezone": "UTC",
        "imports": (TASKS,),
    }
