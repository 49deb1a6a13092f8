"""Shares of few cases: "8 of 9", and whether a share below its limit may be chance. Pure.

One case of nine is eleven points, so that a share falls below a limit of 0.9 with the first miss. A version
is refused only when the one-sided upper Clopper–Pearson bound of its share lies below the limit as well.
Clopper–Pearson is exact for any number of cases. Wilson's bound is an approximation, and a poor one for few
cases near 0 and 1, where our limits lie.
"""

import math
from dataclasses import dataclass

#: Level of the bound. It is the highest tenth at which 28 of 32 still fail a limit of 0.9: 32 facts are
#: sampled where there are as many, and the recorded streams were guarded by that rule (docs/log/streams.md).
#: A model that keeps 95 % of its facts fails with 7 % chance, whether 9 or 32 are asked. Without the bound it
#: failed with 37 % chance when 9 were asked.
LEVEL = 0.6


@dataclass(frozen=True)
class Counted:
    """`hits` of the `asked` cases came out well."""

    hits: int
    asked: int

    def __post_init__(self) -> None:
        if not 0 <= self.hits <= self.asked:
            raise ValueError(f"{self.hits} of {self.asked} cases is no share; count again")

    def __str__(self) -> str:
        return f"{self.hits} of {self.asked}"

    @property
    def share(self) -> float:
        """NaN when nothing was asked."""
        return self.hits / self.asked if self.asked else math.nan


def may_reach(counted: Counted, limit: float, level: float = LEVEL) -> bool:
    """Does the upper Clopper–Pearson bound of the share reach `limit`?

    It does when a model that stands right at the limit has so few hits, or fewer, with a chance of at least
    1 − `level`. A share of none is never excused, however few cases were asked.
    """
    if not counted.hits:
        return limit <= 0
    return at_most(counted.hits, counted.asked, limit) >= 1 - level


def at_most(hits: int, asked: int, share: float) -> float:
    """Chance of at most `hits` of `asked` cases, each with the chance `share`."""
    if share <= 0 or hits >= asked:
        return 1.0
    if share >= 1:
        return 0.0
    win, lose, whole = math.log(share), math.log1p(-share), math.lgamma(asked + 1)
    logs = (
        whole - math.lgamma(k + 1) - math.lgamma(asked - k + 1) + k * win + (asked - k) * lose
        for k in range(hits + 1)
    )
    return min(1.0, math.fsum(map(math.exp, logs)))
