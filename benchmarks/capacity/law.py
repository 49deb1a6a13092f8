"""The law through horizons: how many facts until a limit, against the key directions that were free.

    ln n = a + Σ bᵢ ln xᵢ

by least squares. A run that did not reach its limit, or was past it at its first checkpoint, has no horizon:
it is left out of the fit, and named. Other regressors than D are tried beside it. Each is judged by the error
with which it tells a run that it was not fitted to.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from benchmarks.errors import BenchError
from monitoring.capacity import Law

#: Of ten intervals nine are to hold the truth.
COVERED = 0.9
#: Fewest degrees of freedom that a law is told with.
FREEDOM = 2
#: Why a run has no horizon.
NOT_REACHED, PAST_AT_ONCE = "not reached", "past at the first checkpoint"

Run = Mapping[str, Any]
#: Names of a run's numbers that are regressors together.
REGRESSORS: tuple[tuple[str, ...], ...] = (("directions",), ("layers", "keys_per_column"))


@dataclass(frozen=True)
class Horizon:
    """At how many facts a limit is passed; None, and why not, where that was not seen."""

    facts: float | None
    censored: str = ""


def horizon(points: Sequence[tuple[float, float]], limit: float, falling: bool = False) -> Horizon:
    """Where a measure passes its limit, on the straight line in ln(edits) between two checkpoints.

    A measure that gets better again between two checkpoints is noise: neighbours in the wrong order are
    pooled to their mean first (isotonic regression).

    Args:
        points: (edits, value) of each checkpoint, ascending.
        falling: whether a value below the limit is past it; else above.
    """
    sign = -1.0 if falling else 1.0
    edits = [math.log(edits) for edits, _ in points]
    values, bound = _rising([sign * value for _, value in points]), sign * limit
    if not points or values[-1] <= bound:
        return Horizon(None, NOT_REACHED)
    if values[0] > bound:
        return Horizon(None, PAST_AT_ONCE)
    at = next(i for i, value in enumerate(values) if value > bound)
    share = (bound - values[at - 1]) / (values[at] - values[at - 1])
    return Horizon(math.exp(edits[at - 1] + share * (edits[at] - edits[at - 1])))


def _rising(values: Sequence[float]) -> list[float]:
    """The closest values that never fall: pool adjacent violators."""
    blocks = list[tuple[float, int]]()
    for value in values:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [((a * m + b * n) / (m + n), m + n)]
    return [mean for mean, count in blocks for _ in range(count)]


def fitted(runs: Sequence[Run], facts: Sequence[float], names: Sequence[str]) -> Law:
    """The law of some regressors, with what its intervals need.

    Raises:
        BenchError: too few runs, or too much alike in a regressor.
    """
    x = np.column_stack([np.ones(len(runs)), *(np.log([run[name] for run in runs]) for name in names)])
    left = len(runs) - x.shape[1]
    if left < FREEDOM or np.linalg.matrix_rank(x) < x.shape[1]:
        what = " and ".join(names)
        raise BenchError(
            f"{len(runs)} runs with a horizon are too few, or too much alike, for a law of {what}"
        )
    y = np.log(facts)
    inverse = np.linalg.inv(x.T @ x)
    found = inverse @ x.T @ y
    spread = math.sqrt(float(((y - x @ found) ** 2).sum()) / left)
    largest = tuple(float(max(run[name] for run in runs)) for name in names)
    rows = tuple(tuple(row) for row in inverse.tolist())
    return Law(tuple(names), tuple(found.tolist()), rows, spread, student(left), len(runs), largest)


def student(freedom: int, covered: float = COVERED) -> float:
    """t of Student's law so that `covered` of it lies between −t and t.

    With t = √ν tan θ the density is cos^(ν−1) θ, which is summed up by Simpson's rule; bisected for θ.
    """
    angles = np.linspace(0, math.pi / 2, 20001)
    heights = np.cos(angles) ** (freedom - 1)
    steps = (heights[:-2:2] + 4 * heights[1::2] + heights[2::2]).cumsum()
    at = float(np.interp(covered, steps / steps[-1], angles[2::2]))
    return math.sqrt(freedom) * math.tan(at)


def laws(runs: Sequence[Run], limits: Sequence[str], held_out: str) -> list[dict[str, Any]]:
    """One object for each limit and each choice of regressors: the law of all runs, how it tells the one held
    out, and its error.

    `error` is the root mean square of ln(estimate / measured), each run told by a fit to the others. `filled`
    is that of another kind of law: the limit is passed when a certain share of all directions is taken up.

    Args:
        runs: each with `run`, its regressors, and by limit its horizon.
        held_out: name of a run, chosen before the runs were made.
    """
    return [_law(runs, limit, names, held_out) for limit in limits for names in REGRESSORS]


def _law(runs: Sequence[Run], limit: str, names: Sequence[str], held_out: str) -> dict[str, Any]:
    seen = [run for run in runs if run[limit]["facts"] is not None]
    left_out = {run["run"]: run[limit]["censored"] for run in runs if run[limit]["facts"] is None}
    told: dict[str, Any] = {"limit": limit, "regressors": list(names), "left_out": left_out}
    told |= {"law": None, "held_out": None, "error": None, "filled": _filled(seen, limit)}
    try:
        told["law"] = asdict(_of(seen, limit, names))
        told["held_out"] = _held_out(runs, seen, limit, names, held_out)
        told["error"] = _left_one_out(seen, limit, names)
    except BenchError as error:
        told["reason"] = str(error)
    return told


def _of(runs: Sequence[Run], limit: str, names: Sequence[str]) -> Law:
    return fitted(runs, [run[limit]["facts"] for run in runs], names)


def _held_out(
    runs: Sequence[Run], seen: Sequence[Run], limit: str, names: Sequence[str], name: str
) -> dict[str, Any] | None:
    """The law without one run, and what it says of that; `error` is the estimate over the truth, less 1."""
    own = next((run for run in runs if run["run"] == name), None)
    if own is None:
        return None
    facts, low, high = _of([run for run in seen if run["run"] != name], limit, names).facts(own)
    measured = own[limit]["facts"]
    told = {"run": name, "estimate": facts, "low": low, "high": high, "measured": measured}
    if measured is None:
        return told | {"error": None, "inside": None, "censored": own[limit]["censored"]}
    return told | {"error": facts / measured - 1, "inside": low <= measured <= high}


def _left_one_out(runs: Sequence[Run], limit: str, names: Sequence[str]) -> float:
    errors = list[float]()
    for i, run in enumerate(runs):
        told, _, _ = _of([*runs[:i], *runs[i + 1 :]], limit, names).facts(run)
        errors.append(math.log(told / run[limit]["facts"]))
    return math.sqrt(float(np.mean(np.square(errors))))


def _filled(runs: Sequence[Run], limit: str) -> float | None:
    """The error of the law that the share filled at the horizon is the same in all runs."""
    if len(runs) < 2:
        return None
    shares = [_at(run["checkpoints"], run[limit]["facts"]) for run in runs]
    errors = list[float]()
    for i, run in enumerate(runs):
        mean = float(np.mean([share for j, share in enumerate(shares) if j != i]))
        curve = sorted((one["filled"], math.log(one["edits"])) for one in run["checkpoints"])
        at = _through([(math.log(share), edits) for share, edits in curve], mean)
        errors.append(at - math.log(run[limit]["facts"]))
    return math.sqrt(float(np.mean(np.square(errors))))


def _at(checkpoints: Sequence[Mapping[str, Any]], facts: float) -> float:
    """ln of the share filled after so many facts."""
    curve = sorted((math.log(one["edits"]), math.log(one["filled"])) for one in checkpoints)
    return _through(curve, math.log(facts))


def _through(curve: Sequence[tuple[float, float]], x: float) -> float:
    """y at x on the lines through the points, the first and the last one drawn on."""
    pairs = list(itertools.pairwise(curve))
    (x0, y0), (x1, y1) = next((pair for pair in pairs if x <= pair[1][0]), pairs[-1])
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y1
