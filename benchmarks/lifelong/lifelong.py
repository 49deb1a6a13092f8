"""All methods on all streams: one row a checkpoint, by free generation and by probability.

Runs are those of `benchmarks.runs`, the same as the horizon's. A killed benchmark goes on after its last
checkpoint. A configuration that fails is a row with its reason, and the next one begins.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.configuration import Configuration, Model
from benchmarks.errors import BenchError
from benchmarks.files import Say, write_json
from benchmarks.horizon import method_of
from benchmarks.intervals import Interval, wilson
from benchmarks.intervals import score as score_interval
from benchmarks.runs import Row, Run, Stream, Unedited, collected
from editing.errors import EditError

#: Fields of a row. Scores are in percent; ratios and seconds are not.
FIELDS = (
    *("method", "stream", "edits", "asked", "said_prompt", "said_paraphrase", "said_chat"),
    *("es", "ps", "ns", "s", "perplexity_ratio", "chat_neighbour_same"),
    *("retention_oldest", "retention_newest", "weight_norm_ratio_max", "subspace_similarity_min"),
    "seconds_per_edit",
)
#: Field of a row → the field of a run's row that it has another name in.
_RENAMED = {
    "stream": "dataset",
    "asked": "scored",
    "retention_oldest": "said_oldest",
    "retention_newest": "said_newest",
}
#: Shares → the field of a run's row that has how many were asked.
_ASKED = {
    **dict.fromkeys(("said_prompt", "said_paraphrase", "said_chat", "es", "ps", "ns"), "scored"),
    "chat_neighbour_same": "others",
    "retention_oldest": "asked_oldest",
    "retention_newest": "asked_newest",
}
#: What else is told of a row, under `more`.
_MORE = (
    *("written", "value_norm", "singular_vector_similarity_min", "exact_match", "generation_match"),
    *("retention_oldest", "retention_newest", "glue", "refused"),
)


def lifelong(
    model: Model, streams: Iterable[Stream], configurations: Sequence[Configuration], out: Path, say: Say
) -> list[Row]:
    """Runs every configuration on every stream; returns the rows of lifelong.json, of earlier runs too."""
    failed = list[Row]()

    def write() -> list[Row]:
        found = [*rows(collected(out)), *failed]
        write_json(out / "lifelong.json", found)
        return found

    for stream in streams:
        tell = _about(stream, say)
        tell(f"up to {stream.checkpoints[-1]} edits; asking the unedited model")
        base = Unedited(model, stream, out)
        for configuration in configurations:
            try:
                Run(model, stream, configuration, out, base, tell).go(write)
            except (BenchError, EditError) as error:
                tell(f"{configuration} fails: {error}")
                failed.append(_failure(configuration, stream, str(error)))
                write()
    return write()


def _about(stream: Stream, say: Say) -> Callable[[str], None]:
    return lambda text: say(f"{stream.dataset}: {text}")


def rows(runs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of lifelong.json from those of runs; those of a horizon in the same folder are left out."""
    return [_row(run) for run in runs if "said_prompt" in run]


def _row(run: Mapping[str, Any]) -> Row:
    edits = run["edits"]
    told = {"method": method_of(run), "seconds_per_edit": run["seconds"] / edits if edits else None}
    row: Row = {name: told[name] if name in told else run[_RENAMED.get(name, name)] for name in FIELDS}
    row["intervals"] = _intervals(row, run)
    row["reason"] = None
    row["more"] = {name: run.get(name) for name in _MORE}
    return row


def _intervals(row: Row, run: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """95 % intervals in percent; null where nothing was asked."""
    found = {name: _interval(row[name], run[asked]) for name, asked in _ASKED.items()}
    parts = [row[name] for name in ("es", "ps", "ns")]
    if all(map(_is_share, parts)):
        es, ps, ns = (part / 100 for part in parts)
        found["s"] = _percent(score_interval(es, ps, ns, run["scored"]))
    return found


def _interval(percent: float | None, asked: int) -> list[float] | None:
    return _percent(wilson(percent / 100, asked)) if percent is not None and _is_share(percent) else None


def _is_share(percent: float | None) -> bool:
    return percent is not None and not math.isnan(percent)


def _percent(interval: Interval) -> list[float]:
    # Without the rounding of roots: a share of 1 has its upper end at 100.
    return [round(100 * end, 6) for end in interval]


def _failure(configuration: Configuration, stream: Stream, reason: str) -> Row:
    row: Row = dict.fromkeys(FIELDS)
    row |= {"method": str(configuration), "stream": stream.dataset, "edits": 0, "asked": 0}
    return row | {"intervals": {}, "reason": reason, "more": {}}


#: Columns of `table` and how they are shown.
COLUMNS = {
    "edits": "{:d}",
    "said_prompt": "{:.1f}",
    "said_paraphrase": "{:.1f}",
    "said_chat": "{:.1f}",
    "es": "{:.1f}",
    "ps": "{:.1f}",
    "ns": "{:.1f}",
    "s": "{:.1f}",
    "perplexity_ratio": "×{:.3f}",
    "chat_neighbour_same": "{:.1f}",
    "retention_oldest": "{:.1f}",
    "retention_newest": "{:.1f}",
    "weight_norm_ratio_max": "{:.3f}",
    "subspace_similarity_min": "{:.3f}",
    "seconds_per_edit": "{:.2f}",
}
TITLES = ("method", "stream", *COLUMNS, "reason")


def table(found: Sequence[Row]) -> list[list[str]]:
    """Rows of text, those of a stream together; what was not measured is empty."""
    ordered = sorted(found, key=lambda row: (row["stream"], row["method"], row["edits"]))
    return [
        [row["method"], row["stream"], *(_cell(row, name) for name in COLUMNS), row["reason"] or ""]
        for row in ordered
    ]


def _cell(row: Row, name: str) -> str:
    value, interval = row[name], row["intervals"].get(name)
    if value is None:
        return ""
    told = COLUMNS[name].format(value)
    return f"{told} ({interval[0]:.0f}–{interval[1]:.0f})" if interval else told
