"""LocFT-BF: breadth-first fine-tuning of one projection. Source: arXiv 2509.22072.

    min over one W:   Σ −log p(target ⊕ end | prompt)      over all live facts

by Adam in epochs of mini-batches over all facts, never one fact after the other.

Here every batch and every retraction trains anew, from the base over all live facts. The weights follow from
the set of facts, and a fact taken out is as if it had never been there. The price is that each takes as long
as all of them.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from editing.facts import Fact
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.methods.tuning import added
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.solve.crisp import LowCurvature
from editing.solve.ridge import Factors
from editing.typed import backward, step, whole_numbers
from editing.values.endings import ending
from editing.values.gradients import surprise

METHODS = {"locft": Method(None, placements=("single",), whole=True)}


def train(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    p: Parameters,
    crisp: LowCurvature | None = None,
) -> tuple[Factors, Tensor]:
    """Must be called on the unedited weights.

    Args:
        crisp: what gradients and steps are projected on (CrispEdit).

    Returns:
        Factors of the update: the identity and its transpose; and each fact's loss when it was last asked,
        nats [n].
    """
    # The same facts in another order are the same training.
    order = sorted(range(len(facts)), key=lambda i: (facts[i].subject, facts[i].prompt, facts[i].target))
    prompts = [ended(loaded, facts[i]) for i in order]
    size, own = loaded.model.config.hidden_size, p.tuning
    change = torch.zeros(loaded.ffn_width, size, device=loaded.device, requires_grad=True)
    identity = torch.eye(size, device=loaded.device)
    optimiser = torch.optim.Adam([change], lr=own.tuning_rate)
    losses, generator = torch.zeros(len(facts)), torch.Generator().manual_seed(0)
    with ExitStack() as hooks:
        handle = loaded.projection(layer).register_forward_hook(added((identity, change)))
        hooks.callback(handle.remove)
        for _ in range(own.tuning_steps):
            drawn = whole_numbers(torch.randperm(len(facts), generator=generator))
            for start in range(0, len(facts), own.tuning_batch):
                batch = drawn[start : start + own.tuning_batch]
                optimiser.zero_grad()
                for first in range(0, len(batch), p.values.rows):
                    rows = batch[first : first + p.values.rows]
                    loss = surprise(loaded, [prompts[i] for i in rows])
                    backward(loss.sum() / len(batch))
                    losses[[order[i] for i in rows]] = loss.detach().cpu()
                _moved(change, crisp, lambda: step(optimiser))
    return (identity.cpu(), change.detach().cpu()), losses


def _moved(change: Tensor, crisp: LowCurvature | None, move: Callable[[], None]) -> None:
    """Makes a step. Adam divides entry by entry and leaves the subspace: its step is projected too."""
    if crisp is None:
        return move()
    assert change.grad is not None
    change.grad.copy_(crisp.projected(change.grad.T).T)
    move()
    with torch.no_grad():
        change.copy_(crisp.projected(change.T).T)


def ended(loaded: LoadedModel, fact: Fact) -> Prompt:
    """The fact's prompt with its target and the tokenizer's end, if it has one."""
    prompt = loaded.encode(fact)
    return replace(prompt, ids=prompt.ids + ending(loaded, prompt, chat=False, ends="eos"))
