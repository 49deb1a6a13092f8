"""Value optimisation: the residual-stream change δ that makes the model say a fact.

Source: MEMIT (arXiv 2210.07229) eq. 16 with the KL and weight-decay terms of its implementation. Other
methods differ in when they stop, what they hold δ to (`editing.descent`), and PMET in a second change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.descent import DENSE_STEPS, Barred, Compressed, Evaluation, Finish, Restraint, descend
from editing.facts import SLOT, Fact
from editing.forward import Suffixes, capture, finish, suffixes
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
        finish: when a fact is done: "loss" (below `stop`), or the conditions of ENCORE ("argmax"), PMET
            ("preserved") and DeltaEdit ("probable").
        extra: evaluations still made after a fact is done.
        attention: whether a second change, beside the attention's output and not written, helps (PMET).
        compressed: whether δ moves few dimensions only, found in a first descent (EAC).
        kept: share of the dimensions that it then moves.
        unedited: whether a value is found on the unedited model, so that it follows from its fact alone
            (NSE's code), or on the model as it is (MEMIT).
        rows: how many prompts are run at once; bounds memory, does not change results.
    """

    steps: int = 20
    rate: float = 0.5
    clamp: float = 0.75
    decay: float = 0.5
    kl: float = 0.0625
    stop: float = 0.05
    finish: Finish = "loss"
    extra: int = 0
    attention: bool = False
    compressed: bool = False
    kept: float = 0.05
    unedited: bool = False
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

    def of_outputs(self) -> "Values":
        """The same as if the residual stream were the MLP's output alone."""
        return replace(self, hidden=self.output)

    def select(self, facts: Tensor) -> "Values":
        """The facts given, in that order."""
        return Values(*(getattr(self, name)[..., facts] for name in _VALUE_FIELDS))

    @staticmethod
    def joined(parts: Sequence["Values"]) -> "Values":
        return Values(*(torch.cat([getattr(part, name) for part in parts], dim=-1) for name in _VALUE_FIELDS))


_VALUE_FIELDS = ("delta", "hidden", "output", "loss", "steps")


