"""How long values take when many workers find them: a deterministic simulation of `value_workers.Fleet`.

The applier sends one message a task, in order; workers take them in that order. It gathers what is answered,
does itself the last task that nobody has begun, and looks again; so do the real ones.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Costs:
    """Of fanning out, seconds a message.

    Attributes:
        send: the applier's, to send it.
        carry: from then until its answer is there, less the task itself: broker, worker, broker.
        ask: the applier's, to ask once whether it is answered.
        take: the applier's, to read an answer and keep it.
        poll: rest of an applier that has nothing to do.
    """

    send: float
    carry: float
    ask: float
    take: float
    poll: float

    @property
    def total(self) -> float:
        """Of one message, when nothing is done meanwhile."""
        return self.send + self.carry + self.take


def makespan(tasks: Sequence[float], workers: int, costs: Costs) -> float:
    """Seconds from the first message until the applier has all values.

    Args:
        tasks: seconds of each, in the order they are sent.
        workers: beside the applier, each on a core of its own.
    """
    if workers == 0:
        return sum(tasks)
    queue = _Queue(tasks, workers, costs)
    now, open_ = len(tasks) * costs.send, len(tasks)
    while open_:
        now += 2 * open_ * costs.ask
        answered = queue.answered(now)
        now, open_ = now + answered * costs.take, open_ - answered
        mine = queue.last(now)
        if mine is not None:
            now, open_ = now + mine, open_ - 1
        elif open_ and not answered:
            # Woken by its clock, not by the answer.
            now += costs.poll * max(1, math.ceil((queue.next_answer - now) / costs.poll))
    return now


class _Queue:
    """What the workers do, as far as somebody has looked."""

    def __init__(self, tasks: Sequence[float], workers: int, costs: Costs) -> None:
        self.tasks, self.costs = tasks, costs
        self.first, self.end = 0, len(tasks)
        self.free, self.answers = [0.0] * workers, list[float]()

    def _advance(self, now: float) -> None:
        """Workers begin what they can begin until then."""
        while self.first < self.end:
            begun = max(self.free[0], (self.first + 1) * self.costs.send)
            if begun > now:
                return
            done = begun + self.costs.carry + self.tasks[self.first]
            heapq.heapreplace(self.free, done)
            heapq.heappush(self.answers, done)
            self.first += 1

    def answered(self, now: float) -> int:
        """How many answers have come since it was last asked."""
        self._advance(now)
        count = 0
        while self.answers and self.answers[0] <= now:
            heapq.heappop(self.answers)
            count += 1
        return count

    def last(self, now: float) -> float | None:
        """Takes the last task that nobody has begun from the queue, if there is one; its seconds."""
        self._advance(now)
        if self.first == self.end:
            return None
        self.end -= 1
        return self.tasks[self.end]

    @property
    def next_answer(self) -> float:
        return self.answers[0]
