"""The figures of the documentation, from the measurements in docs/data: `make docs` draws them anew.

    python -m benchmarks.drawing.figures              all of them
    python -m benchmarks.drawing.figures demo FILE   what `factd demo --json FILE` wrote: docs/images/demo.svg

The files of docs/data hold rows as `factd bench horizon` writes them, with two fields more: `line`, the name
in the legend, and `anchor_norm`, for two runs may differ in how the anchor was measured; nas-drift.json has
`value_norm` too, the mean norm of the 50 values found last, read from the runs' states.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.drawing import demo_picture
from monitoring.registry import FLOORS

DOCS = Path(__file__).parents[2] / "docs"
#: What the picture of the demo is drawn from.
DEMO = DOCS / "data" / "demo.json"
#: Inches of a panel; two or three stand in a row of text.
WIDTH, HEIGHT = 3.6, 2.9
#: Safe for most colour-blind eyes (Okabe and Ito), the darkest for what the product does.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """`y` against `x`, both fields of a row.

    Attributes:
        start: y of the unedited model, when it is known.
        limit: y at which the guard stops a version.
    """

    y: str
    title: str
    x: str = "edits"
    start: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Figure:
    """`lines`: of the data file those that are shown, in this order."""

    name: str
    data: str
    lines: tuple[str, ...]
    panels: tuple[Panel, ...]


NORM = Panel("weight_norm_ratio_max", "‖W‖ / ‖W₀‖, worst layer", start=1.0)
PERPLEXITY = Panel(
    "perplexity_ratio", "perplexity over the base's", start=1.0, limit=FLOORS["probe_perplexity_ratio"].limit
)
S = Panel("s", "S")
EXACT = Panel("exact_match", "answered word for word, %")
LS = Panel("subspace_similarity_min", "LS, worst layer", start=1.0, limit=FLOORS["subspace_similarity"].limit)
VALUE = Panel("value_norm", "‖v‖ of the newest 50 values")
S_COST = Panel("s", "S", x="perplexity_ratio")
EXACT_COST = Panel("exact_match", "answered word for word, %", x="perplexity_ratio")
COSTS = (S_COST, EXACT_COST)
LS_COST = Panel("perplexity_ratio", "perplexity over the base's", x="subspace_similarity_min")

DEFAULT, NONE = "nas-cap, 1.5 anchors (default)", "no anchor"
ANCHORS = (DEFAULT, NONE, "nas-cap, 1 anchor", "nas, 1 anchor", "nas, 0.87 anchors")
ONCE, COMPACTED = "each batch once", "again, 90,000 tokens, compacted every 500"
NOW = "the default now, compacted every 500"
PLAIN = "memit-seq"
BEST = f"{PLAIN}, nas-cap (default)"
BATCHED = (PLAIN, "memit", "alphaedit")
ALL = (*BATCHED, "encore")


def _with(choice: str, methods: Sequence[str]) -> list[str]:
    return [f"{method}, {choice}" for method in methods]


FIGURES = (
    Figure(
        "horizon", "horizon-2000.json", (ONCE, f"{ONCE}, compacted", COMPACTED, NOW), (EXACT, PERPLEXITY, LS)
    ),
    Figure("anchor", "horizon-500.json", ANCHORS, (NORM, PERPLEXITY, EXACT)),
    Figure("dominant", "horizon-500.json", (*ANCHORS, "no anchor, λ 500"), (LS, LS_COST)),
    Figure("drift", "nas-drift.json", ("nas, 1 anchor", NONE), (VALUE, PERPLEXITY, NORM)),
    Figure(
        "compaction",
        "horizon-500.json",
        (NONE, f"{NONE}, compacted", "nas, 0.87 anchors", "nas, 0.87 anchors, compacted"),
        (EXACT, PERPLEXITY, LS),
    ),
    Figure(
        "methods",
        "grid-500.json",
        (f"{PLAIN}, again (default)", PLAIN, "memit", "alphaedit", "encore"),
        (S, PERPLEXITY, LS),
    ),
    Figure("placement", "grid-500.json", (PLAIN, *_with("boundary (BLUE)", ALL)), (EXACT, PERPLEXITY, LS)),
    Figure("protect", "grid-500.json", (PLAIN, *_with("REVIVE", ALL)), (EXACT, PERPLEXITY, LS)),
    Figure("nas", "grid-500.json", tuple(_with("nas", ALL)), (EXACT, PERPLEXITY, LS)),
    Figure(
        "frontier",
        "grid-500.json",
        (f"{PLAIN}, again (default)", "memit", "alphaedit", "encore", *_with("boundary (BLUE)", BATCHED[:2])),
        COSTS,
    ),
    Figure(
        "frontier-1000",
        "grid-1000.json",
        (
            f"{PLAIN}, again, compacted every 500 (default)",
            f"{PLAIN}, no anchor",
            f"{PLAIN}, nas",
            "memit",
            "alphaedit",
            "alphaedit, REVIVE",
        ),
        COSTS,
    ),
    Figure("compacted", "compacted-500.json", (BEST, *_with(NONE, ALL)), (*COSTS, LS)),
)
AXES = {
    "edits": "edits",
    "subspace_similarity_min": "LS, worst layer",
    "perplexity_ratio": "perplexity over the base's",
}


def lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each line, by edits."""
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["edits"]):
        found.setdefault(row["line"], []).append(row)
    return found


