"""Value optimisation: the residual-stream change δ that makes the model say a fact.

Source: MEMIT (arXiv 2210.07229) eq. 16 with the KL and weight-decay terms of its implementation. Other
methods differ in when they stop, what they hold δ to (`editing.descent`), and PMET in a second change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.capture import capture
from editing.descent import DENSE_STEPS, Barred, Compressed, Evaluation, Finish, Objective, Restraint, descend
from editing.facts import Fact, units
from editing.model import LoadedModel
from editing.suffixes import Suffixes, finish, suffixes
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
        extra: updates still made after a fact is done.
        attention: whether a second change, beside the attention's output and not written, helps (PMET).
        compressed: whether δ moves few dimensions only, found in a first descent (EAC).
        kept: share of the dimensions that it then moves.
        unedited: whether a value is found on the unedited model, so that it follows from its fact alone
            (NSE's code), or on the model as it is (MEMIT).
        turns: into how many groups the prompts of a fact are divided, of which an evaluation asks the next:
            the contexts evenly, the essence prompt with the last ones. What counts is then the mean of what
            the groups said when last asked; its gradient is that of the group just asked. 1: all at once.
        rows: how many prompts an evaluation runs at once; bounds memory, does not change results.
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
    turns: int = 1
    rows: int = 96


@dataclass(frozen=True)
class Values:
    """Result for n facts: δ, h₀ and v₀ are [d, n] float32; loss in nats and steps (evaluations) are [n].

    h₀ is the residual stream and v₀ the MLP's output at the subject's last token of the bare prompt. Of
    prompts asked in turn the loss is the mean of what each group said when last asked; `losses` asks all.
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


def _log_p(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1)


