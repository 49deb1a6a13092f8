"""Growth laws of repeated editing, fitted to a series of measurements.

One family holds them (algorithms §2.5):

    y(n) = y₀ + s φ_k(n),   φ_k(n) = (e^{kn} − 1) / k,   φ_0(n) = n

k > 0 is the exponential growth of edits without an anchor. k < 0 is the bounded growth with one, whose
asymptote is y₀ − s/k. k = 0 is the straight line between. Beside it stands y₀ + s √n: independent writes add
in their squares, and so drift and LS of recorded streams went (docs/log/guard.md). The first half of a line
or of a root looks as if growth ended soon. So a bound, or a curvature too small to be seen, is only believed
when it fits far better.

For each k on a grid, y₀ and s follow by least squares that outliers cannot pull (Huber's weights). The k with
the smallest robust loss is taken, sought on a coarse and then on a fine grid. The interval comes from refits
to resampled residuals. No torch; deterministic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["exponential", "linear", "root", "bounded"]
Floats = NDArray[np.floating[Any]]

#: Fewest points that a law is fitted to: three parameters and some to see the noise by.
FEWEST_POINTS = 8

#: A longer series is thinned to medians of so many bins, which also takes spikes out.
MOST_POINTS = 64

#: Growth rates tried, in units of one over the span of the series (beyond ±8 a law is a step), and the
#: offsets from the best of them tried next.
RATES: Floats = np.linspace(-8.0, 8.0, 33)
OFFSETS: Floats = np.linspace(-0.5, 0.5, 33)

#: Rates this near to zero cannot be told from a straight line.
STRAIGHT = 0.5

#: How many times smaller the loss of a bounded law must be than that of the line and of the root.
BELIEVED = 4.0

#: Refits for the interval, offsets from the best rate that they try, and the quantiles that they give up
#: on either side. Refits see less spread than a fresh series would: 95 % of them cover some 90 %.
REFITS, TAIL = 100, 0.025
REFIT_OFFSETS: Floats = np.linspace(-4.0, 4.0, 33)

#: What the grids themselves leave open, as a share of the edits forecast.
RESOLUTION = 0.01

#: Huber's constant: residuals beyond 1.345 standard deviations count less. Three rounds settle the weights.
HUBER, ROUNDS = 1.345, 3

#: Rise of a straight line through the series, in standard errors, below which it counts as not growing.
LEAST_RISE = 3.0


@dataclass(frozen=True)
class Crossing:
    """When a series reaches a bound. Edits are counted from its last point; infinite: never.

    Attributes:
        law: the growth law that fits best.
        value: where the series stands.
        edits: how many edits are left; 0 when the bound is passed.
        low, high: interval that holds the truth in nine cases of ten.
    """

    law: Law
    value: float
    edits: float
    low: float
    high: float


def crossing(
    series: Sequence[tuple[float, float]], limit: float, high_is_bad: bool = True, roots: bool = True
) -> Crossing | None:
    """Fits the growth laws to (edits so far, value) and extrapolates the best.

    Args:
        series: in order; points that are not finite are left out.
        limit: the value that must not be passed.
        high_is_bad: the limit lies above; else below.
        roots: growth with the root of the edits is believed too.

    Returns:
        None when there are too few points or the series does not move towards its limit.
    """
    finite = [p for p in series if all(map(math.isfinite, p))]
    points: Floats = np.array(finite, dtype=np.float64).reshape(-1, 2)
    sign = 1.0 if high_is_bad else -1.0
    if len(points) < FEWEST_POINTS or points[-1, 0] <= points[0, 0]:
        return None
    n, y = _thinned(points[:, 0], sign * points[:, 1])
    if n[-1] == n[0] or n[0] < 0:
        return None
    clock, t, fit = _best(n, y, (_LINEAR_CLOCK, _ROOT_CLOCK) if roots else (_LINEAR_CLOCK,))
    fitted = _curve(t, fit)
    _, _, slope = _lines(_phi(t, np.zeros(1))[None], y[None])
    if slope[0, 0] <= LEAST_RISE * _scale(y - fitted) * math.sqrt(12 / len(n)) + _tiny(y):
        return None
    law, value, bound = _law(fit[0], clock), float(points[-1, 1]), sign * limit
    if sign * value >= bound:
        return Crossing(law, value, 0.0, 0.0, 0.0)
    # Three parameters have eaten some of the noise that the residuals show.
    residuals = (y - fitted) * math.sqrt(len(n) / (len(n) - 3))
    resampled = fitted + np.random.default_rng(0).choice(residuals, (REFITS, len(n)))
    straight = clock is _ROOT_CLOCK or not fit[0]
    refits = _straight(t, resampled) if straight else _fit(t, resampled, fit[0] + REFIT_OFFSETS)
    now = float(points[-1, 0])
    last = float(clock.spans(n, now))
    left = [clock.edits(n, last + _crossing(refit, bound, last)) - now for refit in refits]
    low, high = (float(np.quantile(left, q, method="nearest")) for q in (TAIL, 1 - TAIL))
    edits = clock.edits(n, last + _crossing(fit, bound, last)) - now
    return Crossing(
        law, value, edits, min(low, edits * (1 - RESOLUTION)), max(high, edits * (1 + RESOLUTION))
    )


def _best(n: Floats, y: Floats, clocks: "Sequence[_Clock]") -> "tuple[_Clock, Floats, Floats]":
    """The clock of the law to be believed, the series' times by it, and the law's (k, y₀, s)."""
    t = _LINEAR_CLOCK.spans(n, n)
    rate = _fit(t, y[None], RATES)[0, 0]
    fit = _fit(t, y[None], rate + OFFSETS)[0]
    if fit[0] >= STRAIGHT or (simpler := _simpler(n, y, fit, clocks)) is None:
        return _LINEAR_CLOCK, t, fit
    t = simpler.spans(n, n)
    return simpler, t, _straight(t, y[None])[0]


def _thinned(n: Floats, y: Floats) -> tuple[Floats, Floats]:
    if len(n) <= MOST_POINTS:
        return n, y
    bins = np.array_split(np.arange(len(n)), MOST_POINTS)
    return np.array([np.median(n[b]) for b in bins]), np.array([np.median(y[b]) for b in bins])


@dataclass(frozen=True)
class _Clock:
    """Time in which a law is fitted: edits to the power of `power`, in units of the series' length."""

    power: float

    def spans(self, n: Floats, at: Floats | float) -> Any:
        """Edits `at` in this time; `n` are those of the series."""
        first, last = n[0] ** self.power, n[-1] ** self.power
        return (at**self.power - first) / (last - first)

    def edits(self, n: Floats, spans: float) -> float:
        """Undoes `spans`."""
        first, last = n[0] ** self.power, n[-1] ** self.power
        return float((first + spans * (last - first)) ** (1 / self.power))


