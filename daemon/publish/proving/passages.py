"""What a proof asks of the live facts, and the model in memory that says what is right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from editing.memory.state import EditState

Pair = tuple[str, str]

#: Passages of one request: so many facts of the batch, so many live ones spread over age, and one for each
#: edited layer. With the probes that is some sixty short prompts, which vLLM computes in a few steps.
BATCH_FACTS, LIVE_FACTS = 16, 16
#: Of so many columns it is looked where a layer's edit is largest.
CANDIDATES = 512


@dataclass(frozen=True)
class Passage:
    """Tokens, and what the model in memory says of them.

    Attributes:
        ids: all tokens.
        first: index of the first one that is compared.
        log_probs: of each compared one, nats.
        probe: no correction is about it.
    """

    ids: tuple[int, ...]
    first: int
    log_probs: tuple[float, ...]
    probe: bool = False


#: (prompt, continuation) pairs → what the model in memory says of them
Score = Callable[[Sequence[Pair]], Sequence[Passage]]


class Edited(Protocol):
    """What a proof needs of the editor: its state, and the weights that follow from it."""

    @property
    def state(self) -> EditState: ...
    @property
    def tensor_names(self) -> tuple[str, ...]: ...
    def weights(self) -> Mapping[str, Tensor]: ...


def chosen(state: EditState, tensors: Sequence[str], batch: Sequence[Pair]) -> list[Pair]:
    """Which facts are asked: of the batch, of each age, and where the edit of each layer shows most."""
    live = [(fact.text, fact.target) for fact in state.facts]
    most = [live[i] for i in shown(state, tensors)]
    return list(dict.fromkeys([*batch[:BATCH_FACTS], *most, *spread(live, LIVE_FACTS)]))


def spread(items: Sequence[Pair], count: int) -> list[Pair]:
    """At most `count` of them at even distances, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def shown(state: EditState, tensors: Sequence[str]) -> list[int]:
    """For each edited tensor, the fact whose key its change moves farthest: the largest ‖A Bᵀ k‖."""
    found: list[int] = []
    owners = state.owners
    for name in tensors:
        keys, factors = state.columns.get(f"{name}/keys"), state.factors.get(name)
        if keys is None or factors is None or not keys.shape[1]:
            continue  # methods that tune weights keep no keys
        step = -(-keys.shape[1] // CANDIDATES)
        moved = factors[0] @ (factors[1].T @ keys[:, ::step])
        found.append(int(owners[int(moved.square().sum(0).argmax()) * step]))
    return found
