"""Durations counted by upper bounds: a histogram that can be kept as a running total."""

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

#: Upper bounds in seconds, from a swap (tens of milliseconds) to a large batch on a slow machine. The ledger
#: stores its totals by these: a change here needs a migration that counts them anew.
STAGE_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
#: the bounds as Prometheus writes them; the last one has no upper end
LABELS = (*(f"{bound:g}" for bound in STAGE_BOUNDS), "+Inf")


def bound_of(seconds: float) -> str:
    """The label of the smallest bound that the duration does not exceed."""
    return LABELS[bisect.bisect_left(STAGE_BOUNDS, seconds)]


@dataclass(frozen=True)
class Durations:
    """How many durations fall under each bound and under none smaller, and their sum in seconds."""

    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    seconds: float = 0.0

    @classmethod
    def of(cls, durations: Iterable[float]) -> "Durations":
        counts: dict[str, int] = {}
        listed = list(durations)
        for label in map(bound_of, listed):
            counts[label] = counts.get(label, 0) + 1
        return cls(counts, math.fsum(listed))

    def __add__(self, other: "Durations") -> "Durations":
        counts = {label: self.counts.get(label, 0) + other.counts.get(label, 0) for label in LABELS}
        return Durations(counts, self.seconds + other.seconds)

    def cumulative(self) -> list[tuple[str, int]]:
        """(label, how many are at most so long) in the order of the bounds."""
        total, found = 0, list[tuple[str, int]]()
        for label in LABELS:
            total += self.counts.get(label, 0)
            found.append((label, total))
        return found
