"""What a model's queues, keys and workers are called on the broker, so that several models can share one.

The nameless model has the names that producers know: the queue `corrections`, the stream `factd:corrections`.
"""

import re
from dataclasses import dataclass
from typing import Literal

#: letters that mean nothing to Celery, Redis, a shell or PromQL; no "." or ":", which join a name with others
PATTERN = re.compile(r"([a-z0-9][a-z0-9_-]{0,39})?")

Queue = Literal["corrections", "apply", "values"]


@dataclass(frozen=True)
class Names:
    """Of one model; `model` is its FACTD_NAME, "" for the nameless one."""

    model: str = ""

    def queue(self, what: Queue) -> str:
        """A Celery queue: of posts, of the doorbell, of values asked for."""
        return self._of(what)

    @property
    def routes(self) -> dict[str, dict[str, str]]:
        """Celery's `task_routes`: which queue a task goes to."""
        tasks: dict[str, Queue] = {"submit": "corrections", "apply": "apply", "values": "values"}
        return {f"factd.{task}": {"queue": self.queue(queue)} for task, queue in tasks.items()}

    @property
    def stream(self) -> str:
        """Key of the Redis Stream of posts; the lock of its reader is named after it."""
        return f"factd:{self.model}:corrections" if self.model else "factd:corrections"

    def worker(self, role: str) -> str:
        """What stands before the @ of a Celery worker: of two with one name, one would pass for the other."""
        return self._of(role)

    def _of(self, what: str) -> str:
        return f"{what}.{self.model}" if self.model else what


#: of the nameless model
MAIN = Names()