class _Surprise(torch.autograd.Function):
    """−log p of one token in each row of logits [k, vocabulary]; for one backward pass.

    The gradient is made where the log-probabilities are: by way of `gather` it takes two more matrices of
    that size, which are a tenth of an evaluation.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, token: Tensor) -> Tensor:
        ctx.log_p, ctx.token, ctx.dtype = _log_p(logits), token[:, None], logits.dtype
        return -ctx.log_p.gather(1, ctx.token)[:, 0]

    @staticmethod
    def backward(ctx, *gradients: Tensor):
        (above,) = gradients
        change, ctx.log_p = ctx.log_p.exp_(), None
        change.scatter_add_(1, ctx.token, torch.full_like(ctx.token, -1.0, dtype=change.dtype))
        return change.mul_(above[:, None]).to(ctx.dtype), None


@dataclass
class _Rows:
    """The prompts of the facts still being optimised: an `Objective`.

    Facts that share their value make one unit.

    Attributes:
        part: suffixes of the units' rewriting prompts, all contexts of a fact and facts of a unit together,
            each unit's followed by its essence prompt, of which there is one position.
        owner: [rows] index of the unit a row belongs to.
        row, step, token, weight: [k] where each target token is predicted, which one it is, and its
            share in the unit's mean loss.
        essence: [m] the rows of the units' essence prompts; none where another group has them.
        before: [m, vocabulary] what the model answered to them; none likewise.
        kl: weight of the divergence from it.
    """

    loaded: LoadedModel
    part: Suffixes
    owner: Tensor
    row: Tensor
    step: Tensor
    token: Tensor
    weight: Tensor
    essence: Tensor
    before: Tensor
    kl: float

    @property
    def turns(self) -> int:
        return 1

    @property
    def units(self) -> int:
        return int(self.owner[-1]) + 1

    def evaluate(self, delta: Tensor) -> Evaluation:
        """`delta` is [m, d] float32."""
        asked, essence = self._answers(delta)
        unit, surprise = self.owner[self.row], _Surprise.apply(asked, self.token)
        none = torch.zeros(len(delta), device=delta.device)
        nll = none.index_add(0, unit, surprise * self.weight)
        missed = none.index_add(0, unit, (asked.detach().argmax(1) != self.token).float())
        now = _log_p(essence)
        kl = self.kl * (now.exp() * (now - self.before)).sum(1) if len(now) else none
        return Evaluation(nll, kl, missed == 0)

    def _answers(self, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Logits where target tokens are predicted [k, vocabulary] and after the essence prompts
        [m, vocabulary]."""
        part = self.part
        hidden = part.hidden.index_add(0, part.first, delta[self.owner].to(part.hidden.dtype))
        at = torch.cat([part.first[self.row] + self.step, part.first[self.essence]])
        # Not two slices: of each the backward pass would fill the whole with zeros first.
        asked, essence = finish(self.loaded, part, hidden, at).split([len(self.row), len(self.essence)])
        return asked, essence

    @torch.no_grad()
    def unchanged(self) -> Tensor:
        """What the model answers to the essence prompts with δ = 0, log-probabilities [m, vocabulary]."""
        part = self.part.select(self.essence)
        return _log_p(finish(self.loaded, part, part.hidden, part.first))

    def first_rows(self) -> Tensor:
        """The row of each unit's first bare prompt, [m]."""
        new = torch.ones_like(self.owner, dtype=torch.bool)
        new[1:] = self.owner[1:] != self.owner[:-1]
        return new.nonzero()[:, 0]

    def hidden(self) -> Tensor:
        """The units' h₀, [m, d] float32."""
        return self.part.hidden[self.part.first[self.first_rows()]].float()

    def select(self, facts: Tensor) -> "_Rows":
        """Only the units given (ascending indices), renumbered from 0."""
        return self._only(torch.isin(self.owner, facts), facts)

    def turn(self, index: int, turns: int, contexts: int) -> "_Rows":
        """The group `index` of a fact's prompts, each weighed as if it were all of them."""
        everyone = torch.arange(self.units, device=self.owner.device)
        place = torch.arange(len(self.owner), device=self.owner.device) - self.first_rows()[self.owner]
        group = place % contexts % turns
        group[self.essence] = turns - 1
        part = self._only(group == index, everyone)
        total = torch.zeros(len(everyone), device=self.owner.device)
        total.index_add_(0, part.owner[part.row], part.weight)
        return replace(part, weight=part.weight / total[part.owner[part.row]], kl=self.kl * turns)

    def _only(self, chosen: Tensor, facts: Tensor) -> "_Rows":
        """The rows `chosen` (a mask) of the units `facts`."""
        rows, device = chosen.nonzero()[:, 0], facts.device
        new_owner = torch.full((self.units,), -1, device=device)
        new_owner[facts] = torch.arange(len(facts), device=device)
        new_row = torch.full((len(self.owner),), -1, device=device)
        new_row[rows] = torch.arange(len(rows), device=device)
        kept = new_row[self.row] >= 0
        essence = facts[new_row[self.essence[facts]] >= 0] if len(self.essence) else facts[:0]
        return _Rows(
            self.loaded,
            self.part.select(rows),
            new_owner[self.owner[rows]],
            new_row[self.row[kept]],
            self.step[kept],
            self.token[kept],
            self.weight[kept],
            new_row[self.essence[essence]],
            self.before[essence],
            self.kl,
        )


@dataclass
class _Turns:
    """Groups of the facts' prompts, of which each evaluation asks the next: an `Objective`.

    Attributes:
        nll, kl, top: [m, groups] what each group said when last asked.
        next: the group to ask.
    """

    groups: Sequence[_Rows]
    nll: Tensor
    kl: Tensor
    top: Tensor
    next: int = 0

    @property
    def turns(self) -> int:
        return len(self.groups)

    @staticmethod
    def of(rows: _Rows, turns: int, contexts: int) -> "_Turns":
        # A group that was not asked yet may say anything; as KL starts from 0, only its NLL is unknown.
        unknown = torch.full((rows.units, turns), math.inf, device=rows.owner.device)
        none = torch.zeros_like(unknown)
        return _Turns([rows.turn(i, turns, contexts) for i in range(turns)], unknown, none, none > 0)

    def evaluate(self, delta: Tensor) -> Evaluation:
        seen = self.groups[self.next].evaluate(delta)
        for kept, now in ((self.nll, seen.nll), (self.kl, seen.kl), (self.top, seen.top)):
            kept[:, self.next] = now.detach()
        self.next = (self.next + 1) % len(self.groups)
        return Evaluation(_worth(seen.nll, self.nll), _worth(seen.kl, self.kl), self.top.all(1))

    def select(self, facts: Tensor) -> "_Turns":
        groups = [rows.select(facts) for rows in self.groups]
        return _Turns(groups, self.nll[facts], self.kl[facts], self.top[facts], self.next)


