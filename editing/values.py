"""Value optimisation: the residual-stream change δ that makes the model say a fact.

Source: MEMIT (arXiv 2210.07229) eq. 16 with the KL and weight-decay terms of its implementation.
Batched over facts; each fact's δ is optimised as if alone (losses are summed, Adam is elementwise).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.facts import Fact
from editing.forward import Suffixes, finish, suffixes
from editing.model import LoadedModel
from editing.tokens import encode

#: MEMIT's prompt whose continuation must not change: what the subject is.
ESSENCE = "{} is a"


@dataclass(frozen=True)
class ValueOptions:
    """How δ is optimised. Defaults: MEMIT's for GPT-2 XL, the smallest model with published ones.

    Attributes:
        steps: evaluations of the loss at most (one update less).
        rate: Adam's learning rate.
        clamp: ‖δ‖ is held below `clamp` · ‖h₀‖.
        decay: weight of ‖δ‖ / ‖h₀‖².
        kl: weight of KL(now ‖ before) on the essence prompt.
        stop: a fact is done when its loss is below this (nats).
        rows: how many prompts are run at once; bounds memory, does not change results.
    """

    steps: int = 20
    rate: float = 0.5
    clamp: float = 0.75
    decay: float = 0.5
    kl: float = 0.0625
    stop: float = 0.05
    rows: int = 96


@dataclass(frozen=True)
class Values:
    """Result for n facts: δ, h₀ and v₀ are [d, n] float32; loss in nats and steps are [n].

    h₀ is the residual stream and v₀ the MLP's output at the subject's last token of the bare prompt.
    """

    delta: Tensor
    hidden: Tensor
    output: Tensor
    loss: Tensor
    steps: Tensor

    def select(self, facts: Tensor) -> "Values":
        """The facts given, in that order."""
        return Values(*(getattr(self, name)[..., facts] for name in _VALUE_FIELDS))

    @staticmethod
    def joined(parts: Sequence["Values"]) -> "Values":
        return Values(*(torch.cat([getattr(part, name) for part in parts], dim=-1) for name in _VALUE_FIELDS))


_VALUE_FIELDS = ("delta", "hidden", "output", "loss", "steps")


@dataclass
class _Rows:
    """The prompts of the facts still being optimised.

    Attributes:
        part: suffixes of the rewriting prompts, all contexts of a fact together.
        owner: [rows] index of the fact a row belongs to.
        row, step, token, weight: [k] where each target token is predicted, which one it is, and its
            share in the fact's mean loss.
        essence: suffixes of the facts' essence prompts, one position each, in the facts' order.
        before: [m, vocabulary] what the model answered to them.
    """

    part: Suffixes
    owner: Tensor
    row: Tensor
    step: Tensor
    token: Tensor
    weight: Tensor
    essence: Suffixes
    before: Tensor

    def losses(self, loaded: LoadedModel, delta: Tensor, options: ValueOptions) -> Tensor:
        """NLL + KL of each fact, [m]; `delta` is [m, d] float32."""
        log_p = finish(loaded, self.part, _moved(self.part.hidden, delta[self.owner]), self.row, self.step)
        nll = -log_p.gather(1, self.token[:, None])[:, 0] * self.weight
        total = torch.zeros(len(delta), device=delta.device).index_add(0, self.owner[self.row], nll)
        now = _first_answers(loaded, self.essence, _moved(self.essence.hidden, delta))
        return total + options.kl * (now.exp() * (now - self.before)).sum(1)

    def select(self, facts: Tensor) -> "_Rows":
        """Only the facts given (ascending indices), renumbered from 0."""
        device = facts.device
        new_owner = torch.full((len(self.before),), -1, device=device)
        new_owner[facts] = torch.arange(len(facts), device=device)
        rows = (new_owner[self.owner] >= 0).nonzero()[:, 0]
        new_row = torch.full((len(self.owner),), -1, device=device)
        new_row[rows] = torch.arange(len(rows), device=device)
        kept = new_row[self.row] >= 0
        return _Rows(
            self.part.select(rows),
            new_owner[self.owner[rows]],
            new_row[self.row[kept]],
            self.step[kept],
            self.token[kept],
            self.weight[kept],
            self.essence.select(facts),
            self.before[facts],
        )


def _moved(hidden: Tensor, delta: Tensor) -> Tensor:
    """`hidden` [rows, t, d] with `delta` [rows, d] added at its first position."""
    return torch.cat([hidden[:, :1] + delta[:, None].to(hidden.dtype), hidden[:, 1:]], dim=1)


def _first_answers(loaded: LoadedModel, part: Suffixes, hidden: Tensor) -> Tensor:
    """Log-probabilities [rows, vocabulary] after each row's first position."""
    rows = torch.arange(len(hidden), device=hidden.device)
    return finish(loaded, part, hidden, rows, torch.zeros_like(rows))