def draw(figure: Figure, rows: Sequence[Row], out: Path) -> None:
    """Writes the figure as an SVG that is the same, byte for byte, for the same rows."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    measured = lines(rows)
    with matplotlib.rc_context({"svg.hashsalt": figure.name, "font.size": 8.5}):
        canvas = Canvas(figsize=(WIDTH * len(figure.panels), HEIGHT), layout="constrained")
        panels = canvas.subplots(1, len(figure.panels), squeeze=False)[0]
        for axes, panel in zip(panels, figure.panels, strict=True):
            for i, name in enumerate(figure.lines):
                points = [(row[panel.x], row[panel.y]) for row in measured[name]]
                if panel.start is not None:
                    points.insert(0, (0, panel.start))
                # The first is dashed and on top: another may lie where it does.
                dash, order = ("--", 3) if i == 0 else ("-", 2)
                style = {"color": COLOURS[i], "marker": MARKERS[i], "markersize": 3.5, "linewidth": 1.3}
                axes.plot(*zip(*points, strict=True), label=name, linestyle=dash, zorder=order, **style)
            if panel.limit is not None:
                axes.axhline(panel.limit, color="#999999", linewidth=1, label="the guard's limit")
            axes.set(title=panel.title, xlabel=AXES[panel.x])
            axes.grid(color="#dddddd", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        shown = {
            name: handle
            for axes in panels
            for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        canvas.legend(shown.values(), shown, loc="outside lower center", ncols=3, frameon=False)
        canvas.savefig(out, metadata={"Date": None, "Creator": None})


def draw_all() -> None:
    for figure in FIGURES:
        rows = json.loads((DOCS / "data" / figure.data).read_text(encoding="utf-8"))
        path = DOCS / "images" / f"{figure.name}.svg"
        draw(figure, rows, path)
        sys.stdout.write(f"drawn: {path}\n")
    if DEMO.exists():
        draw_demo(DEMO)


def draw_demo(file: Path, docs: Path = DOCS) -> None:
    """Keeps what the picture shows of a demo's JSON in docs/data, and draws the picture."""
    shown = demo_picture.shown(json.loads(file.read_text(encoding="utf-8")))
    kept, path = docs / "data" / DEMO.name, docs / "images" / "demo.svg"
    kept.write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    path.write_text(demo_picture.picture(shown), encoding="utf-8")
    sys.stdout.write(f"drawn: {path}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drawing.figures", description="figures of the docs"
    )
    commands = parser.add_subparsers()
    demo = commands.add_parser("demo", help="the picture of a demo, from the JSON that it wrote")
    demo.add_argument("file", type=Path)
    args = parser.parse_args(arguments)
    if "file" not in args:
        draw_all()
        return
    try:
        draw_demo(args.file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(
            f"{args.file} cannot be drawn ({error!r}); write it with `factd demo --json {args.file}`"
        )


if __name__ == "__main__":
    main()