_LINEAR_CLOCK, _ROOT_CLOCK = _Clock(1.0), _Clock(0.5)


def _simpler(n: Floats, y: Floats, fit: Floats, clocks: Sequence[_Clock]) -> _Clock | None:
    """The clock by which a straight line is believed instead of `fit`, which is bounded or hardly curved.

    None when a straight line fits too badly by each clock.
    """
    bounded = _loss(_LINEAR_CLOCK.spans(n, n), y, fit[0])
    losses = [_loss(clock.spans(n, n), y, 0.0) for clock in clocks]
    best = int(np.argmin(losses))
    return clocks[best] if losses[best] <= BELIEVED * bounded else None


def _loss(t: Floats, y: Floats, rate: float) -> float:
    """Sum of the squared residuals of the law of that rate."""
    _, start, slope = _lines(_phi(t, np.array([rate]))[None], y[None])
    return float(((y - _curve(t, np.array([rate, start[0, 0], slope[0, 0]]))) ** 2).sum())


def _straight(t: Floats, y: Floats) -> Floats:
    """(0, y₀, s) of the straight line through each row of y [rows, points]: [rows, 3]."""
    _, start, slope = _lines(_phi(t, np.zeros(1))[None], y)
    return np.stack([np.zeros(len(y)), start[:, 0], slope[:, 0]], axis=1)


