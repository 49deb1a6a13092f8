"""The prompts of facts asked in turn: each evaluation asks one group of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.values.descent import Evaluation
from editing.values.objective import Rows


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
    def of(rows: Rows, turns: int) -> "Turns":
        # A group that was not asked yet may say anything; as KL starts from 0, only its NLL is unknown.
        unknown = torch.full((rows.units, turns), math.inf, device=rows.owner.device)
        none = torch.zeros_like(unknown)
        return Turns([rows.turn(i, turns) for i in range(turns)], unknown, none, none > 0)

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
