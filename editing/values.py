"""Value optimisation: the residual-stream change δ that makes the model say a fact.

Source: MEMIT (arXiv 2210.07229) eq. 16 with the KL and weight-decay terms of its implementation.
Batched over facts; each fact's δ is optimised as if alone (losses are summed, Adam is elementwise).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.facts import Fact
from editing.forward import Suffixes, finish, suffixes
from editing.model import LoadedModel
from editing.tokens import Prompt, encode

#: MEMIT's prompt whose continuation must not change: what the subject is.
ESSENCE = "{} is a"


@dataclass(frozen=True)
class ValueOptions:
    """How δ is optimised. Defaults: MEMIT's for small models, with the learning rate of GPT-2 XL.

    Attributes:
        steps: evaluations of the loss at most (one update less).
        rate: Adam's learning rate.
        clamp: ‖δ‖ is held below `clamp` · ‖h₀‖.
        decay: weight of ‖δ‖ / ‖h₀‖².
        kl: weight of KL(now ‖ before) on the essence prompt.
        stop: a fact is done when its loss is below this (nats).
        facts: how many facts are optimised at once; bounds memory, does not change results.
    """

    steps: int = 25
    rate: float = 0.5
    clamp: float = 0.75
    decay: float = 0.5
    kl: float = 0.0625
    stop: float = 0.05
    facts: int = 16


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

    @staticmethod
    def joined(parts: Sequence["Values"]) -> "Values":
        names = ("delta", "hidden", "output", "loss", "steps")
        return Values(*(torch.cat([getattr(part, name) for part in parts], dim=-1) for name in names))


@dataclass
class _Rows:
    """The prompts of the facts still being optimised.

    Attributes:
        part: suffixes of all rows; per fact its contexts, then the essence prompt.
        owner: [rows] index of the fact a row belongs to.
        row, step, token, weight: [k] where each target token is predicted, which one it is, and its
            share in the fact's mean loss.
        essence: [m] the row of each fact's essence prompt; before: [m, vocabulary] its first answer.
    """

    part: Suffixes
    owner: Tensor
    row: Tensor
    step: Tensor
    token: Tensor
    weight: Tensor
    essence: Tensor
    before: Tensor

    def losses(self, loaded: LoadedModel, delta: Tensor, options: ValueOptions) -> Tensor:
        """NLL + KL of each fact, [m]; `delta` is [m, d] float32."""
        hidden = self.part.hidden
        changed = hidden[:, :1] + delta[self.owner][:, None].to(hidden.dtype)
        hidden = torch.cat([changed, hidden[:, 1:]], dim=1)
        rows = torch.cat([self.row, self.essence])
        steps = torch.cat([self.step, torch.zeros_like(self.essence)])
        log_p = finish(loaded, self.part, hidden, rows, steps)
        count = len(self.row)
        nll = -log_p[:count].gather(1, self.token[:, None])[:, 0] * self.weight
        total = torch.zeros(len(delta), device=delta.device).index_add(0, self.owner[self.row], nll)
        now = log_p[count:]
        return total + options.kl * (now.exp() * (now - self.before)).sum(1)

    def select(self, facts: Tensor) -> "_Rows":
        """Only the facts given (ascending indices), renumbered from 0."""
        new_owner = torch.full((int(self.owner.max()) + 1,), -1, device=facts.device)
        new_owner[facts] = torch.arange(len(facts), device=facts.device)
        rows = (new_owner[self.owner] >= 0).nonzero()[:, 0]
        new_row = torch.full((len(self.owner),), -1, device=facts.device)
        new_row[rows] = torch.arange(len(rows), device=facts.device)
        kept = new_row[self.row] >= 0
        return _Rows(
            self.part.select(rows),
            new_owner[self.owner[rows]],
            new_row[self.row[kept]],
            self.step[kept],
            self.token[kept],
            self.weight[kept],
            new_row[self.essence[facts]],
            self.before[facts],
        )


def optimise(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
) -> Values:
    """δ at the output of block `layer` for each fact.

    Args:
        contexts: texts put before the prompt; the first must be empty (the bare prompt).

    Raises:
        FactError: a fact cannot be tokenised as needed.
    """
    chunks = [facts[i : i + options.facts] for i in range(0, len(facts), options.facts)]
    return Values.joined([_optimise_chunk(loaded, chunk, layer, contexts, options) for chunk in chunks])


def _prompts(loaded: LoadedModel, fact: Fact, contexts: Sequence[str]) -> list[Prompt]:
    essence = Fact(fact.subject, ESSENCE, fact.target)
    return [encode(loaded.tokenizer, fact, context) for context in contexts] + [
        encode(loaded.tokenizer, essence, target=False, allow_first=True)
    ]


def _rows(loaded: LoadedModel, facts: Sequence[Fact], layer: int, contexts: Sequence[str]) -> _Rows:
    prompts = [_prompts(loaded, fact, contexts) for fact in facts]
    # The last target token is predicted, never read.
    flat = [
        Prompt(p.ids[:-1] if p.target_start < len(p.ids) else p.ids[: p.subject_last + 1], p.subject_last, 0)
        for group in prompts
        for p in group
    ]
    part = suffixes(loaded, flat, layer)
    row, step, token, weight = [], [], [], []
    per_fact = len(contexts) + 1
    for i, group in enumerate(prompts):
        for j, prompt in enumerate(group[:-1]):
            length = len(prompt.ids) - prompt.target_start
            for position in range(prompt.target_start, len(prompt.ids)):
                row.append(i * per_fact + j)
                step.append(position - 1 - prompt.subject_last)
                token.append(prompt.ids[position])
                weight.append(1.0 / (length * len(contexts)))
    device = loaded.device
    essence = torch.arange(len(facts), device=device) * per_fact + len(contexts)
    with torch.no_grad():
        before = finish(loaded, part, part.hidden, essence, torch.zeros_like(essence))
    return _Rows(
        part,
        torch.arange(len(flat), device=device) // per_fact,
        torch.tensor(row, device=device),
        torch.tensor(step, device=device),
        torch.tensor(token, device=device),
        torch.tensor(weight, device=device),
        essence,
        before,
    )


def _optimise_chunk(
    loaded: LoadedModel, facts: Sequence[Fact], layer: int, contexts: Sequence[str], options: ValueOptions
) -> Values:
    rows = _rows(loaded, facts, layer, contexts)
    per_fact = len(contexts) + 1
    hidden = rows.part.hidden[::per_fact, 0].float()
    output = rows.part.output[::per_fact]
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