def _law(rate: float, clock: _Clock) -> Law:
    if clock is _ROOT_CLOCK:
        return "root"
    if abs(rate) < STRAIGHT:
        return "linear"
    return "exponential" if rate > 0 else "bounded"


def _phi(t: Floats, rates: Floats) -> Floats:
    """φ of each rate at times t: [..., points] for rates [...]."""
    rates = rates[..., None]
    safe = np.where(rates == 0, 1.0, rates)
    return np.where(rates == 0, t, np.expm1(safe * t) / safe)


def _fit(t: Floats, y: Floats, rates: Floats) -> Floats:
    """(k, y₀, s) of the best law for each row of y [rows, points]: [rows, 3]."""
    loss, _, _ = _lines(_phi(t, rates)[None], y)
    best = loss.argmin(1).clip(1, len(rates) - 2)
    before, here, after = (np.take_along_axis(loss, (best + i)[:, None], 1)[:, 0] for i in (-1, 0, 1))
    # The minimum lies between grid points: that of the parabola through three of them.
    bend = np.maximum(before - 2 * here + after, 1e-300)
    with np.errstate(over="ignore"):  # what overflows is clipped
        off = np.clip((before - after) / bend / 2, -1, 1)
    rate = rates[best] + off * (rates[1] - rates[0])
    _, start, slope = _lines(_phi(t, rate[:, None]), y)
    return np.stack([rate, start[:, 0], slope[:, 0]], axis=1)


def _lines(basis: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """Robust loss, y₀ and s of y [rows, points] on each basis [rows or 1, rates, points]: [rows, rates]."""
    y = y[:, None]
    start, slope, size, scale = _weighted_lines(basis, y, np.ones_like(y))
    for _ in range(ROUNDS):
        weights = np.minimum(1.0, HUBER * scale / np.maximum(size, 1e-300))
        start, slope, size, scale = _weighted_lines(basis, y, weights)
    loss = np.where(size <= HUBER * scale, size**2 / 2, HUBER * scale * (size - HUBER * scale / 2)).sum(-1)
    return loss, start, slope


def _weighted_lines(basis: Floats, y: Floats, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """y₀ and s by weighted least squares, absolute residuals [rows, rates, points], and their scale."""
    total = weights.sum(-1)
    x_mean, y_mean = (weights * basis).sum(-1) / total, (weights * y).sum(-1) / total
    dx, dy = basis - x_mean[..., None], y - y_mean[..., None]
    slope = (weights * dx * dy).sum(-1) / (weights * dx * dx).sum(-1)
    size = np.abs(dy - slope[..., None] * dx)
    # One scale for all rates of a row, that of the best one. With its own scale a bad law would look good.
    scale = np.median(size, -1).min(-1)[:, None, None] * 1.4826 + _tiny(y)
    return y_mean - slope * x_mean, slope, size, scale


def _curve(t: Floats, fit: Floats) -> Floats:
    return fit[1] + fit[2] * _phi(t, fit[0])


def _crossing(fit: Floats, bound: float, last: float) -> float:
    """Spans from `last` until the law reaches `bound`; infinite when it never does."""
    rate, start, s = fit.tolist()
    if s <= 0:
        return math.inf
    needed = (bound - start) / s  # φ there
    if rate == 0:
        return max(0.0, needed - last)
    if 1 + rate * needed <= 0:
        return math.inf
    return max(0.0, math.log1p(rate * needed) / rate - last)


def _scale(residuals: Floats) -> float:
    """Standard deviation from the median absolute residual."""
    return float(np.median(np.abs(residuals))) * 1.4826


def _tiny(y: Floats) -> float:
    """Rounding of the values, so that a flawless series has no noise of zero."""
    return 1e-9 * float(np.abs(y).max()) + 1e-300
