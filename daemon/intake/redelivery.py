"""Gives the messages that a killed intake worker had taken back to the front of its queue.

Otherwise such a message would come back when its visibility timeout is over: an hour later, and behind
younger corrections of its subject.
"""

import json
import logging
from typing import Any

from celery import bootsteps

from daemon.intake.consumer import Channel, Consumer

log = logging.getLogger("factd")


def give_back(channel: Channel, queue: str) -> int:
    """Puts the unacknowledged messages of a queue back, the oldest foremost, and returns how many.

    A message that another worker is still working on is then taken in twice. That does no harm: both have one
    id, so the ledger keeps one row.

    Args:
        channel: kombu's, of a Redis or Valkey server.
    """
    with channel.conn_or_acquire() as client:
        # The message that is put back last is taken first.
        newest_first = client.zrevrange(channel.unacked_index_key, 0, -1)
        kept: list[Any] = client.hmget(channel.unacked_key, newest_first) if newest_first else []
        mine = [
            tag
            for tag, message in zip(newest_first, kept, strict=True)
            if message is not None and json.loads(message)[2] == queue
        ]
        for tag in mine:
            channel.qos.restore_by_tag(tag, client)
    if mine:
        log.warning("%d messages of the queue %s had been taken by a worker that ended", len(mine), queue)
    return len(mine)


class GiveBack(bootsteps.StartStopStep):
    """Runs `give_back` when a worker starts or has lost its connection, before it takes a message."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Consumer) -> None:
        queue = parent.app.conf.task_default_queue
        if queue in parent.app.amqp.queues.consume_from:
            give_back(parent.task_consumer.channel, queue)
