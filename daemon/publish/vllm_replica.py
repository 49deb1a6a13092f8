"""A vLLM server with the factd plugin: the client of the plugin's routes."""

import base64
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any

import httpx

from daemon.core.publication import ANSWER_SECONDS, IN_FLIGHT, IN_FLIGHT_SECONDS, PUBLISH_SECONDS, InFlight
from daemon.publish import vllm_http
from daemon.publish.serving import HUNG, Piece, Products, PublishResult, Served, ServingError
from daemon.publish.vllm_http import VllmHttp

#: While a replica stages or flips, its health is asked this often. Staging runs in a thread beside the
#: server, so a slow disk never delays the answer.
WATCH_SECONDS = 5.0
#: so many checks in a row without an answer: the process hangs
MISSED_CHECKS = 3


class VllmReplica:
    """A vLLM server that runs `daemon.plugin.worker`. It serves, scores and multiplies.

    Args:
        base_url: e.g. ``http://127.0.0.1:8000``.
        admin_token: FACTD_ADMIN_TOKEN of that server.
        api_key: its ``--api-key``, if it has one.
        in_flight: what becomes of requests that run when a version is flipped.
        in_flight_seconds: after so long "wait" keeps what still runs.
        publish_seconds: after so long a replica that has not staged or flipped counts as hung.
        answer_seconds: after so long a replica that has not answered a question counts as slow.
        transport: for tests.
    """

    def __init__(
        self,
        base_url: str,
        admin_token: str,
        api_key: str | None = None,
        *,
        in_flight: InFlight = IN_FLIGHT,
        in_flight_seconds: float = IN_FLIGHT_SECONDS,
        publish_seconds: float = PUBLISH_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.http = VllmHttp(base_url, api_key, transport, answer_seconds)
        self.name = self.http.address
        self.in_flight: InFlight = in_flight
        self.in_flight_seconds = in_flight_seconds
        self.publish_seconds = publish_seconds
        self._admin = {"Authorization": f"Bearer {admin_token}"}
        self._model: str | None = None

    def stage(self, version: str, fence: int) -> None:
        """Has the replica read and verify a version without serving it."""
        self._post("stage", version, fence)

    def publish(self, version: str, fence: int) -> PublishResult:
        """Has the replica serve a version; ``v000000`` is the base. Repeating it is harmless."""
        # The route's default stays unsaid: a server with an older plugin takes it too, and does what it can.
        policy = {"in_flight": self.in_flight, "in_flight_seconds": self.in_flight_seconds}
        answer = self._post("publish", version, fence, {} if self.in_flight == IN_FLIGHT else policy)
        return self.http.read(
            lambda: PublishResult(
                str(answer["version"]),
                float(answer["seconds"]),
                float(answer["pause_seconds"]),
                float(answer.get("swap_seconds", 0.0)),
                float(answer.get("drain_seconds", 0.0)),
            )
        )

    def served(self) -> Served:
        """What the replica says it serves: a version id, or "default" after a restart."""
        answer = self.http.call("GET", "/plugins/factd/version", headers=self._admin)
        return self.http.read(
            lambda: Served(str(answer["version"]), int(answer["fence"]), dict(answer["sha256"]))
        )

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self.http.complete(self._model_name(), prompts, max_tokens) if prompts else []

    def chat(self, messages: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self.http.chat(self._model_name(), messages, max_tokens) if messages else []

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        return self.http.log_probs(self._model_name(), passages) if passages else []

    def products(self, version: str, seed: int, tensors: Sequence[str]) -> Products:
        body = {"version": version, "seed": seed, "tensors": list(tensors)}
        answer = self.http.call("POST", "/plugins/factd/products", headers=self._admin, json=body)
        return self.http.read(
            lambda: Products(
                str(answer["dtype"]),
                [{name: piece(rank[name]) for name in tensors} for rank in answer["ranks"]],
            )
        )

    def healthy(self) -> bool:
        """Whether the server and its engine answer; never raises."""
        return self.http.healthy()

    def close(self) -> None:
        self.http.close()

    def _model_name(self) -> str:
        if self._model is None:
            models = list(self.http.models())
            self._model = self.http.read(lambda: models[0])
        return self._model

    def _post(
        self, action: str, version: str, fence: int, policy: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = {"version": version, "fence": fence, **(policy or {})}
        seconds = self.publish_seconds + self.in_flight_seconds
        # Longer than the watch: a replica that is given up on is said to hang, and the thread still ends.
        timeout = httpx.Timeout(seconds + WATCH_SECONDS, connect=vllm_http.CONNECT_SECONDS)
        answer: Future[dict[str, Any]] = Future()

        def ask() -> None:
            path = f"/plugins/factd/{action}"
            try:
                answer.set_result(
                    self.http.call("POST", path, headers=self._admin, json=body, timeout=timeout)
                )
            except Exception as error:
                answer.set_exception(error)

        # A daemon thread: a request that is given up on must not keep a worker that stops.
        threading.Thread(target=ask, name=f"factd-{action}", daemon=True).start()
        return self._await(answer, action, seconds)

    def _await(self, answer: Future[dict[str, Any]], action: str, seconds: float) -> dict[str, Any]:
        """The answer; a ServingError when the replica goes silent before, or takes too long."""
        asked, missed = time.monotonic(), 0
        while missed < MISSED_CHECKS and (left := asked + seconds - time.monotonic()) > 0:
            if wait([answer], min(WATCH_SECONDS, left)).done:
                return answer.result()
            missed = 0 if self.healthy() else missed + 1
        why = "its health check is silent too" if missed else "see its disk, or raise FACTD_PUBLISH_SECONDS"
        what = f"{self.name} did not {action} in {time.monotonic() - asked:.0f} s; {why}"
        raise ServingError(what, retryable=True, code=HUNG)


def piece(told: Mapping[str, Any]) -> Piece:
    """What a rank made of a matrix, out of JSON; a KeyError, TypeError or ValueError if it is not that."""
    vectors, rows = told["shape"]
    if told["part"] not in ("whole", "sum", "rows"):
        raise ValueError(f"part = {told['part']!r}")
    content = base64.b64decode(told["products"], validate=True)
    if len(content) != 4 * int(vectors) * int(rows):
        raise ValueError(f"{len(content)} bytes for {vectors} x {rows} products")
    return Piece(told["part"], (int(vectors), int(rows)), content)
