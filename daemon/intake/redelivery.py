"""What an intake worker had in hand when it was killed goes back to the front of its queue.

By itself a message comes back when its visibility timeout is over: an hour later, behind younger corrections
of its subject.
"""

import json
import logging
from typing import Any

from celery import bootsteps

log = logging.getLogger("factd")


def give_back(channel: Any, queue: str) -> int:
    """Puts the unacknowledged messages of a queue back, the oldest foremost, and returns how many.

    What another living worker has in hand is then taken in twice, which is once: under one id.

    Args:
        channel: kombu's, of a Redis or Valkey server.
    """
    with channel.conn_or_acquire() as client:
        # The last one that is put back is the first one that is taken.
        newest_first = client.zrevrange(channel.unacked_index_key, 0, -1)
        kept = client.hmget(channel.unacked_key, newest_first) if newest_first else []
        mine = [
            tag
            for tag, message in zip(newest_first, kept, strict=True)
            if message is not None and json.loads(message)[2] == queue
        ]
        for tag in mine:
            channel.qos.restore_by_tag(tag, client)
    if mine:
        log.warning("%d messages of the queue %s were in hand of a worker that ended", len(mine), queue)
    return len(mine)


class GiveBack(bootsteps.StartStopStep):
    """Gives back at the start of a worker and after each loss of its connection, before it takes anything."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, parent: Any) -> None:
        queue = parent.app.conf.task_default_queue
        if queue in parent.app.amqp.queues.consume_from:
            give_back(parent.task_consumer.channel, queue)
