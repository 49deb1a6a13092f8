"""What a stream that changes tells of a method: when the model collapses, and how its weights grow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.runs import UNEDITED

#: A model has collapsed when its perplexity is so many times the unedited one's, or S is below this percent.
COLLAPSE_PERPLEXITY, COLLAPSE_S = 3.0, 60.0
#: Fewest checkpoints that a growth law is fitted to.
FEWEST = 3

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Ending:
    """When a stream ends before its last edit.

    Attributes:
        perplexity_ratio, s: past them the model counts as collapsed.
        seconds: of writing, after which no further checkpoint is begun.
    """

    perplexity_ratio: float = COLLAPSE_PERPLEXITY
    s: float = 0.0
    seconds: float = math.inf

    def collapsed(self, row: Row) -> str:
        """In what way the model of a row has; "" where it stands."""
        ratio, s = _number(row["perplexity_ratio"]), _number(row["s"])
        # Written this way round, so that what is no number has collapsed.
        if not ratio <= self.perplexity_ratio:
            return f"collapsed: perplexity is {ratio:.3g} times the unedited model's"
        return f"collapsed: S is {s:.1f}" if s < self.s else ""

    def __call__(self, row: Row) -> str:
        """Why a stream ends after a row of a run; "" where it goes on."""
        over = row["seconds"] >= self.seconds
        return self.collapsed(row) or (
            f"{row['seconds'] / 60:.0f} minutes of writing are over" if over else ""
        )


def collapse(rows: Sequence[Row], ending: Ending) -> tuple[int | None, int]:
    """(Edits at the first checkpoint where the model has collapsed, those at the last one before it).

    The first is None where it never did.
    """
    standing = 0
    for row in sorted(rows, key=lambda row: row["edits"]):
        if ending.collapsed(row):
            return row["edits"], standing
        standing = row["edits"]
    return None, standing


def exponent(rows: Sequence[Row]) -> float | None:
    """p of the law (‖W_t‖ − ‖W₀‖) / ‖W₀‖ = c tᵖ of the worst layer's norm against edits t.

    By least squares of the logarithms, over all checkpoints with a larger norm than before the edits. None
    where there are fewer than three. Independent writes give p = 1 while they are small beside W₀, since
    squared norms add. A norm that stays has p = 0.
    """
    found = [(row["edits"], _number(row["weight_norm_ratio_max"]) - 1) for row in rows]
    points = [(t, grown) for t, grown in found if t > 0 and math.isfinite(grown) and grown > 0]
    if len({t for t, _ in points}) < FEWEST:
        return None
    edits, grown = np.log(np.array(points)).T
    return float(np.polyfit(edits, grown, 1)[0])


def laws(rows: Sequence[Row], endings: Mapping[str, Ending]) -> list[dict[str, Any]]:
    """One object for each method on each stream, from the rows of lifelong.json.

    `collapse_at` is the first checkpoint past the collapse, `standing_at` the last one before it. An anchored
    method has a `nas_factor`: its `collapse_at` over that of the same method without an anchor. Where only
    the other one has collapsed, it is a lower bound, from `standing_at`.

    Args:
        endings: of each stream.
    """
    lines = dict[tuple[str, str], list[Row]]()
    for row in rows:
        if row["edits"] and row["method"] != UNEDITED:
            lines.setdefault((row["method"], row["stream"]), []).append(row)
    found = {line: _law(*line, told, endings[line[1]]) for line, told in lines.items()}
    for (method, stream), law in found.items():
        bare = found.get((_without_anchor(method), stream))
        if bare is not None and bare is not law and bare["collapse_at"]:
            reached = law["collapse_at"] or law["standing_at"]
            law |= {"nas_factor": reached / bare["collapse_at"], "at_least": law["collapse_at"] is None}
    return list(found.values())


def _law(method: str, stream: str, rows: Sequence[Row], ending: Ending) -> dict[str, Any]:
    at, standing = collapse(rows, ending)
    by_edits = sorted(rows, key=lambda row: row["edits"])
    first, last = by_edits[0], by_edits[-1]
    return {
        "method": method,
        "stream": stream,
        "edits": last["edits"],
        "collapse_at": at,
        "standing_at": standing,
        "norm_exponent": exponent(rows),
        "weight_norm_ratio_max": last["weight_norm_ratio_max"],
        "value_norm_first": first["more"].get("value_norm"),
        "value_norm_last": last["more"].get("value_norm"),
        "nas_factor": None,
        "at_least": False,
    }


def _without_anchor(method: str) -> str:
    parts = method.split(":")
    return ":".join([*parts[:2], "none", *parts[3:]]) if len(parts) > 2 else method


def _number(value: float | None) -> float:
    """JSON has null for what is no number."""
    return math.nan if value is None else value
