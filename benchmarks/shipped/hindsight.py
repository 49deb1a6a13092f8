"""What recorded streams teach: which measure warned first, at what level each stood, and whether the forecast
was right.

Only streams that collapsed with the guard off say something of it; a stream that did not, the default's, says
how far good edits carry each measure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.shipped.trial import COLLAPSED_PERPLEXITY
from monitoring.forecast import forecast
from monitoring.registry import JUDGED, WATCHED
from monitoring.thresholds import Thresholds, calibrated

#: A version whose perplexity is no further above the base's is one that could still be served.
SERVABLE = 1.2
#: A forecast is right when it errs by no more than this share of the edits that were left.
RIGHT = 0.25

Run = Mapping[str, Any]


def ended(rows: Sequence[Run]) -> list[Run]:
    """Rows of the streams that collapsed with the guard off."""
    return [row for row in rows if row["collapsed"] and not row["guard"]]


def leads(rows: Sequence[Run]) -> list[list[str]]:
    """Which measure warns earliest: edits between its first warning and collapse, for each of `ended`.

    The measure with the largest least lead comes first; one that did not warn in time has none.
    """

    def lead(name: str, row: Run) -> int:
        return row["collapse_at"] - row["first_warn"].get(name, row["collapse_at"])

    found = {name: [lead(name, row) for row in ended(rows)] for name in JUDGED}
    order = sorted(found, key=lambda name: min(found[name], default=0), reverse=True)
    return [[name, *(str(edits or "–") for edits in found[name])] for name in order]


def levels(runs: Sequence[Run]) -> list[list[str]]:
    """Each measure's worst value while the versions of a stream with the guard off could still be served.

    A warning belongs between what good edits reach and what streams that end in collapse have passed.
    """
    rows: list[list[str]] = []
    for measure in WATCHED:
        worst = max if measure.high_is_bad else min
        shown = [measure.name]
        for run in _unguarded(runs):
            values = [p[measure.name] for p in _servable(run) if p[measure.name] is not None]
            shown.append(f"{worst(values):.3g}" if values else "–")
        rows.append(shown)
    return rows


def _unguarded(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if not run["row"]["guard"]]


def _servable(run: Run) -> list[Mapping[str, Any]]:
    """The points before the first whose perplexity is too high; what is not finite is stored as None."""
    points: list[Mapping[str, Any]] = []
    for point in run["series"]:
        ratio = point["perplexity_ratio"]
        if ratio is None or ratio > SERVABLE:
            break
        points.append(point)
    return points


def foretold(runs: Sequence[Run], thresholds: Thresholds) -> list[dict[str, Any]]:
    """The forecast at half of the way to each limit passed with the guard off, and to collapse.

    Args:
        thresholds: those in force.

    Returns:
        One row a stream and measure: the edits at which the limit was passed, points seen until half of
        them, and, in edits, what was left and what was forecast (None: nothing was).
    """
    return [
        {"stream": run["row"]["stream"], "measure": name, **told}
        for run in _unguarded(runs)
        for name, limit, high in _limits(thresholds)
        if (told := _judged(run["series"], name, limit, high)) is not None
    ]


def _limits(thresholds: Thresholds) -> Iterator[tuple[str, float, bool]]:
    yield "perplexity_ratio", COLLAPSED_PERPLEXITY, True
    for measure in WATCHED:
        yield measure.name, thresholds[measure.name].limit, measure.high_is_bad


def _judged(
    series: Sequence[Mapping[str, Any]], name: str, limit: float, high: bool
) -> dict[str, Any] | None:
    points = [(float(p["edits"]), p[name]) for p in series if p[name] is not None]
    crossed = next((n for n, value in points if (value > limit) == high and value != limit), None)
    if crossed is None:
        return None
    seen = [(n, value) for n, value in points if n <= crossed / 2]
    found = forecast(seen, limit, high, name)
    told = {
        "limit_at": crossed,
        "points": len(seen),
        "left": None,
        "forecast": None,
        "low": None,
        "high": None,
    }
    if found is None:
        return told | {"right": False}
    left = crossed - seen[-1][0]
    right = abs(found.edits - left) <= RIGHT * left
    return told | {
        "left": left,
        "forecast": found.edits,
        "low": found.low,
        "high": found.high,
        "right": right,
    }


def upkeep(runs: Sequence[Run]) -> list[list[str]]:
    """What measuring costs beside editing: each part's share of the updates' time, in percent, by stream.

    Updates are those that were served: the ledger keeps no measurements with a version that was refused.
    Values that were found before are read: of updates that look for theirs the shares are smaller.
    """
    found: dict[str, dict[str, float]] = {}
    for run in runs:
        spent = found.setdefault(run["row"]["stream"], {})
        for point in run["series"]:
            for part, seconds in point["seconds"].items():
                spent[part] = spent.get(part, 0.0) + seconds
    parts = list(dict.fromkeys(part for spent in found.values() for part in spent))
    whole = {stream: sum(spent.values()) for stream, spent in found.items()}

    def share(stream: str, part: str) -> str:
        return f"{100 * found[stream].get(part, 0.0) / whole[stream]:.1f}" if whole[stream] else "–"

    return [[part, *(share(stream, part) for stream in found)] for part in parts]


def learnt(runs: Sequence[Run]) -> dict[str, list[list[str]]]:
    """Title → a table, its first row the heads of its columns; thresholds as calibrated on the model."""
    thresholds = calibrated(runs[0]["noise"])
    off = [run["row"]["stream"] for run in _unguarded(runs)]
    gone = [row["stream"] for row in ended([run["row"] for run in runs])]
    told = [
        [
            *(_shown(row[name]) for name in (*FORETOLD, "forecast")),
            f"{_shown(row['low'])} to {_shown(row['high'])}",
            "yes" if row["right"] else "no",
        ]
        for row in foretold(runs, thresholds)
    ]
    return {
        "Edits from a measure's first warning to collapse, guard off": [
            ["", *gone],
            *leads([run["row"] for run in runs]),
        ],
        f"Worst value while perplexity was at most {SERVABLE:g} times the base's, guard off": [
            ["", *off],
            *levels(runs),
        ],
        "Forecast at half of the way to a limit": [
            [*FORETOLD, "forecast", "interval", f"within {RIGHT:.0%}"],
            *told,
        ],
        "Share of the updates' time, percent": [
            ["", *dict.fromkeys(run["row"]["stream"] for run in runs)],
            *upkeep(runs),
        ],
    }


#: What a forecast's row shows of the stream.
FORETOLD = ("stream", "measure", "limit_at", "points", "left")


def _shown(value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "none"
    return "never" if math.isinf(value) else f"{value:.0f}"
