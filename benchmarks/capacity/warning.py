"""Does a measure of a fact warn before the fact is lost? Over all runs and checkpoints together.

A stratum is two checkpoints of one run that follow each other: facts said at the first, some of which are
lost at the second. Only facts of the same stratum are compared, since some runs and times lose more than
others.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.lifelong.beliefs import MEASURES, lost_between

#: Resamples of the facts for an interval, their seed, and what lies outside on either side.
RESAMPLES, SEED, LEFT_OUT = 400, 0, 0.025

#: Measures of a stratum's facts [facts, measures], and which of them are lost [facts].
Stratum = tuple[np.ndarray, np.ndarray]


def strata(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[Stratum]:
    """Of runs, each the rows of its checkpoints. Without a lost and a kept fact a stratum tells nothing."""
    found = list[Stratum]()
    for rows in runs:
        for before, after in itertools.pairwise(sorted(rows, key=lambda row: row["edits"])):
            known, lost = lost_between(before, after)
            if any(lost) and not all(lost):
                found.append((np.array([[one[name] for name in MEASURES] for one in known]), np.array(lost)))
    return found


def warnings(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """AUROC of each measure with a 95 % interval; facts that are asked in several runs count as independent,
    so the interval is rather too narrow."""
    every = strata(runs)
    if not every:
        return []
    draw = np.random.default_rng(SEED)
    refits = [pooled([_resampled(one, draw) for one in every]) for _ in range(RESAMPLES)]
    told, lost = pooled(every), sum(int(hits.sum()) for _, hits in every)
    low, high = (np.nanquantile(refits, q, axis=0) for q in (LEFT_OUT, 1 - LEFT_OUT))
    count = sum(len(hits) for _, hits in every)
    return [
        {"measure": name, "auroc": told[i], "low": float(low[i]), "high": float(high[i])}
        | {"lost": lost, "of": count, "strata": len(every)}
        for i, name in enumerate(MEASURES)
    ]


def pooled(every: Sequence[Stratum]) -> list[float]:
    """Of each measure: how often a lost fact has more of it than a kept one of its stratum; ties half."""
    won, pairs = np.zeros(len(MEASURES)), 0
    for values, lost in every:
        a, b = values[lost][:, None], values[~lost][None]
        won += ((a > b) + (a == b) / 2).sum(axis=(0, 1))
        pairs += a.shape[0] * b.shape[1]
    return (won / pairs).tolist() if pairs else [float("nan")] * len(MEASURES)


def _resampled(one: Stratum, draw: np.random.Generator) -> Stratum:
    at = draw.integers(0, len(one[1]), len(one[1]))
    return one[0][at], one[1][at]
