"""What the daemon needs from a model server, and the client of a vLLM replica with the factd plugin."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from daemon.core.publication import IN_FLIGHT_SECONDS, PUBLISH_SECONDS, UNPUBLISHED, InFlight

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0
#: While a replica stages or flips its health is asked this often. Staging runs in a thread beside the server,
#: so that a slow disk never delays the answer.
WATCH_SECONDS = 5.0
#: so many checks in a row without an answer: the process hangs
MISSED_CHECKS = 3
#: codes of a replica that does not come to the end of a publication: of this one, or still of an earlier one
HUNG, BUSY = "hung", "busy"


class ServingError(Exception):
    """Raised when a replica did not do what was asked.

    Attributes:
        retryable: whether the same request may succeed later (replica down, restarting, overloaded);
            False when the version or the caller is at fault.
        code: the plugin's code ("refused", "missing", "stale_fence", "swap_failed", "busy"), or
            "unreachable", "hung", "unauthorised", "protocol".
        status: HTTP status, None when there was no answer.
    """

    def __init__(self, message: str, *, retryable: bool, code: str, status: int | None = None) -> None:
        self.retryable, self.code, self.status = retryable, code, status
        super().__init__(message)


@dataclass(frozen=True)
class PublishResult:
    """`seconds` includes reading and verifying; generation stood still for `pause_seconds` only. Before
    that, running requests had `drain_seconds` to end, while new ones waited."""

    version: str
    seconds: float
    pause_seconds: float
    swap_seconds: float = 0.0
    drain_seconds: float = 0.0


@dataclass(frozen=True)
class Served:
    """What a replica serves; `sha256` maps edited tensors to hashes of their float32 masters."""

    version: str
    fence: int
    sha256: Mapping[str, str] = field(default_factory=dict)


class ServingClient(Protocol):
    """One model server. All methods but `healthy` raise ServingError."""

    @property
    def name(self) -> str: ...
    def stage(self, version: str, fence: int) -> None: ...
    def publish(self, version: str, fence: int) -> PublishResult: ...
    def served(self) -> Served: ...
    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]: ...
    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]: ...
    def healthy(self) -> bool: ...
    def close(self) -> None: ...


class VllmReplica:
    """A vLLM server that runs `daemon.plugin.worker`.

    Args:
        base_url: e.g. ``http://127.0.0.1:8000``.
        admin_token: FACTD_ADMIN_TOKEN of that server.
        api_key: its ``--api-key``, if it has one.
        in_flight: what becomes of requests that run when a version is flipped.
        in_flight_seconds: after so long "wait" keeps what still runs.
        publish_seconds: after so long a replica that has not staged or flipped counts as hung.
        transport: for tests.
    """

    def __init__(
        self,
        base_url: str,
        admin_token: str,
        api_key: str | None = None,
        *,
        in_flight: InFlight = "keep",
        in_flight_seconds: float = IN_FLIGHT_SECONDS,
        publish_seconds: float = PUBLISH_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.name = base_url.rstrip("/")
        self.in_flight: InFlight = in_flight
        self.in_flight_seconds = in_flight_seconds
        self.publish_seconds = publish_seconds
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        # trust_env=False: a proxy variable must not carry the admin token elsewhere
        self._http = httpx.Client(base_url=self.name, timeout=timeout, transport=transport, trust_env=False)
        self._admin = {"Authorization": f"Bearer {admin_token}"}
        self._api = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model: str | None = None

    def stage(self, version: str, fence: int) -> None:
        """Has the replica read and verify a version without serving it."""
        self._admin_post("stage", version, fence)

    def publish(self, version: str, fence: int) -> PublishResult:
        """Has the replica serve a version; ``v000000`` is the base. Repeating it is harmless."""
        # "keep" is the route's default and stays unsaid: a server with an older plugin takes it too
        policy = {"in_flight": self.in_flight, "in_flight_seconds": self.in_flight_seconds}
        answer = self._admin_post("publish", version, fence, {} if self.in_flight == "keep" else policy)
        try:
            return PublishResult(
                str(answer["version"]),
                float(answer["seconds"]),
                float(answer["pause_seconds"]),
                float(answer.get("swap_seconds", 0.0)),
                float(answer.get("drain_seconds", 0.0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._protocol_error(error) from error

    def served(self) -> Served:
        """What the replica says it serves: a version id, or "default" after a restart."""
        answer = self._call("GET", "/plugins/factd/version", headers=self._admin)
        try:
            return Served(str(answer["version"]), int(answer["fence"]), dict(answer["sha256"]))
        except (KeyError, TypeError, ValueError) as error:
            raise self._protocol_error(error) from error

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        """Greedy continuations of raw prompts, as served now; one request, which vLLM runs as one batch."""
        if not prompts:
            return []
        body = {"model": self._model_name(), "max_tokens": max_tokens, "temperature": 0.0}
        body |= {"prompt": list(prompts)}
        answer = self._call("POST", "/v1/completions", headers=self._api, json=body)
        try:
            texts = {int(choice["index"]): str(choice["text"]) for choice in answer["choices"]}
            return [texts[i] for i in range(len(prompts))]
        except (KeyError, TypeError, ValueError) as error:
            raise self._protocol_error(error) from error

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each passage given those before it, as served now; one request.

        The first token has none before it: its place holds 0.
        """
        if not passages:
            return []
        body = {"model": self._model_name(), "max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0}
        body |= {"prompt": [list(passage) for passage in passages]}
        answer = self._call("POST", "/v1/completions", headers=self._api, json=body)
        try:
            told = {int(choice["index"]): choice["prompt_logprobs"] for choice in answer["choices"]}
            return [
                [0.0, *(float(told[i][j][str(ids[j])]["logprob"]) for j in range(1, len(ids)))]
                for i, ids in enumerate(passages)
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._protocol_error(error) from error

    def healthy(self) -> bool:
        """Whether the server and its engine answer; never raises."""
        try:
            return self._http.get("/health", timeout=CONNECT_SECONDS).status_code == 200
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._http.close()

    def _model_name(self) -> str:
        if self._model is None:
            answer = self._call("GET", "/v1/models", headers=self._api)
            try:
                self._model = str(answer["data"][0]["id"])
            except (KeyError, TypeError, IndexError) as error:
                raise self._protocol_error(error) from error
        return self._model

    def _admin_post(
        self, action: str, version: str, fence: int, policy: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        body = {"version": version, "fence": fence, **(policy or {})}
        seconds = self.publish_seconds + self.in_flight_seconds
        # Longer than the watch: who is given up on is said to hang, and the thread still comes to an end.
        timeout = httpx.Timeout(seconds + WATCH_SECONDS, connect=CONNECT_SECONDS)
        answer: Future[dict[str, Any]] = Future()

        def ask() -> None:
            try:
                path = f"/plugins/factd/{action}"
                answer.set_result(self._call("POST", path, headers=self._admin, json=body, timeout=timeout))
            except Exception as error:
                answer.set_exception(error)

        # A daemon: what is given up on must not keep a worker that stops.
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

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServingError(
                f"{self.name} does not answer ({error!r}); is vLLM running?",
                retryable=True,
                code="unreachable",
            ) from error
        if answer.status_code != 200:
            raise self._refusal(answer)
        try:
            content = answer.json()
        except ValueError as error:
            raise self._protocol_error(error) from error
        if not isinstance(content, dict):
            raise self._protocol_error("the answer is not a JSON object")
        return content

    def _refusal(self, answer: httpx.Response) -> ServingError:
        status = answer.status_code
        try:
            error = answer.json()["error"]
            code, message, retryable = str(error["code"]), str(error["message"]), bool(error["retryable"])
        except (ValueError, KeyError, TypeError):
            code, message = "protocol", answer.text[:200]
            retryable = status >= 500 or status in (408, 425, 429)
            if status in (401, 403):
                code, message = "unauthorised", "the token is wrong; compare FACTD_ADMIN_TOKEN on both sides"
            elif status == 404 and "/plugins/" in str(answer.request.url):
                message = "the factd plugin is not loaded; set VLLM_PLUGINS=factd for vLLM"
        return ServingError(f"{self.name}: {message}", retryable=retryable, code=code, status=status)

    def _protocol_error(self, error: object) -> ServingError:
        return ServingError(
            f"{self.name} sent an unexpected answer: {error!r}", retryable=False, code="protocol"
        )


class StubServing:
    """A replica in memory, for unit tests.

    Attributes:
        answer: called by `complete` with (served version, prompt).
        log_prob: called by `log_probs` with (served version, passage): of each of its tokens.
        hashes: called by `served` with the version; a store's `weight_sha256` makes an honest replica.
        failures: errors to raise, in order, by the next calls of `publish`.
        published: every version published, in order.
    """

    def __init__(
        self,
        answer: Callable[[str, str], str] = lambda version, prompt: version,
        hashes: Callable[[str], Mapping[str, str]] = lambda version: {},
        log_prob: Callable[[str, Sequence[int]], float] = lambda version, passage: 0.0,
        name: str = "stub",
    ) -> None:
        self.name = name
        self.answer, self.hashes, self.log_prob = answer, hashes, log_prob
        self.failures: list[ServingError] = []
        self.published: list[str] = []
        self.staged: list[str] = []
        self.version, self.fence, self.alive = UNPUBLISHED, 0, True

    def restart(self) -> None:
        """Forgets everything, as a vLLM restart does."""
        self.version, self.fence = UNPUBLISHED, 0

    def _admit(self, fence: int) -> None:
        if not self.alive:
            raise ServingError("stub is down", retryable=True, code="unreachable")
        if fence < self.fence:
            raise ServingError(
                f"fence {fence} < {self.fence}", retryable=False, code="stale_fence", status=409
            )
        self.fence = fence

    def stage(self, version: str, fence: int) -> None:
        self._admit(fence)
        self.staged.append(version)

    def publish(self, version: str, fence: int) -> PublishResult:
        self._admit(fence)
        if self.failures:
            raise self.failures.pop(0)
        self.version = version
        self.published.append(version)
        return PublishResult(version, 0.0, 0.0)

    def served(self) -> Served:
        self._admit(self.fence)
        known = {} if self.version == UNPUBLISHED else self.hashes(self.version)
        return Served(self.version, self.fence, known)

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        self._admit(self.fence)
        return [self.answer(self.version, prompt) for prompt in prompts]

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        self._admit(self.fence)
        return [[self.log_prob(self.version, passage)] * len(passage) for passage in passages]

    def healthy(self) -> bool:
        return self.alive

    def close(self) -> None:
        pass
