"""What the daemon needs from a model server, by capability: reports, serves, chats, scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from daemon.core.errors import SlowError

#: codes of a replica that does not finish a publication: this one, or still an earlier one
HUNG, BUSY = "hung", "busy"
#: code of a replica that took longer than FACTD_ANSWER_SECONDS to answer
SLOW = "slow"


class ServingError(Exception):
    """Raised when a replica did not do what was asked.

    Attributes:
        retryable: whether the same request may succeed later (replica down, restarting, overloaded);
            False when the version or the caller is at fault.
        code: the plugin's code ("refused", "missing", "stale_fence", "swap_failed", "busy"), or
            "unreachable", "hung", "slow", "unauthorised", "protocol".
        status: HTTP status, None when there was no answer.
    """

    def __init__(self, message: str, *, retryable: bool, code: str, status: int | None = None) -> None:
        self.retryable, self.code, self.status = retryable, code, status
        super().__init__(message)


def timed_out(error: Exception) -> bool:
    """Whether a replica took too long, which says nothing of the version or of its corrections."""
    return isinstance(error, SlowError) or (
        isinstance(error, ServingError) and error.code in (HUNG, BUSY, SLOW)
    )


@dataclass(frozen=True)
class PublishResult:
    """`seconds` includes reading and verifying. Generation stood still for `pause_seconds` only; before that,
    running requests had `drain_seconds` to end, while new ones waited."""

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
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])


class Reports(Protocol):
    """A replica that says what it serves: all that the HTTP API asks. `served` raises ServingError."""

    @property
    def name(self) -> str: ...
    def served(self) -> Served: ...
    def healthy(self) -> bool: ...


class Serves(Reports, Protocol):
    """A replica that takes versions and answers prompts. All methods but `healthy` raise ServingError."""

    def stage(self, version: str, fence: int) -> None:
        """Reads and checks a version without serving it."""
        ...

    def publish(self, version: str, fence: int) -> PublishResult:
        """Serves a version; the base is ``v000000``. Repeating it is harmless."""
        ...

    def complete(self, prompts: Sequence[str], max_tokens: int = 12) -> list[str]:
        """Greedy continuations of raw prompts, as served now."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Chats(Protocol):
    """A replica that answers chat messages, by the route that people's programs use."""

    def chat(self, messages: Sequence[str], max_tokens: int = 12) -> list[str]:
        """Greedy answers to messages of a user, each the first of its chat, as served now.

        Raises:
            ServingError: the replica does not answer.
        """
        ...


@runtime_checkable
class Scores(Protocol):
    """A replica that tells log-probabilities, so that what it computes can be proved."""

    @property
    def name(self) -> str: ...

    def log_probs(self, passages: Sequence[Sequence[int]]) -> list[list[float]]:
        """Log-probability of each token of each passage given those before it, as served now.

        The first token has none before it: its place holds 0.

        Raises:
            ServingError: the replica does not answer.
        """
        ...


@dataclass(frozen=True)
class Piece:
    """What one rank made of a challenge to one matrix.

    Attributes:
        part: the rank holds the whole matrix; or a slice of its columns, so that ranks add up; or some rows.
        shape: [vectors, rows].
        products: float32, little-endian.
    """

    part: Literal["whole", "sum", "rows"]
    shape: tuple[int, int]
    products: bytes


@dataclass(frozen=True)
class Products:
    """What a replica's matrices made of a challenge.

    Attributes:
        dtype: torch's name of the dtype it is served in.
        ranks: of each rank, tensor name → its piece.
    """

    dtype: str
    ranks: Sequence[Mapping[str, Piece]]


@runtime_checkable
class Multiplies(Protocol):
    """A replica that multiplies with its matrices as it holds them."""

    @property
    def name(self) -> str: ...

    def products(self, version: str, seed: int, tensors: Sequence[str]) -> Products:
        """What the matrices make of `editing.memory.products.signs`.

        Raises:
            ServingError: it does not answer, or serves another version.
        """
        ...
