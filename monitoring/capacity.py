"""Room for facts: how many a model can be expected to hold, before any is written. No torch.

The law was fitted to streams of one small model (docs/log/capacity.md):

    ln n = a + b ln D,   D = layers written × key directions of a layer / columns of a fact

n is the number of facts at which a limit is passed. Its interval is that of a new observation, by Student's t

    ln n ± t s √(1 + 1/m + (ln D − x̄)² / Sxx)

so it widens with the distance from the m runs that it was fitted to. It does not say that a model of another
kind keeps the law.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Law:
    """A line through logarithms, with what its prediction interval needs.

    Attributes:
        intercept, exponent: a and b.
        spread: s, standard deviation of the residuals, m − 2 degrees of freedom.
        runs: m.
        mean, squares: x̄ and Sxx = Σ (x − x̄)² of x = ln D.
        student: t, the 95 % quantile of Student's t, so that nine of ten lie inside.
        largest: the largest D of a run.
    """

    intercept: float
    exponent: float
    spread: float
    runs: int
    mean: float
    squares: float
    student: float
    largest: float

    def facts(self, directions: float) -> tuple[float, float, float]:
        """(n, the low and the high end of its interval) for D."""
        x = math.log(directions)
        wide = math.sqrt(1 + 1 / self.runs + (x - self.mean) ** 2 / self.squares)
        middle, half = self.intercept + self.exponent * x, self.student * self.spread * wide
        return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


#: What ends it → the law of runs with the default method: the fit of docs/data/capacity.json, to which
#: tests/benchmarks/capacity holds it. Source: docs/log/capacity.md, 2026-11-29, room for facts as a law.
LAWS: Mapping[str, Law] = {}


@dataclass(frozen=True)
class Room:
    """An estimate of how many facts there is room for.

    Attributes:
        facts: until the first limit is passed.
        low, high: interval that holds the number in nine cases of ten, if the law holds for this model.
        ends: what is expected first.
        beyond: how many times more directions there are than in the largest run that the law knows; 1 where
            it reaches so far.
    """

    facts: int
    low: int
    high: int
    ends: str
    beyond: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"told": str(self)}

    def __str__(self) -> str:
        far = f", extrapolated {self.beyond:.1f}-fold" if self.beyond > 1 else ""
        return (
            f"room for about {self.facts:,} facts ({self.low:,} to {self.high:,}), then {self.ends}; "
            f"an estimate from one small model{far}"
        )


def room(layers: int, key_directions: int, columns: float, laws: Mapping[str, Law] = LAWS) -> Room:
    """Of a model in which so many layers of so many key directions are written, so many columns a fact.

    Args:
        laws: what ends it → its law.
    """
    directions = layers * key_directions / columns
    told = {ends: law.facts(directions) for ends, law in laws.items()}
    ends = min(told, key=lambda name: told[name][0])
    beyond = max(1.0, directions / laws[ends].largest)
    return Room(*(_rounded(number) for number in told[ends]), ends=ends, beyond=round(beyond, 1))


def _rounded(number: float) -> int:
    """To two figures: the estimate has no more."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 1
    return unit * round(number / unit)