def optimise(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    done: Callable[[float], None] = lambda _fraction: None,
) -> Values:
    """δ at the output of block `layer` for each fact.

    Args:
        contexts: texts put before the prompt; the first must be empty (the bare prompt).
        done: called with the fraction of facts done.

    Raises:
        FactError: a fact cannot be tokenised as needed.
    """
    # Facts of like length share a batch, so that little of it is padding.
    order = sorted(range(len(facts)), key=lambda i: _suffix_length(loaded, facts[i]))
    size = max(1, options.rows // len(contexts))
    parts = []
    for start in range(0, len(order), size):
        chunk = [facts[i] for i in order[start : start + size]]
        parts.append(_optimise_chunk(loaded, chunk, layer, contexts, options))
        done(min(1.0, (start + size) / len(order)))
    back = torch.tensor(order, device=loaded.device).argsort()
    return Values.joined(parts).select(back)


def _suffix_length(loaded: LoadedModel, fact: Fact) -> int:
    prompt = encode(loaded.tokenizer, fact)
    return len(prompt.ids) - prompt.subject_last


def _rows(loaded: LoadedModel, facts: Sequence[Fact], layer: int, contexts: Sequence[str]) -> _Rows:
    prompts = [encode(loaded.tokenizer, fact, context) for fact in facts for context in contexts]
    row, step, token, weight = [], [], [], []
    for i, prompt in enumerate(prompts):
        for position in range(prompt.target_start, len(prompt.ids)):
            row.append(i)
            step.append(position - 1 - prompt.subject_last)
            token.append(prompt.ids[position])
            weight.append(1.0 / ((len(prompt.ids) - prompt.target_start) * len(contexts)))
    # The last target token is predicted, never read; of an essence prompt only the subject is.
    read = [replace(prompt, ids=prompt.ids[:-1]) for prompt in prompts]
    essence = [
        encode(loaded.tokenizer, Fact(f.subject, ESSENCE, f.target), target=False, allow_first=True)
        for f in facts
    ]
    essence = [replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]) for prompt in essence]
    subjects = suffixes(loaded, essence, layer)
    with torch.no_grad():
        before = _first_answers(loaded, subjects, subjects.hidden)
    device = loaded.device
    return _Rows(
        suffixes(loaded, read, layer),
        torch.arange(len(prompts), device=device) // len(contexts),
        torch.tensor(row, device=device),
        torch.tensor(step, device=device),
        torch.tensor(token, device=device),
        torch.tensor(weight, device=device),
        subjects,
        before,
    )


def _optimise_chunk(
    loaded: LoadedModel, facts: Sequence[Fact], layer: int, contexts: Sequence[str], options: ValueOptions
) -> Values:
    rows = _rows(loaded, facts, layer, contexts)
    hidden = rows.part.hidden[:: len(contexts), 0].float()
    output = rows.part.output[:: len(contexts)]
    norm = hidden.norm(dim=1)
    delta = torch.zeros_like(hidden)
    loss = torch.zeros(len(facts), device=loaded.device)
    steps = torch.zeros(len(facts), dtype=torch.long, device=loaded.device)
    first, second = torch.zeros_like(hidden), torch.zeros_like(hidden)
    # `running`: facts still being optimised; `held`: those whose rows are in `rows` (more than running
    # until it pays to drop the finished ones).
    running = held = torch.arange(len(facts), device=loaded.device)
    for step in range(1, options.steps + 1):
        current = delta[held].requires_grad_(True)
        objective = rows.losses(loaded, current, options)
        objective = objective + options.decay * current.norm(dim=1) / norm[held] ** 2
        value = objective.detach()
        here = torch.isin(held, running)
        loss[running], steps[running] = value[here], step
        running = held[here & ~(value < options.stop)]
        if step == options.steps or not len(running):
            break
        gradient = torch.autograd.grad(objective.sum(), current)[0]
        gradient = gradient[torch.isin(held, running)]
        first[running] = 0.9 * first[running] + 0.1 * gradient
        second[running] = 0.999 * second[running] + 0.001 * gradient**2
        mean, square = first[running] / (1 - 0.9**step), second[running] / (1 - 0.999**step)
        moved = delta[running] - options.rate * mean / (square.sqrt() + 1e-8)
        limit = options.clamp * norm[running]
        delta[running] = moved * (limit / moved.norm(dim=1).clamp(min=1e-12)).clamp(max=1.0)[:, None]
        if 2 * len(running) <= len(held):
            rows = rows.select(torch.isin(held, running).nonzero()[:, 0])
            held = running
    return Values(delta.T, hidden.T, output.T, loss, steps)
