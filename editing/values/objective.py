"""The prompts of facts, asked again and again with their δ: what value optimisation descends on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.facts import Fact
from editing.model.loaded import LoadedModel
from editing.model.suffixes import Suffixes, finish, suffixes
from editing.values.descent import Evaluation

#: MEMIT's prompt whose continuation must not change: what the subject is.
ESSENCE = "{} is a"


def _log_p(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1)


class Surprise(torch.autograd.Function):
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
class Rows:
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
        unit, surprise = self.owner[self.row], Surprise.apply(asked, self.token)
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

    def select(self, facts: Tensor) -> "Rows":
        """Only the units given (ascending indices), renumbered from 0."""
        return self._only(torch.isin(self.owner, facts), facts)

    def turn(self, index: int, turns: int, contexts: int) -> "Rows":
        """The group `index` of a fact's prompts, each weighed as if it were all of them."""
        everyone = torch.arange(self.units, device=self.owner.device)
        place = torch.arange(len(self.owner), device=self.owner.device) - self.first_rows()[self.owner]
        group = place % contexts % turns
        group[self.essence] = turns - 1
        part = self._only(group == index, everyone)
        total = torch.zeros(len(everyone), device=self.owner.device)
        total.index_add_(0, part.owner[part.row], part.weight)
        return replace(part, weight=part.weight / total[part.owner[part.row]], kl=self.kl * turns)

    def _only(self, chosen: Tensor, facts: Tensor) -> "Rows":
        """The rows `chosen` (a mask) of the units `facts`."""
        rows, device = chosen.nonzero()[:, 0], facts.device
        new_owner = torch.full((self.units,), -1, device=device)
        new_owner[facts] = torch.arange(len(facts), device=device)
        new_row = torch.full((len(self.owner),), -1, device=device)
        new_row[rows] = torch.arange(len(rows), device=device)
        kept = new_row[self.row] >= 0
        essence = facts[new_row[self.essence[facts]] >= 0] if len(self.essence) else facts[:0]
        return Rows(
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
class Turns:
    """Groups of the facts' prompts, of which each evaluation asks the next: an `Objective`.

    Attributes:
        nll, kl, top: [m, groups] what each group said when last asked.
        next: the group to ask.
    """

    groups: Sequence[Rows]
    nll: Tensor
    kl: Tensor
    top: Tensor
    next: int = 0

    @property
    def turns(self) -> int:
        return len(self.groups)

    @staticmethod
    def of(rows: Rows, turns: int, contexts: int) -> "Turns":
        # A group that was not asked yet may say anything; as KL starts from 0, only its NLL is unknown.
        unknown = torch.full((rows.units, turns), math.inf, device=rows.owner.device)
        none = torch.zeros_like(unknown)
        return Turns([rows.turn(i, turns, contexts) for i in range(turns)], unknown, none, none > 0)

    def evaluate(self, delta: Tensor) -> Evaluation:
        seen = self.groups[self.next].evaluate(delta)
        for kept, now in ((self.nll, seen.nll), (self.kl, seen.kl), (self.top, seen.top)):
            kept[:, self.next] = now.detach()
        self.next = (self.next + 1) % len(self.groups)
        return Evaluation(_worth(seen.nll, self.nll), _worth(seen.kl, self.kl), self.top.all(1))

    def select(self, facts: Tensor) -> "Turns":
        groups = [rows.select(facts) for rows in self.groups]
        return Turns(groups, self.nll[facts], self.kl[facts], self.top[facts], self.next)


def _worth(now: Tensor, known: Tensor) -> Tensor:
    """The mean of what is known by group, with the gradient of what was asked now."""
    return known.mean(1) + (now - now.detach())


def rows_of(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    kl: float,
) -> Rows:
    """The prompts of some units of facts, each with all contexts and the essence prompt.

    Args:
        contexts: texts put before the prompt; the first must be empty (the bare prompt).
        kl: weight of the divergence on the essence prompt.
    """
    prompts, owner, essence = [], [], []
    row, step, token, weight = [], [], [], []
    for unit, facts in enumerate(units):
        for fact in facts:
            for context in contexts:
                prompt = loaded.encode(fact, context)
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
        prompt = loaded.encode(about, target=False, allow_first=True)
        essence.append(len(prompts))
        # Only the subject is read.
        prompts.append(replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]))
        owner.append(unit)
    device = loaded.device
    rows = Rows(
        loaded,
        suffixes(loaded, prompts, layer),
        torch.tensor(owner, device=device),
        torch.tensor(row, device=device),
        torch.tensor(step, device=device),
        torch.tensor(token, device=device),
        torch.tensor(weight, device=device),
        torch.tensor(essence, device=device),
        torch.empty(0, device=device),
        kl,
    )
    return replace(rows, before=rows.unchanged())
