"""Room for facts: how many a model can be expected to hold, before any is written. No torch.

The law was fitted to streams of one small model (docs/log/capacity.md):

    ln n = a + Σ bᵢ ln xᵢ

n is the number of facts at which a limit is passed. The x are the layers written and the key directions of a
layer over the columns of a fact, or the product of the two. The interval is that of a new observation, by
Student's t,

    ln n ± t s √(1 + zᵀ(XᵀX)⁻¹z),   z = (1, ln x₁, …)

so it widens with the distance from the runs, the rows of X. It does not say that a model of another kind
keeps the law.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Law:
    """A plane through logarithms, with what its prediction interval needs.

    Attributes:
        names: of the regressors: layers, keys_per_column, directions.
        coefficients: a, then an exponent for each name.
        inverse: (XᵀX)⁻¹.
        spread: s, standard deviation of the residuals, with the degrees of freedom that are left.
        student: t, the 95 % quantile of Student's law: nine of ten lie between −t and t.
        runs: how many it was fitted to.
        largest: of each regressor, its largest value in a run.
    """

    names: tuple[str, ...]
    coefficients: tuple[float, ...]
    inverse: tuple[tuple[float, ...], ...]
    spread: float
    student: float
    runs: int
    largest: tuple[float, ...]

    def facts(self, values: Mapping[str, float]) -> tuple[float, float, float]:
        """(n, the low and the high end of its interval) for values of the regressors."""
        z = (1.0, *(math.log(values[name]) for name in self.names))
        wide = sum(
            a * b * entry
            for a, row in zip(z, self.inverse, strict=True)
            for b, entry in zip(z, row, strict=True)
        )
        middle = sum(a * b for a, b in zip(z, self.coefficients, strict=True))
        half = self.student * self.spread * math.sqrt(1 + wide)
        return math.exp(middle), math.exp(middle - half), math.exp(middle + half)

    def beyond(self, values: Mapping[str, float]) -> float:
        """How many times more there is of a regressor than in any run, of the farthest; 1 at least."""
        pairs = zip(self.names, self.largest, strict=True)
        return max(1.0, *(values[name] / largest for name, largest in pairs))


#: What ends it → the law of runs with the default method: the fit of docs/data/capacity.json, to which
#: tests/benchmarks/capacity holds it. Source: docs/log/capacity.md, 2026-11-29, room for facts as a law.
LAWS: Mapping[str, Law] = {
    "perplexity ×1.1": Law(
        names=("layers", "keys_per_column"),
        coefficients=(-0.8953299, 0.3874116, 0.8223623),
        inverse=(
            (27.925, -1.432584, -3.759024),
            (-1.432584, 0.3470393, 0.1409462),
            (-3.759024, 0.1409462, 0.518849),
        ),
        spread=0.04104312,
        student=2.131847,
        runs=7,
        largest=(9.0, 1536.0),
    ),
}


@dataclass(frozen=True)
class Room:
    """An estimate of how many facts there is room for.

    Attributes:
        facts: until the first limit is passed.
        low, high: interval that holds the number in nine cases of ten, if the law holds for this model.
        ends: what is expected first.
        beyond: how many times more there is of what it follows from than in any run; 1 where the runs reach
            so far.
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
            f"room for about {self.facts:,} facts ({self.low:,} to {self.high:,}) until {self.ends}; "
            f"an estimate from one small model{far}"
        )


def room(layers: int, key_directions: int, columns: float, laws: Mapping[str, Law] = LAWS) -> Room:
    """Of a model in which so many layers of so many key directions are written, so many columns a fact.

    Args:
        laws: what ends it → its law.
    """
    keys = key_directions / columns
    values = {"layers": layers, "keys_per_column": keys, "directions": layers * keys}
    told = {ends: law.facts(values) for ends, law in laws.items()}
    ends = min(told, key=lambda name: told[name][0])
    beyond = round(laws[ends].beyond(values), 1)
    return Room(*(_rounded(number) for number in told[ends]), ends=ends, beyond=beyond)


def _rounded(number: float) -> int:
    """To two figures: the estimate has no more."""
    unit = 10 ** max(0, math.floor(math.log10(number)) - 1) if number >= 1 else 1
    return unit * round(number / unit)