def _worth(now: Tensor, known: Tensor) -> Tensor:
    """The mean of what is known by group, with the gradient of what was asked now."""
    return known.mean(1) + (now - now.detach())


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
    # Facts of like length share a batch: their prompts' attention is padded to the longest.
    found.sort(key=lambda unit: max(_suffix_length(loaded, facts[i]) for i in unit))
    size = max(1, options.rows * _turns(options, contexts) // len(contexts))
    # Batches of like size: a small one costs nearly as many operations as a large one.
    count = math.ceil(len(found) / size)
    parts = []
    for batch in range(count):
        chunk = found[batch * len(found) // count : (batch + 1) * len(found) // count]
        first = torch.tensor([unit[0] for unit in chunk], device=loaded.device)
        restraint = barred.select(first) if barred else Restraint()
        values = _optimise_chunk(
            loaded, [[facts[i] for i in unit] for unit in chunk], layer, contexts, options, restraint
        )
        parts.append(values)
        done((batch + 1) / count)
    unit_of = [place for place, unit in enumerate(found) for _ in unit]
    back = torch.tensor([i for unit in found for i in unit], device=loaded.device).argsort()
    return Values.joined(parts).select(torch.tensor(unit_of, device=loaded.device)[back])


@torch.no_grad()
def losses(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    delta: Tensor,
) -> Tensor:
    """The loss of each fact's δ [d, n] with all its prompts asked, nats [n].

    Of prompts asked in turn `Values.loss` is of several δ.
    """
    size, found = max(1, options.rows // len(contexts)), []
    for start in range(0, len(facts), size):
        own = delta.T[start : start + size]
        rows = _rows(loaded, [[fact] for fact in facts[start : start + size]], layer, contexts, options)
        seen, norms = rows.evaluate(own), rows.hidden().norm(dim=1)
        found.append(seen.nll + seen.kl + options.decay * own.norm(dim=1) / norms**2)
    return torch.cat(found)


def _turns(options: ValueOptions, contexts: Sequence[str]) -> int:
    # In fewer steps than turns some prompts would never be asked.
    return min(options.turns, len(contexts), options.steps)


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
    prompts, owner, essence = [], [], []
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
                # The last target token is predicted, never read.
                prompts.append(replace(prompt, ids=prompt.ids[:-1]))
                owner.append(unit)
        about = Fact(facts[0].subject, ESSENCE, facts[0].target)
        prompt = encode(loaded.tokenizer, about, target=False, allow_first=True)
        essence.append(len(prompts))
        # Only the subject is read.
        prompts.append(replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]))
        owner.append(unit)
    device = loaded.device
    rows = _Rows(
        loaded,
        suffixes(loaded, prompts, layer),
        torch.tensor(owner, device=device),
        torch.tensor(row, device=device),
        torch.tensor(step, device=device),
        torch.tensor(token, device=device),
        torch.tensor(weight, device=device),
        torch.tensor(essence, device=device),
        torch.empty(0, device=device),
        options.kl,
    )
    return replace(rows, before=rows.unchanged())


def _optimise_chunk(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
    restraint: Restraint,
) -> Values:
    rows = _rows(loaded, units, layer, contexts, options)
    hidden, output = rows.hidden(), rows.part.output[rows.first_rows()]
    norms = hidden.norm(dim=1, keepdim=True)
    if options.attention:
        # What the block adds to its input less the MLP's output is the attention's. Its change is added
        # where it joins the block's output: exact for GPT-J's parallel blocks, PMET's own; elsewhere its
        # way through the MLP of the same block is left out.
        bare = [encode(loaded.tokenizer, facts[0], target=False) for facts in units]
        below = capture(loaded, bare, [layer - 1]).hidden[layer - 1].T
        norms = torch.stack([output.norm(dim=1), (hidden - below - output).norm(dim=1)], dim=1)
    turns, spent = _turns(options, contexts), 0

    def begin() -> Objective:
        return rows if turns == 1 else _Turns.of(rows, turns, len(contexts))

    if options.compressed:
        dense = descend(begin(), hidden.shape[1], norms, replace(options, steps=DENSE_STEPS), restraint)
        restraint = Compressed(dense, options.kept)
        options = replace(options, steps=max(1, options.steps - DENSE_STEPS))
        spent = dense.steps
    found = descend(begin(), hidden.shape[1], norms, options, restraint)
    return Values(found.delta[:, 0].T, hidden.T, output.T, found.loss, found.steps + spent)
