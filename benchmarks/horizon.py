"""How many edits a model bears: streams of facts under several configurations, scored at checkpoints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.configuration import Configuration, Model
from benchmarks.files import Say, write_json
from benchmarks.runs import UNEDITED, Run, Stream, Unedited, collected


def horizon(
    model: Model, stream: Stream, configurations: Sequence[Configuration], out: Path, say: Say
) -> list[dict[str, Any]]:
    """Runs the configurations one after another and returns the rows of horizon.json, of earlier runs too."""
    base = Unedited(model, stream, out)
    for configuration in configurations:
        Run(model, stream, configuration, out, base, say).go()
        write_json(out / "horizon.json", collected(out))
    return collected(out)


def label(row: dict[str, Any]) -> str:
    """A configuration's name in tables and plots."""
    parts = [row[name] for name in ("method", "placement", "anchor", "protect", "options")]
    return " ".join(part for part in parts if part and part != "none") or UNEDITED


def method_of(run: Mapping[str, Any]) -> str:
    """A configuration as `--config` reads it; the model without edits is "unedited"."""
    parts = [run[name] for name in ("method", "placement", "anchor", "protect")]
    return UNEDITED if run["method"] == UNEDITED else ":".join([*parts, *filter(None, [run["options"]])])


#: Columns of the table and how they are shown.
COLUMNS = {
    "edits": "{:d}",
    "es": "{:.1f}",
    "ps": "{:.1f}",
    "ns": "{:.1f}",
    "s": "{:.1f}",
    "exact_match": "{:.1f}",
    "generation_match": "{:.1f}",
    "retention_oldest": "{:.1f}",
    "retention_newest": "{:.1f}",
    "perplexity_ratio": "{:.3f}",
    "glue": "{:.1f}",
    "weight_norm_ratio_max": "{:.3f}",
    "subspace_similarity_min": "{:.3f}",
    "seconds": "{:.0f}",
}


def table(rows: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Rows of text: the configuration and `COLUMNS`."""
    return [
        [
            label(row),
            *("" if row.get(name) is None else form.format(row[name]) for name, form in COLUMNS.items()),
        ]
        for row in sorted(rows, key=lambda row: row["edits"])
    ]
