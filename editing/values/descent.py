"""Gradient descent on δ, all facts of a chunk at once, each as if alone.

Losses are summed and Adam is elementwise, so that a fact's δ does not depend on its company; a fact that
is done stands still, and its prompts are dropped when half are done.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from editing.typed import norms as lengths
from editing.values.options import Finish, ValueOptions

#: PMET: what a target that is the most probable already weighs in the loss, and the weighted KL (nats)
#: with which it may stay as it is.
EASED, PRESERVED = 0.1, 0.01
#: DeltaEdit: a target so probable needs no further step.
PROBABLE = 0.98


@dataclass(frozen=True)
class Evaluation:
    """One look at m facts.

    Attributes:
        nll: mean negative log-likelihood of the target tokens over all rewriting prompts, nats [m].
        kl: weighted divergence on the essence prompt, nats [m].
        top: whether every target token of every prompt, the bare one too, is the most probable, by the lead
            that is asked for [m].
    """

    nll: Tensor
    kl: Tensor
    top: Tensor


#: (evaluation, loss [m], loss to stop at) → which facts are done.
FINISHED: dict[Finish, Callable[[Evaluation, Tensor, float], Tensor]] = {
    # MEMIT.
    "loss": lambda _seen, loss, stop: loss < stop,
    # ENCORE's most-probable early stopping.
    "argmax": lambda seen, _loss, _stop: seen.top,
    # PMET.
    "preserved": lambda seen, loss, stop: (loss < stop) | (seen.top & (seen.kl <= PRESERVED)),
    # DeltaEdit, of the geometric mean over tokens and prompts.
    "probable": lambda seen, loss, stop: (loss < stop) | (seen.nll < -math.log(PROBABLE)),
}


class Objective(Protocol):
    """The prompts of some facts, which can be asked again with their δ.

    Attributes:
        turns: evaluations until all prompts were asked; the gradient of one is that of those it asked.
    """

    @property
    def turns(self) -> int: ...

    def evaluate(self, delta: Tensor) -> Evaluation:
        """For δ [m, d]."""
        ...

    def select(self, facts: Tensor) -> "Objective": ...


class Restraint:
    """What else δ [m, v, d] is held to, by fact; here nothing."""

    def penalty(self, facts: Tensor, delta: Tensor) -> Tensor | float:
        """Added to the loss [m]."""
        return 0.0

    def held(self, facts: Tensor, delta: Tensor) -> Tensor:
        """The nearest δ that is allowed."""
        return delta


@dataclass(frozen=True)
class Barred(Restraint):
    """δ of the facts flagged stays orthogonal to some directions Q [d, k] (DeltaEdit)."""

    directions: Tensor
    flagged: Tensor

    def held(self, facts: Tensor, delta: Tensor) -> Tensor:
        inside = (delta @ self.directions) @ self.directions.T
        return delta - inside * self.flagged[facts, None, None]

    def select(self, facts: Tensor) -> "Barred":
        return Barred(self.directions, self.flagged[facts])


#: EAC: weight of the penalty, and evaluations of the first, dense descent.
SPARSITY, DENSE_STEPS = 5e-7, 10


class Compressed(Restraint):
    """δ moves only the dimensions that mattered in a first descent, the less they did the dearer (EAC).

    Saliency is |mean gradient ⊙ δ|.
    """

    def __init__(self, first: "Descended", share: float) -> None:
        saliency = (first.gradient * first.delta).abs()
        count = max(1, int(share * saliency.shape[-1]))
        kept = saliency.topk(count, dim=-1)
        self._mask = torch.zeros_like(saliency).scatter(-1, kept.indices, 1.0)
        # An entry without saliency must not cost infinitely much.
        self._price = SPARSITY * self._mask / (saliency + 1e-6)

    def penalty(self, facts: Tensor, delta: Tensor) -> Tensor:
        return (self._price[facts] * delta.abs()).sum((1, 2))

    def held(self, facts: Tensor, delta: Tensor) -> Tensor:
        return delta * self._mask[facts]


@dataclass(frozen=True)
class Descended:
    """δ [n, v, d] with its mean gradient; the last loss, nats [n]; and how often it was evaluated [n].

    With `extra` the last loss is that of one update before: nothing depends on it any more.
    """

    delta: Tensor
    gradient: Tensor
    loss: Tensor
    steps: Tensor


class _Adam:
    """First and second moments of δ's gradient, [n, v, d]; facts may be at rest.

    Of prompts asked in turn the second moment is that of the mean over the last round: what they do not
    agree in would shorten every step, and facts that need all of them would not be done in time.
    """

    def __init__(self, like: Tensor, rate: float, turns: int) -> None:
        self._first, self._second = torch.zeros_like(like), torch.zeros_like(like)
        self._round = torch.zeros(turns, *like.shape, device=like.device)
        self._rate = rate

    def change(self, facts: Tensor, gradient: Tensor, step: int) -> Tensor:
        turns = len(self._round)
        self._round[(step - 1) % turns, facts] = gradient
        whole = self._round[:, facts].sum(0) / min(step, turns)
        self._first[facts] = 0.9 * self._first[facts] + 0.1 * gradient
        self._second[facts] = 0.999 * self._second[facts] + 0.001 * whole**2
        mean, square = self._first[facts] / (1 - 0.9**step), self._second[facts] / (1 - 0.999**step)
        return -self._rate * mean / (square.sqrt() + 1e-8)


def descend(
    objective: Objective, size: int, norms: Tensor, options: ValueOptions, restraint: Restraint
) -> Descended:
    """Minimises ease · NLL + KL + decay · Σᵥ‖δᵥ‖ / normᵥ² + penalty with Adam, from δ = 0.

    Args:
        size: d.
        norms: [n, v], of what each of a fact's v changes is added to; ‖δᵥ‖ ≤ clamp · normᵥ.
    """
    count, device = len(norms), norms.device
    delta = torch.zeros(*norms.shape, size, device=device)
    gradients = torch.zeros_like(delta)
    adam = _Adam(delta, options.rate, objective.turns)
    loss, ease = torch.zeros(count, device=device), torch.ones(count, device=device)
    steps = torch.zeros(count, dtype=torch.long, device=device)
    updates = torch.zeros_like(steps)
    # The step at which a fact first met the condition to stop.
    met = torch.full_like(steps, options.steps)
    running = torch.arange(count, device=device)
    for step in range(1, options.steps + 1):
        current = delta[running].requires_grad_(True)
        seen = objective.evaluate(current.sum(1))
        total = ease[running] * seen.nll + seen.kl + restraint.penalty(running, current)
        total = total + options.decay * (lengths(current, 2) / norms[running] ** 2).sum(1)
        loss[running], steps[running] = total.detach(), step
        done = FINISHED[options.finish](seen, total.detach(), options.stop)
        met[running] = torch.where(done, step, options.steps).min(met[running])
        if options.finish == "preserved":
            ease[running] = torch.where(seen.top, EASED, 1.0)
        kept = step < met[running] + options.extra
        if step == options.steps or not kept.any():
            break
        gradient, moving = torch.autograd.grad(total.sum(), current)[0][kept], running[kept]
        # Held too: Adam's step along a gradient with a forbidden part would not be the nearest allowed one.
        gradient = restraint.held(moving, gradient)
        gradients[moving] += gradient
        updates[moving] += 1
        moved = restraint.held(moving, delta[moving] + adam.change(moving, gradient, step))
        limit = options.clamp * norms[moving]
        delta[moving] = moved * (limit / lengths(moved, 2).clamp(min=1e-12)).clamp(max=1.0)[..., None]
        # What follows a fact's last update would only be told.
        asked = kept & (step + 1 < met[running] + max(options.extra, 1))
        if not asked.any():
            break
        if not asked.all():
            # A copy of what is kept; little beside an evaluation of what is finished.
            objective, running = objective.select(asked.nonzero()[:, 0]), running[asked]
    return Descended(delta, gradients / updates.clamp(min=1)[:, None, None], loss, steps)