@dataclass
class _Rows:
    """The prompts of the facts still being optimised: an `Objective`.

    Facts that share their value make one unit.

    Attributes:
        part: suffixes of the rewriting prompts, all contexts of a fact and facts of a unit together.
        owner: [rows] index of the unit a row belongs to.
        row, step, token, weight: [k] where each target token is predicted, which one it is, and its
            share in the unit's mean loss.
        essence: suffixes of the units' essence prompts, one position each, in the units' order.
        before: [m, vocabulary] what the model answered to them.
        kl: weight of the divergence from it.
    """

    loaded: LoadedModel
    part: Suffixes
    owner: Tensor
    row: Tensor
    step: Tensor
    token: Tensor
    weight: Tensor
    essence: Suffixes
    before: Tensor
    kl: float

    def evaluate(self, delta: Tensor) -> Evaluation:
        """`delta` is [m, d] float32."""
        hidden = _moved(self.part.hidden, delta[self.owner])
        log_p = finish(self.loaded, self.part, hidden, self.row, self.step)
        unit, found = self.owner[self.row], log_p.gather(1, self.token[:, None])[:, 0]
        none = torch.zeros(len(delta), device=delta.device)
        nll = none.index_add(0, unit, -found * self.weight)
        missed = none.index_add(0, unit, (log_p.detach().argmax(1) != self.token).float())
        now = _first_answers(self.loaded, self.essence, _moved(self.essence.hidden, delta))
        kl = self.kl * (now.exp() * (now - self.before)).sum(1)
        return Evaluation(nll, kl, missed == 0)

    def first_rows(self) -> Tensor:
        """The row of each unit's first bare prompt, [m]."""
        new = torch.ones_like(self.owner, dtype=torch.bool)
        new[1:] = self.owner[1:] != self.owner[:-1]
        return new.nonzero()[:, 0]

    def select(self, facts: Tensor) -> "_Rows":
        """Only the units given (ascending indices), renumbered from 0."""
        device = facts.device
        new_owner = torch.full((len(self.before),), -1, device=device)
        new_owner[facts] = torch.arange(len(facts), device=device)
        rows = (new_owner[self.owner] >= 0).nonzero()[:, 0]
        new_row = torch.full((len(self.owner),), -1, device=device)
        new_row[rows] = torch.arange(len(rows), device=device)
        kept = new_row[self.row] >= 0
        return _Rows(
            self.loaded,
            self.part.select(rows),
            new_owner[self.owner[rows]],
            new_row[self.row[kept]],
            self.step[kept],
            self.token[kept],
            self.weight[kept],
            self.essence.select(facts),
            self.before[facts],
            self.kl,
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
    *,
    barred: Barred | None = None,
    merged: bool = False,
) -> Values:
    """δ at the output of block `layer` for each fact.

    Args:
        contexts: texts put before the prompt; the first must be empty (the bare prompt).
        done: called with the fraction of facts done.
        barred: directions that some facts' δ must avoid.
        merged: whether facts of one unit get one value that serves all (MEMIT-Merge).

    Raises:
        FactError: a fact cannot be tokenised as needed.
    """
    found = units(facts) if merged else [[i] for i in range(len(facts))]
    # Facts of like length share a batch, so that little of it is padding.
    order = sorted(found, key=lambda unit: max(_suffix_length(loaded, facts[i]) for i in unit))
    size = max(1, options.rows // len(contexts))
    parts = []
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        first = torch.tensor([unit[0] for unit in chunk], device=loaded.device)
        restraint = barred.select(first) if barred else Restraint()
        values = _optimise_chunk(
            loaded, [[facts[i] for i in unit] for unit in chunk], layer, contexts, options, restraint
        )
        parts.append(values)
        done(min(1.0, (start + size) / len(order)))
    unit_of = [place for place, unit in enumerate(order) for _ in unit]
    back = torch.tensor([i for unit in order for i in unit], device=loaded.device).argsort()
    return Values.joined(parts).select(torch.tensor(unit_of, device=loaded.device)[back])


def units(facts: Sequence[Fact]) -> list[list[int]]:
    """Indices of the facts, those together whose prompts are alike up to the subject's end.

    Their keys are the same, so that only one value can be written for all (MEMIT-Merge, arXiv 2502.07322).
    """
    found: dict[tuple[str, str], list[int]] = {}
    for i, fact in enumerate(facts):
        found.setdefault((fact.subject, fact.prompt.split(SLOT)[0]), []).append(i)
    return list(found.values())


def _suffix_length(loaded: LoadedModel, fact: Fact) -> int:
    prompt = encode(loaded.tokenizer, fact)
    return len(prompt.ids) - prompt.subject_last


def _rows(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
) -> _Rows:
    prompts, owner = [], []
    row, step, token, weight = [], [], [], []
    for unit, facts in enumerate(units):
        for fact in facts:
            for context in contexts:
                prompt = encode(loaded.tokenizer, fact, context)
                for position in range(prompt.target_start, len(prompt.ids)):
                    row.append(len(prompts))
                    step.append(position - 1 - prompt.subject_last)
                    token.append(prompt.ids[position])
                    share = (len(prompt.ids) - prompt.target_start) * len(contexts) * len(facts)
                    weight.append(1.0 / share)
                prompts.append(prompt)
                owner.append(unit)
    # The last target token is predicted, never read; of an essence prompt only the subject is.
    read = [replace(prompt, ids=prompt.ids[:-1]) for prompt in prompts]
    essence = [
        encode(loaded.tokenizer, Fact(f.subject, ESSENCE, f.target), target=False, allow_first=True)
        for f, *_ in units
    ]
    essence = [replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]) for prompt in essence]
    subjects = suffixes(loaded, essence, layer)
    with torch.no_grad():
        before = _first_answers(loaded, subjects, subjects.hidden)
    device = loaded.device
    return _Rows(
        loaded,
        suffixes(loaded, read, layer),
        torch.tensor(owner, device=device),
        torch.tensor(row, device=device),
        torch.tensor(step, device=device),
        torch.tensor(token, device=device),
        torch.tensor(weight, device=device),
        subjects,
        before,
        options.kl,
    )


def _optimise_chunk(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    restraint: Restraint,
) -> Values:
    rows = _rows(loaded, units, layer, contexts, options)
    first = rows.first_rows()
    hidden, output = rows.part.hidden[first, 0].float(), rows.part.output[first]
    norms = hidden.norm(dim=1, keepdim=True)
    if options.attention:
        # What the block adds to its input less the MLP's output is the attention's. Its change is added
        # where it joins the block's output: exact for GPT-J's parallel blocks, PMET's own; elsewhere its
        # way through the MLP of the same block is left out.
        bare = [encode(loaded.tokenizer, facts[0], target=False) for facts in units]
        below = capture(loaded, bare, [layer - 1]).hidden[layer - 1].T
        norms = torch.stack([output.norm(dim=1), (hidden - below - output).norm(dim=1)], dim=1)
    spent = 0
    if options.compressed:
        dense = descend(rows, hidden.shape[1], norms, replace(options, steps=DENSE_STEPS), restraint)
        restraint = Compressed(dense, options.kept)
        options = replace(options, steps=max(1, options.steps - DENSE_STEPS))
        spent = dense.steps
    found = descend(rows, hidden.shape[1], norms, options, restraint)
    return Values(found.delta[:, 0].T, hidden.T, output.T, found.loss, found.steps + spent)
