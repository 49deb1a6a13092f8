"""Back-pressure on Celery: while the ledger is full, the intake worker leaves its queue alone."""

import logging

from daemon.intake.consumer import Consumer
from daemon.intake.intake import COUNT_SECONDS, Room

log = logging.getLogger("factd")


class Valve:
    """Stops and resumes the consuming of one queue.

    Messages stay in the broker in their order. A task that retried would come back behind younger messages.
    """

    def __init__(self, room: Room, queue: str) -> None:
        self.room, self.queue = room, queue
        self._consumer: Consumer | None = None
        self._open = True

    def watch(self, consumer: Consumer) -> None:
        """Looks for room every second from now on; `consumer` is the one of this worker."""
        self._consumer = consumer
        consumer.timer.call_repeatedly(COUNT_SECONDS, self.turn)

    def turn(self) -> None:
        """Stops the consuming when the ledger is full, and resumes it when there is room."""
        if self._consumer is None:
            return
        room = self.room.left() > 0
        if self._open and not room:
            log.warning("the ledger is full (FACTD_MAX_PENDING); the queue %s waits", self.queue)
            self._consumer.cancel_task_queue(self.queue)
        elif room and not self._open:
            log.info("the ledger has room; the queue %s goes on", self.queue)
            self._consumer.add_task_queue(self.queue)
        self._open = room
