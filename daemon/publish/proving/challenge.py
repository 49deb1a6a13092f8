"""The two halves of a proof: what a replica says, and what its matrices multiply to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from daemon.publish.proving.noise import Noise, allowed, allowed_product, within
from daemon.publish.proving.passages import Passage
from daemon.publish.serving import Multiplies, Piece, Products, Scores
from editing.memory.products import VECTORS, difference, signs


@dataclass(frozen=True)
class Challenge:
    """What replicas are asked, and the model in memory that says what is right.

    Attributes:
        weights: edited tensor → its float32 master [d, d_in].
        seed: of the vectors that the matrices multiply; another one each time.
    """

    passages: Sequence[Passage]
    weights: Mapping[str, Tensor]
    seed: int


# -- behaviour --------------------------------------------------------------------------------------


def heard(replica: Scores, passages: Sequence[Passage]) -> "Heard":
    """Asks the replica for the log-probabilities of all passages, in one request."""
    told = replica.log_probs([passage.ids for passage in passages])
    return Heard(passages, [_tokens(p, there) for p, there in zip(passages, told, strict=True)])


def _tokens(passage: Passage, there: Sequence[float]) -> list[float]:
    """There − here of each compared token; infinite where it is no number."""
    found = [a - b for a, b in zip(there[passage.first :], passage.log_probs, strict=True)]
    return [each if math.isfinite(each) else math.inf for each in found]


@dataclass(frozen=True)
class Heard:
    """What a replica said, less what the model in memory says, for each token."""

    passages: Sequence[Passage]
    tokens: Sequence[Sequence[float]]

    @property
    def means(self) -> list[float]:
        """Of each passage, the difference of its mean."""
        return [abs(sum(tokens) / len(tokens)) if tokens else 0.0 for tokens in self.tokens]

    @property
    def noise(self) -> Noise:
        """As numbers that can be kept, or compared with those kept."""
        worst = max((abs(each) for each in chain.from_iterable(self.tokens)), default=0.0)
        pairs = zip(self.passages, self.tokens, strict=True)
        unrelated = [each for passage, tokens in pairs if passage.probe for each in tokens]
        square = sum(each * each for each in unrelated) / max(1, len(unrelated))
        return Noise(max(self.means, default=0.0), worst, math.sqrt(square))

    def faults(self, measured: Noise | None) -> list[str]:
        """What differs by more than the noise explains, in words."""
        found, most = self.noise, allowed(measured)
        if within(found, most):
            return []
        means = self.means
        wrong = sum(not mean <= most.passage for mean in means)
        told = [
            f"{wrong} of {len(means)} passages differ, the worst by {found.passage:.2f} nats "
            f"({most.passage:.2f} allowed)"
        ]
        if not found.token <= most.token:
            told.append(f"a token differs by {found.token:.2f} nats ({most.token:.2f} allowed)")
        if not found.typical <= most.typical:
            told.append(
                f"tokens of unrelated text differ by {found.typical:.3f} nats on average "
                f"({most.typical:.3f} allowed)"
            )
        return told


# -- products ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Multiplied:
    """What a replica's matrices made of a challenge.

    Attributes:
        dtype: that they are served in.
        differences: tensor → how far its products are from the right ones, of the rank that is farthest.
        columns: tensor → of its matrix.
    """

    dtype: torch.dtype
    differences: Mapping[str, float]
    columns: Mapping[str, int]

    @property
    def worst(self) -> float:
        return max(self.differences.values(), default=0.0)

    def faults(self, measured: Noise | None) -> list[str]:
        """What no rounding explains, in words."""
        bounds = {name: allowed_product(measured, self.dtype, n) for name, n in self.columns.items()}
        wrong = {name: found for name, found in self.differences.items() if not found <= bounds[name]}
        if not wrong:
            return []
        worst = max(wrong, key=lambda name: wrong[name])
        return [
            f"{len(wrong)} of {len(bounds)} matrices do not multiply as the version's do: {worst} differs by "
            f"{wrong[worst]:.2%} of a row ({bounds[worst]:.4%} allowed, {VECTORS} vectors)"
        ]


def multiplied(replica: Multiplies, version: str, challenge: Challenge) -> Multiplied:
    """Has the replica multiply.

    Raises:
        ServingError: it does not answer, or serves another version.
    """
    told = replica.products(version, challenge.seed, list(challenge.weights))
    dtype = getattr(torch, told.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        dtype = torch.float32
    found: dict[str, float] = {}
    for name, master in challenge.weights.items():
        vectors, weight = signs(challenge.seed, name, master.shape[1]), master.detach().cpu().to(dtype)
        each = [difference(weight, parts, vectors) for parts in shared(told, name)]
        found[name] = max(each, default=math.inf)
    return Multiplied(dtype, found, {name: master.shape[1] for name, master in challenge.weights.items()})


def shared(told: Products, name: str) -> list[list[Tensor]]:
    """The products of the whole matrix, in parts that add up: once for each rank that has all of it."""
    pieces = [rank[name] for rank in told.ranks]
    tensors = [_tensor(piece) for piece in pieces]
    held = {piece.part for piece in pieces}
    if held == {"whole"}:
        return [[tensor] for tensor in tensors]
    if held == {"sum"}:
        return [tensors]
    if held == {"rows"} and len({len(tensor) for tensor in tensors}) == 1:
        return [[torch.cat(tensors, dim=1)]]
    return []  # ranks that disagree on how the matrix is shared compute nothing together


def _tensor(piece: Piece) -> Tensor:
    return torch.frombuffer(bytearray(piece.products), dtype=torch.float32).reshape(piece.shape)
