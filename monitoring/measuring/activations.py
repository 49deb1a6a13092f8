"""Norms and subspaces of the hidden states at every layer: the two signatures of norm growth.

While ‖W‖ grows under edits, the norms of the activations fall and their subspace moves. Source: the
norm-growth study, arXiv 2502.19416. Recorded by hooks during forward passes that are run anyway.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editing.model.families import CausalModel, family_of
from editing.model.forward import Output, stream
from editing.typed import eigh, norms, orthonormal

#: Hidden states of each layer that its subspace is estimated from, and its rank. Eight directions hold
#: most of the variance of text; 96 states make them steady and cost next to nothing.
SUBSPACE_STATES = 96
SUBSPACE_RANK = 8


@dataclass(frozen=True)
class Activations:
    """Hidden states of the probes at every layer, summed up.

    Attributes:
        norms: mean ‖h^l‖ over tokens, float64 [layers].
        bases: Q, orthonormal leading principal directions of h^l, float32 [layers, d, r].
        shares: ‖m^l‖ / Σ_j (‖a^j‖ + ‖m^j‖), mean norms of what MLP and attention add, float64 [layers].
    """

    norms: Tensor
    bases: Tensor
    shares: Tensor


@dataclass
class Recording:
    """Fills during forward passes; `summary` when they are done.

    Attributes:
        states: layer → hidden states [tokens, d] of each pass.
        mlp, attention: layer → norms [tokens] of what they put out.
        keys: tensor name → inputs [tokens, d_in] of its projection.
        counted: [rows, length] bool, the tokens that count in the pass under way.
    """

    states: dict[int, list[Tensor]] = field(default_factory=dict[int, list[Tensor]])
    mlp: dict[int, list[Tensor]] = field(default_factory=dict[int, list[Tensor]])
    attention: dict[int, list[Tensor]] = field(default_factory=dict[int, list[Tensor]])
    keys: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    counted: Tensor = field(default_factory=lambda: torch.empty(0))

    def on_pass(self, _body: object, _arguments: object, named: dict[str, Any]) -> None:
        """Notes which tokens count in the pass that begins: all but padding and the first. The first token's
        state is an attention sink: alike for all texts, and many times larger than any other."""
        self.counted = named["attention_mask"].bool().clone()
        self.counted[:, 0] = False

    def hook(self, into: dict[int, list[Tensor]], layer: int) -> Callable[[Any, Any, Any], None]:
        def record(_module: object, _inputs: object, output: Output) -> None:
            counted = stream(output)[self.counted].float()  # [tokens, d]
            into.setdefault(layer, []).append(counted if into is self.states else norms(counted, 1))

        return record

    def key_hook(self, name: str) -> Callable[[Any, Any], None]:
        def record(_module: object, inputs: tuple[Tensor, ...]) -> None:
            self.keys.setdefault(name, []).append(inputs[0][self.counted].float())

        return record

    def held_keys(self, name: str, count: int) -> Tensor:
        """At most `count` evenly spaced inputs of the projection that holds `name`: [d_in, n] on the CPU."""
        found = torch.cat(self.keys[name])
        return found[:: max(1, len(found) // count)][:count].T.contiguous().cpu()

    def summary(self) -> Activations:
        layers = sorted(self.states)
        states = [torch.cat(self.states[layer]) for layer in layers]
        lengths = torch.stack([norms(each, 1).double().mean() for each in states])
        bases = torch.stack([principal_directions(each) for each in states])
        mlp, attention = (
            torch.stack([torch.cat(found[layer]).double().mean() for layer in layers])
            for found in (self.mlp, self.attention)
        )
        shares = mlp / (mlp + attention).sum()
        return Activations(lengths.cpu(), bases.cpu(), shares.cpu())


def principal_directions(states: Tensor, rank: int = SUBSPACE_RANK) -> Tensor:
    """Q [d, r]: leading principal directions of states [tokens, d], about their mean.

    By the Gram matrix of at most `SUBSPACE_STATES` evenly spaced states, n: 2 n² d + O(n³) flops.
    """
    step = max(1, len(states) // SUBSPACE_STATES)
    chosen = states[::step][:SUBSPACE_STATES].double()
    centred = chosen - chosen.mean(dim=0)
    rank = min(rank, len(centred) - 1, centred.shape[1])
    if not torch.isfinite(centred).all():
        return torch.full((centred.shape[1], rank), torch.nan)
    _, vectors = eigh(centred @ centred.T)
    return orthonormal(centred.T @ vectors.flip(1)[:, :rank]).float()


def subspace_similarities(base: Activations, now: Activations) -> Tensor:
    """‖Q₀ᵀ Q‖_F² / r for each layer, one less the shift: float64 [layers]."""
    overlaps = base.bases.double().transpose(1, 2) @ now.bases.double()
    return ((overlaps**2).sum(dim=(1, 2)) / base.bases.shape[2]).clamp_max(1)


@contextmanager
def recorded(model: CausalModel, tensor_names: Sequence[str], keys: bool = False) -> Generator[Recording]:
    """Records every layer of `model` inside the block, with `keys` also the inputs of the projections
    that hold `tensor_names`."""
    recording = Recording()
    family = family_of(model)
    with ExitStack() as hooks:
        start = model.base_model.register_forward_pre_hook(recording.on_pass, with_kwargs=True)
        hooks.callback(start.remove)
        for name in tensor_names if keys else ():
            module = model.get_submodule(name.rpartition(".")[0])
            hooks.callback(module.register_forward_pre_hook(recording.key_hook(name)).remove)
        for layer, block in enumerate(model.get_submodule(family.layers)):
            watched = [
                (block, recording.states),
                (block.get_submodule(family.mlp), recording.mlp),
                (block.get_submodule(family.attention), recording.attention),
            ]
            for module, into in watched:
                hooks.callback(module.register_forward_hook(recording.hook(into, layer)).remove)
        yield recording
