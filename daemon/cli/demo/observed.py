"""What the steps of the demo work with, and what they have observed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from daemon.cli.demo.client import LiveServer
from daemon.cli.output import console
from daemon.core.errors import ClientError
from daemon.core.lifecycle import FINAL
from daemon.http.client import Client

#: Longest wait for a batch or an operation; a batch of ten takes seconds.
WAIT_SECONDS = 240.0
#: Between two questions to the API.
POLL_SECONDS = 0.2
NOT_FOUND = 404


@dataclass
class Demo:
    """Services to ask, and the results of the steps so far."""

    live: LiveServer
    api: Client
    queue: Celery
    admin_token: str
    results: dict[str, Any] = field(default_factory=dict[str, Any])
    steps: list[tuple[str, bool, str]] = field(default_factory=list[tuple[str, bool, str]])

    def saw(self, step: str, ok: bool, detail: str = "") -> None:
        self.steps.append((step, ok, detail))
        mark = "[green]ok[/green]" if ok else "[red]NOT OBSERVED[/red]"
        console().print(f"{mark}  {step}" + (f": {detail}" if detail else ""), markup=True)

    def wait_for(
        self, ids: Sequence[str], enough: Callable[[], bool] = lambda: False
    ) -> list[dict[str, Any]]:
        """Waits until all corrections have ended, or `enough` was seen.

        A correction that has not ended in time comes back with the state "unfinished".
        """
        deadline, views = time.monotonic() + WAIT_SECONDS, dict[str, dict[str, Any]]()
        while len(views) < len(ids) and time.monotonic() < deadline:
            for id in ids:
                if id in views:
                    continue
                try:
                    view = self.api.get(id)
                except ClientError as error:
                    if error.status != NOT_FOUND:
                        raise
                    continue  # still in the queue
                if view["state"] in FINAL:
                    views[id] = view
            if enough():
                break
            time.sleep(POLL_SECONDS)
        missing: dict[str, Any] = {"state": "unfinished", "reason": None, "post_to_live_seconds": None}
        return [views.get(id, {"id": id, **missing}) for id in ids]

    def refusals(self) -> list[str]:
        """Why the guard refused each version so far, oldest first."""
        steps = self.api.status()["last_steps"]
        return [step["why"] for step in reversed(steps) if step["step"] == "refuse"]

    def live_version(self) -> str:
        return self.api.versions()["live"]
