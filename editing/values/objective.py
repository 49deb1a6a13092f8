"""The prompts of facts, asked again and again with their δ: what value optimisation descends on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from editing.facts import Fact
from editing.model.asked import asked
from editing.model.loaded import LoadedModel
from editing.model.suffixes import Suffixes, finish, suffixes
from editing.model.tokens import Prompt
from editing.typed import applied, parts
from editing.values.descent import Evaluation
from editing.values.endings import ending
from editing.values.options import ValueOptions

#: MEMIT's prompt whose continuation must not change: what the subject is.
ESSENCE = "{} is a"


def _log_p(logits: Tensor) -> Tensor:
    return logits.float().log_softmax(dim=-1)


def leads(logits: Tensor, token: Tensor, lead: float) -> Tensor:
    """In which rows of logits [k, vocabulary] a token [k] is more than `lead` nats before all others [k]."""
    own = logits.gather(1, token[:, None])[:, 0]
    others = logits.scatter(1, token[:, None], -torch.inf).amax(1)
    return own.float() - others.float() > lead


class Surprise(torch.autograd.Function):
    """−log p of one token in each row of logits [k, vocabulary]; for one backward pass.

    The gradient is made where the log-probabilities are: by way of `gather` it takes two more matrices of
    that size, which are a tenth of an evaluation.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, token: Tensor) -> Tensor:
        ctx.log_p, ctx.token, ctx.dtype = _log_p(logits), token[:, None], logits.dtype
        return -ctx.log_p.gather(1, ctx.token)[:, 0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (above,) = gradients
        change, ctx.log_p = ctx.log_p.exp_(), None
        change.scatter_add_(1, ctx.token, torch.full_like(ctx.token, -1.0, dtype=change.dtype))
        return change.mul_(above[:, None]).to(ctx.dtype), None


@dataclass
class Rows:
    """The prompts of the facts still being optimised: an `Objective`.

    Facts that share their value make one unit.

    Attributes:
        part: suffixes of the units' rewriting prompts, all forms of a fact and facts of a unit together,
            each unit's followed by its essence prompt, of which there is one position.
        owner: [rows] index of the unit a row belongs to.
        row, step, token, weight: [k] where each target token is predicted, which one it is, and its
            share in the unit's mean loss.
        essence: [m] the rows of the units' essence prompts; none where another group has them.
        before: [m, vocabulary] what the model answered to them; none likewise.
        kl: weight of the divergence from it.
        lead: nats by which a token must be before all others to count as the most probable.
        slot: [rows] the how-manieth form of its fact a row asks.
        place: [rows] of a row among all prompts of its fact; −1 of essence prompts.
        share: [m, slots] of the forms of a slot in the unit's loss.
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
    lead: float
    slot: Tensor
    place: Tensor
    share: Tensor

    @property
    def turns(self) -> int:
        return 1

    @property
    def units(self) -> int:
        return int(self.owner[-1]) + 1

    def evaluate(self, delta: Tensor) -> Evaluation:
        """`delta` is [m, d] float32."""
        asked, essence = self._answers(delta)
        unit, surprise = self.owner[self.row], applied(Surprise, asked, self.token)
        none = torch.zeros(len(delta), device=delta.device)
        nll = none.index_add(0, unit, surprise * self.weight)
        missed = none.index_add(0, unit, (~leads(asked.detach(), self.token, self.lead)).float())
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
        asked, essence = parts(finish(self.loaded, part, hidden, at), [len(self.row), len(self.essence)])
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

    def bare_rows(self) -> Tensor:
        """The row of each fact's bare prompt, [facts]."""
        return (self.place == 0).nonzero()[:, 0]

    def hidden(self) -> Tensor:
        """The units' h₀, [m, d] float32."""
        return self.part.hidden[self.part.first[self.first_rows()]].float()

    def select(self, facts: Tensor) -> "Rows":
        """Only the units given (ascending indices), renumbered from 0."""
        return self._only(torch.isin(self.owner, facts), facts)

    def turn(self, index: int, turns: int) -> "Rows":
        """The group `index` of a fact's prompts, each form weighed as if all its prompts were there.

        A form that is asked in some turns only weighs so much more in these that over a round every form
        has its share.
        """
        everyone = torch.arange(self.units, device=self.owner.device)
        group = self.place % turns
        group[self.essence] = turns - 1
        part = self._only(group == index, everyone)
        total = torch.zeros_like(self.share).flatten()
        width = self.share.shape[1]
        of_form = (part.owner * width + part.slot)[part.row]
        total.index_add_(0, of_form, part.weight)
        often = self._turns_of_forms(group, turns).flatten()
        wanted = self.share.flatten() * (turns / often.clamp(min=1))
        weight = part.weight / total[of_form] * wanted[of_form]
        return replace(part, weight=weight, kl=self.kl * turns)

    def _turns_of_forms(self, group: Tensor, turns: int) -> Tensor:
        """In how many turns the forms of a slot are asked, [m, slots]."""
        rewriting = self.place >= 0
        seen = torch.zeros(*self.share.shape, turns, device=self.owner.device)
        seen[self.owner[rewriting], self.slot[rewriting], group[rewriting]] = 1.0
        return seen.sum(2)

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
            self.lead,
            self.slot[rows],
            self.place[rows],
            self.share[facts],
        )


