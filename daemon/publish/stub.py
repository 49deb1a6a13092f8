"""A replica in memory, for tests and for benchmarks that need no server."""

from collections.abc import Callable, Mapping, Sequence

from daemon.core.publication import UNPUBLISHED
from daemon.publish.serving import PublishResult, Served, ServingError


class StubServing:
    """A replica that serves and scores what it is told to.

    Attributes:
        answer: called by `complete` and `chat` with (served version, text).
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
        known: Mapping[str, str] = {} if self.version == UNPUBLISHED else self.hashes(self.version)
        return Served(self.version, self.fence, known)

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        self._admit(self.fence)
        return [self.answer(self.version, prompt) for prompt in prompts]

    def chat(self, messages: Sequence[str], max_tokens: int = 12) -> list[str]:
        return self.complete(messages, max_tokens)

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        self._admit(self.fence)
        return [[self.log_prob(self.version, passage)] * len(passage) for passage in passages]

    def healthy(self) -> bool:
        return self.alive

    def close(self) -> None:
        pass
