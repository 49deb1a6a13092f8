"""Names of a model's queues, keys and workers on the broker, so that several models can share a broker.

The nameless model has the names that producers know: the queue `corrections`, the stream `factd:corrections`.
"""

import re
from dataclasses import dataclass
from typing import Literal

#: Characters without a meaning to Celery, Redis, a shell or PromQL. "." and ":" join a name with another.
PATTERN = re.compile(r"([a-z0-9][a-z0-9_-]{0,39})?")

Queue = Literal["corrections", "apply", "values"]


@dataclass(frozen=True)
class Names:
    """The names of one model. `model` is its FACTD_NAME, "" for the nameless model."""

    model: str = ""

    def queue(self, what: Queue) -> str:
        """Celery queue of posts (`corrections`), of the doorbell (`apply`) or of tasks for value workers."""
        return self._of(what)

    @property
    def routes(self) -> dict[str, dict[str, str]]:
        """Celery's `task_routes`: which queue a task goes to."""
        tasks: dict[str, Queue] = {"submit": "corrections", "apply": "apply", "values": "values"}
        return {f"factd.{task}": {"queue": self.queue(queue)} for task, queue in tasks.items()}

    @property
    def stream(self) -> str:
        """Key of the Redis Stream of posts. The lock of its reader begins with this name."""
        return f"factd:{self.model}:corrections" if self.model else "factd:corrections"

    def worker(self, role: str) -> str:
        """The part of a Celery worker's name before the @. Workers of two models must not share a name."""
        return self._of(role)

    def _of(self, what: str) -> str:
        return f"{what}.{self.model}" if self.model else what


#: Names of the nameless model.
MAIN = Names()
