"""Publications as clients felt them: how long each waited around a flip."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.service.streaming import Answer


@dataclass(frozen=True)
class Flip:
    """One publication; times are of `time.perf_counter()`.

    Attributes:
        accepted: before the version was written.
        staged: every replica had read and verified it; the flip begins.
        flipped: every replica serves it.
        confirmed: the replicas' hashes were read back.
        pause_seconds: how long the scheduler stood still.
        drain_seconds: how long answers were let end before, while new ones waited.
        bytes: what a replica reads of the version.
        rss_bytes: memory of the server's processes afterwards.
    """

    version: str
    accepted: float
    staged: float
    flipped: float
    confirmed: float
    pause_seconds: float
    bytes: int
    rss_bytes: int
    drain_seconds: float = 0.0


def felt_pauses(flips: Sequence[Flip], answers: Sequence[Answer]) -> list[float]:
    """For each flip and each client that was being answered: its longest wait for a token around the flip.

    Around: the wait began before every replica served the new version and ended after the flip began.
    """
    longest: dict[tuple[int, int], float] = {}
    for answer in answers:
        for number, flip in enumerate(flips):
            first = max(1, bisect_right(answer.times, flip.staged))
            last = bisect_right(answer.times, flip.flipped) + 1
            waits = _waits(answer.times[first - 1 : last])
            if waits:
                key = number, answer.client
                longest[key] = max(longest.get(key, 0.0), *waits)
    return list(longest.values())


def longest_wait(flips: Sequence[Flip], answers: Sequence[Answer]) -> float | None:
    """Of any client around any flip, for the next token or for the first: new requests wait too."""
    waits = [
        after - before
        for answer in answers
        for before, after in pairwise((answer.asked, *answer.times))
        if any(before <= flip.flipped and after >= flip.staged for flip in flips)
    ]
    return max(waits, default=None)


def ordinary_waits(flips: Sequence[Flip], answers: Sequence[Answer]) -> list[float]:
    """Waits between two tokens while nothing was published at all."""
    busy = [(flip.accepted, flip.confirmed) for flip in flips]
    return [
        after - before
        for answer in answers
        for before, after in pairwise(answer.times)
        if not any(before <= end and after >= start for start, end in busy)
    ]


def _waits(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value that `share` of all do not pass (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None


def growth(values: Sequence[int]) -> int:
    """Median of the last fifth less median of the second: the first fifth fills caches."""
    fifth = max(1, len(values) // 5)
    return round(statistics.median(values[-fifth:]) - statistics.median(values[fifth : 2 * fifth] or values))
