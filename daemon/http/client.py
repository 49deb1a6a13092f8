"""Client of the HTTP API.

with Client("http://127.0.0.1:8321", token) as factd:
    ids = factd.post({"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"})
    factd.wait(ids)
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx

from daemon.core.errors import ClientError
from daemon.core.lifecycle import FINAL, State
from daemon.core.messages import Correction

REQUEST_SECONDS = 60.0
#: One request waits at most so long for a correction to end, seconds.
POLL_SECONDS = 20.0
#: Pause before the second attempt, seconds; doubled for each further one.
RETRY_SECONDS = 0.2
#: Pause between two questions whether an operation has ended, seconds.
OPERATION_SECONDS = 0.2
#: At most so many corrections go in one request: well below the API's limit to a body.
CHUNK = 1000
#: Answers that say "later": 429 for a token that asks too fast, 503 for a full queue or an API not ready.
LATER = frozenset({429, 503})


class Client:
    """Posts, asks and operates.

    A call is repeated when the connection is lost, when the token asks too fast, and when the queue is full.

    Each attempt of a post carries the same idempotency key, so it is recorded once.

    Args:
        token: the submit token; retract, roll_back, compact and consolidate need the admin token.
        patience: all attempts together take at most so long, seconds.

    Raises:
        ClientError: the API refuses; `status` and the text say why.
        httpx.TransportError: it did not answer in time.
    """

    def __init__(
        self,
        url: str,
        token: str,
        patience: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.patience = patience
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, timeout=REQUEST_SECONDS, headers=headers, transport=transport)

    def post(
        self,
        corrections: Correction | Mapping[str, Any] | Sequence[Correction | Mapping[str, Any]],
        key: str | None = None,
    ) -> list[str]:
        """Records one correction or many and returns their ids, in order; they are durable then.

        Up to CHUNK corrections are recorded as a whole or not at all. More are sent in several requests.
        """
        many = [corrections] if isinstance(corrections, Correction | Mapping) else list(corrections)
        bodies = [c.model_dump() if isinstance(c, Correction) else dict(c) for c in many]
        key, ids = key or str(uuid.uuid4()), list[str]()
        for start in range(0, len(bodies), CHUNK):
            part = bodies[start : start + CHUNK]
            headers = {"Idempotency-Key": f"{key}:{start}" if len(bodies) > CHUNK else key}
            body = part if len(bodies) > 1 else part[0]
            ids += self._ask("POST", "/v1/corrections", json=body, headers=headers)["ids"]
        return ids

    def get(self, id: str, wait: float = 0.0) -> dict[str, Any]:
        """One correction; waits `wait` seconds at most (the API allows 60) until it has ended."""
        return self._ask("GET", f"/v1/corrections/{_quoted(id)}", params={"wait": wait})

    def wait(self, ids: Sequence[str], timeout: float = 120.0) -> list[dict[str, Any]]:
        """The corrections when all have ended, or as they are when the time is up."""
        deadline = time.monotonic() + timeout
        views: list[dict[str, Any]] = []
        for id in ids:
            view = self.get(id)
            while view["state"] not in {*FINAL, State.HELD} and (left := deadline - time.monotonic()) > 0:
                view = self.get(id, min(left, POLL_SECONDS))
            views.append(view)
        return views

    def facts(self) -> list[dict[str, Any]]:
        """Live corrections."""
        return self._ask("GET", "/v1/facts")

    def versions(self) -> dict[str, Any]:
        """`live`: id of the live version; `versions`: all of them."""
        return self._ask("GET", "/v1/versions")

    def status(self) -> dict[str, Any]:
        """What the status page shows."""
        return self._ask("GET", "/v1/status")

    def retract(self, id: str, why: str | None = None) -> dict[str, Any]:
        """Asks for a retraction and returns the operation; `finish` waits for it."""
        return self._operate(f"/v1/corrections/{_quoted(id)}/retract", why)

    def roll_back(self, version: str, why: str | None = None) -> dict[str, Any]:
        return self._operate(f"/v1/versions/{_quoted(version)}/rollback", why)

    def compact(self, why: str | None = None) -> dict[str, Any]:
        return self._operate("/v1/compact", why)

    def consolidate(self, why: str | None = None) -> dict[str, Any]:
        return self._operate("/v1/consolidate", why)

    def finish(self, operation: Mapping[str, Any], timeout: float = 120.0) -> dict[str, Any]:
        """The operation when it has ended, or as it is when the time is up."""
        view, deadline = dict(operation), time.monotonic() + timeout
        while view["state"] == "pending" and time.monotonic() < deadline:
            time.sleep(OPERATION_SECONDS)
            view = self._ask("GET", f"/v1/operations/{view['operation']}")
        return view

    def gauges(self) -> dict[str, float]:
        """The samples of /metrics whose names begin with factd_."""
        lines = [
            line for line in self._send("GET", "/metrics").text.splitlines() if line.startswith("factd_")
        ]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _operate(self, path: str, why: str | None) -> dict[str, Any]:
        return self._ask("POST", path, params={"why": why} if why else None)

    def _ask(self, method: str, path: str, **sent: Any) -> Any:
        return self._send(method, path, **sent).json()

    def _send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        # An operation has no key. Repeated after a lost answer it might be recorded twice.
        again = method == "GET" or "headers" in sent
        deadline, pause = time.monotonic() + self.patience, RETRY_SECONDS
        while True:
            try:
                answer = self._http.request(method, path, **sent)
            except httpx.TransportError:
                if not again or time.monotonic() + pause > deadline:
                    raise
                wait = pause
            else:
                wait = float(answer.headers.get("Retry-After", pause))
                if answer.status_code not in LATER or time.monotonic() + wait > deadline:
                    break
            time.sleep(wait)
            pause *= 2
        if not answer.is_success:
            raise ClientError(answer.status_code, answer.text)
        return answer


def _quoted(id: str) -> str:
    """An id as one part of a path, also with / and ? in it."""
    return quote(id, safe="")