def rows_of(
    loaded: LoadedModel,
    units: Sequence[Sequence[Fact]],
    layer: int,
    contexts: Sequence[str],
    options: ValueOptions,
) -> Rows:
    """The prompts of some units of facts, in all their forms, each with the essence prompt.

    Args:
        contexts: texts put before the bare prompt; the first must be empty.
        options: whose forms, ends, kl and lead count; each form of a fact has the same weight.
    """
    prompts, owner, essence = list[Prompt](), list[int](), list[int]()
    slot, place, share, tokens = list[int](), list[int](), list[list[float]](), list[_Token]()
    for unit, facts in enumerate(units):
        every = [asked(loaded, fact, contexts, options.forms) for fact in facts]
        # Exact fractions: shares of facts of one form must add up to 1 and not to 1 but for rounding.
        share.append([float(x) for x in _shares([len(each) for each in every])])
        for each in every:
            first = len(prompts)
            for at, form in enumerate(each):
                for prompt in form.prompts:
                    ids = prompt.ids + ending(loaded, prompt, form.form.chat, options.ends)
                    weight = 1.0 / (
                        (len(ids) - prompt.target_start) * len(form.prompts) * len(each) * len(facts)
                    )
                    for position in range(prompt.target_start, len(ids)):
                        step = position - 1 - prompt.subject_last
                        tokens.append(_Token(len(prompts), step, ids[position], weight))
                    place.append(len(prompts) - first)
                    # The last token is predicted, never read.
                    prompts.append(replace(prompt, ids=ids[:-1]))
                    slot.append(at)
                    owner.append(unit)
        about = Fact(facts[0].subject, ESSENCE, facts[0].target)
        prompt = loaded.encode(about, target=False, allow_first=True)
        essence.append(len(prompts))
        # Only the subject is read.
        prompts.append(replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]))
        owner.append(unit)
        slot.append(0)
        place.append(-1)
    device = loaded.device
    most = max(len(shares) for shares in share)
    row, step, token, weight = (
        torch.tensor([getattr(x, name) for x in tokens], device=device) for name in _TOKEN_FIELDS
    )
    rows = Rows(
        loaded,
        suffixes(loaded, prompts, layer),
        torch.tensor(owner, device=device),
        row,
        step,
        token,
        weight,
        torch.tensor(essence, device=device),
        torch.empty(0, device=device),
        options.kl,
        options.lead,
        torch.tensor(slot, device=device),
        torch.tensor(place, device=device),
        torch.tensor([shares + [0.0] * (most - len(shares)) for shares in share], device=device),
    )
    return replace(rows, before=rows.unchanged())


@dataclass(frozen=True)
class _Token:
    """A token that must be predicted: in which row, how many tokens behind the subject's last one, which, and
    its share in the unit's mean loss."""

    row: int
    step: int
    token: int
    weight: float


_TOKEN_FIELDS = ("row", "step", "token", "weight")


def _shares(forms: Sequence[int]) -> list[Fraction]:
    """What the first, second, … forms of a unit's facts weigh in its loss; the facts have so many `forms`."""
    facts = len(forms)
    return [
        sum((Fraction(1, count * facts) for count in forms if count > at), Fraction(0))
        for at in range(max(forms))
    ]
