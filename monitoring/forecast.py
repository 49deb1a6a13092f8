"""How many edits are left until a measure reaches its limit. No torch; deterministic.

The laws and their fit are `monitoring.growth`'s.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monitoring.growth import FEWEST_POINTS, Law, crossing
from monitoring.measurements import Measurements
from monitoring.registry import WATCHED
from monitoring.thresholds import Thresholds
from monitoring.verdict import worst_value


@dataclass(frozen=True)
class Forecast:
    """When a measure reaches its limit. Edits are counted from the last point; infinite: never.

    Attributes:
        measure: its name.
        law: the growth law that fits best.
        value, limit: where it stands and where it must not go.
        edits: how many edits are left; 0 when the limit is passed.
        low, high: interval that holds the truth in nine cases of ten.
    """

    measure: str
    law: Law
    value: float
    limit: float
    edits: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: None for "never"."""
        return {k: None if v == math.inf else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        if self.edits == math.inf:
            return f"{self.measure} grows but stays below its limit {self.limit:g}"
        high = "never" if self.high == math.inf else f"{self.high:.0f}"
        span = f"{self.edits:.0f} edits ({self.low:.0f} to {high})"
        return f"{self.measure} reaches {self.limit:g} in {span}, {self.law} growth"


def forecast(
    series: Sequence[tuple[float, float]], limit: float, high_is_bad: bool = True, measure: str = ""
) -> Forecast | None:
    """Extrapolates one measure.

    A perplexity is e to a mean loss, and edits add to the loss. So the logarithm of a perplexity is fitted,
    and not by the root.

    Args:
        series: (edits so far, value), in order; points that are not finite are left out.
        limit: the value that must not be passed.
        high_is_bad: the limit lies above; else below.
        measure: name to put into the result.

    Returns:
        None when there are too few points or the measure does not move towards its limit.
    """
    if measure.endswith("perplexity_ratio"):
        losses = [(edits, math.log(value)) for edits, value in series if value > 0]
        found = crossing(losses, math.log(limit), high_is_bad, roots=False)
        value = math.exp(found.value) if found else math.nan
    else:
        found = crossing(series, limit, high_is_bad)
        value = found.value if found else math.nan
    return found and Forecast(measure, found.law, value, limit, found.edits, found.low, found.high)


def forecasts(history: Sequence[tuple[int, Measurements]], thresholds: Thresholds) -> list[Forecast]:
    """Forecasts of all measures that have a limit and move towards it, the nearest first.

    Args:
        history: (edits so far, measurements) of each version, oldest first, since the last compaction.
        thresholds: those in force.
    """
    found: list[Forecast] = []
    for measure in WATCHED:
        values = [(edits, worst_value(m, measure.name)) for edits, m in history]
        series = [(float(edits), value) for edits, value in values if value is not None]
        one = forecast(series, thresholds[measure.name].limit, measure.high_is_bad, measure.name)
        found += [one] if one is not None else []
    return sorted(found, key=lambda one: one.edits)


def edits_until_limit(history: Sequence[tuple[int, Measurements]], found: Sequence[Forecast]) -> float | None:
    """The gauge: the smallest forecast, infinite when nothing grows, None while there are too few points."""
    if len(history) < FEWEST_POINTS:
        return None
    return min((one.edits for one in found), default=math.inf)


def to_json(found: Sequence[Forecast]) -> Mapping[str, Any]:
    """What `factd status` shows: a sentence on the nearest limit, and every forecast."""
    nearest = str(found[0]) if found else "no measure moves towards its limit"
    return {"nearest": nearest, "forecasts": [one.to_json() for one in found]}
