"""Baselines that train the edited weights themselves: ft all of their entries, lora two small factors.

Nothing is recorded but the facts and the resulting update, so no fact can be taken out again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from editing.facts import Fact
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.model.loaded import LoadedModel
from editing.solve.ridge import Factors, bounded
from editing.typed import backward, step
from editing.values.gradients import surprise

METHODS = {
    "ft": Method(None, placements=("spread", "single")),
    "lora": Method(None, placements=("spread", "single"), low_rank=True),
}


def tune(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layers: Sequence[int],
    p: Parameters,
    low_rank: bool,
    seed: int,
) -> tuple[dict[int, Factors], Tensor]:
    """Adam on the mean negative log-likelihood of the targets after their prompts.

    The update is added to each projection's output while it is trained: x ↦ Wx + A Bᵀx. For ft A is the
    identity and B the transposed dense update; for lora A [d, r] starts at zero and B [d_in, r] at random.

    Returns:
        Factors of each layer's update, and each fact's last loss in nats [n].
    """
    size, device, own = loaded.model.config.hidden_size, loaded.device, p.tuning
    generator = torch.Generator().manual_seed(seed)
    factors: dict[int, tuple[Tensor, Tensor]] = {}
    for layer in layers:
        d_in = loaded.projection(layer).weight.numel() // size
        if low_rank:
            random = torch.randn(d_in, own.tuning_rank, generator=generator) / d_in**0.5
            factors[layer] = torch.zeros(size, own.tuning_rank, device=device), random.to(device)
        else:
            factors[layer] = torch.eye(size, device=device), torch.zeros(d_in, size, device=device)
    trained = [b for _, b in factors.values()] + [a for a, _ in factors.values() if low_rank]
    for tensor in trained:
        tensor.requires_grad_(True)
    optimiser = torch.optim.Adam(trained, lr=own.tuning_rate)
    losses = torch.zeros(len(facts))
    with ExitStack() as hooks:
        for layer, update in factors.items():
            handle = loaded.projection(layer).register_forward_hook(added(update))
            hooks.callback(handle.remove)
        for _ in range(own.tuning_steps):
            optimiser.zero_grad()
            for start in range(0, len(facts), p.values.rows):
                part = slice(start, start + p.values.rows)
                loss = surprise(loaded, [loaded.encode(fact) for fact in facts[part]])
                backward(loss.sum() / len(facts))
                losses[part] = loss.detach().cpu()
            step(optimiser)
    return {layer: (a.detach().cpu(), b.detach().cpu()) for layer, (a, b) in factors.items()}, losses


def grown(old: Factors | None, new: Factors) -> Factors:
    """Both updates as one."""
    return new if old is None else bounded(*(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True)))


def added(update: Factors) -> Callable[..., Tensor]:
    """A forward hook that adds A Bᵀx to a projection's output."""

    def hook(_module: object, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        a, b = update
        return output + ((inputs[0].float() @ b) @ a.T).to(output.dtype)

    return hook
