"""Plots of what the benchmarks measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.horizon import label
from monitoring.registry import LAYER_MEASURES, MEASURES, SCALAR_MEASURES

#: Panels of the horizon's plot: field and title.
HORIZON = (
    ("s", "S (harmonic mean of ES, PS, NS)"),
    ("perplexity_ratio", "perplexity over the base's"),
    ("exact_match", "exact match, %"),
    ("retention_oldest", "ES of the oldest tenth, %"),
    ("weight_norm_ratio_max", "‖W‖ / ‖W₀‖, worst layer"),
    ("subspace_similarity_min", "LS, worst layer"),
)
#: Panels of a collapse's plot: what is served, then every measure that was taken.
COLLAPSE = ("perplexity_ratio", "s", *SCALAR_MEASURES, *LAYER_MEASURES)
#: Columns of its panels, and inches of each.
COLLAPSE_COLUMNS, COLLAPSE_PANEL = 4, (4.0, 2.2)
#: What grows by orders of magnitude.
LOGARITHMIC = ("perplexity_ratio", *(m.name for m in MEASURES if m.wide))
#: Points in time that are marked, and their colours.
EVENTS = {
    "warned": "orange",
    "refused": "red",
    "rolled_back": "purple",
    "compacted": "green",
    "paused": "grey",
    "collapse": "black",
}
#: Runs drawn with one style before the next is taken.
COLOURS = 10
STYLES = ("-", "--", ":", "-.")


def _figure(rows: int, columns: int, panel: tuple[float, float] = (6.0, 3.6)) -> tuple[Any, list[Any]]:
    # Not pyplot: that keeps figures and a backend as global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def horizon(rows: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """`horizon.png`: measures against edits; `frontier.png`: S against perplexity at each checkpoint."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["edits"]):
        lines.setdefault(label(dict(row)), []).append(row)
    styles = {
        name: {"color": f"C{i % COLOURS}", "linestyle": STYLES[i // COLOURS % len(STYLES)]}
        for i, name in enumerate(lines)
    }
    figure, panels = _figure(3, 2)
    for panel, (field, title) in zip(panels, HORIZON, strict=True):
        for name, line in lines.items():
            points = [(row["edits"], row[field]) for row in line if row[field] is not None]
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **styles[name])
        panel.set(title=title, xlabel="edits")
        if field in ("perplexity_ratio", "weight_norm_ratio_max"):
            panel.set_yscale("log")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(out / "horizon.png", dpi=110)

    figure, (panel,) = _figure(1, 1)
    for name, line in lines.items():
        points = [(row["perplexity_ratio"], row["s"]) for row in line if row["perplexity_ratio"] is not None]
        panel.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, **styles[name])
    panel.set(xlabel="perplexity over the base's", ylabel="S", xscale="log", title="each point a checkpoint")
    figure.legend(*panel.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.savefig(out / "frontier.png", dpi=110)
    return [out / "horizon.png", out / "frontier.png"]


def collapse(runs: Sequence[Mapping[str, Any]], out: Path) -> list[Path]:
    """`collapse-<stream>.png`: measures against edits, guard off and on, and when it did what."""
    paths = []
    for stream in dict.fromkeys(run["row"]["stream"] for run in runs):
        of_stream = [run for run in runs if run["row"]["stream"] == stream]
        taken = [f for f in COLLAPSE if any(p[f] is not None for run in of_stream for p in run["series"])]
        rows = max(1, math.ceil(len(taken) / COLLAPSE_COLUMNS))
        figure, panels = _figure(rows, COLLAPSE_COLUMNS, COLLAPSE_PANEL)
        for run in of_stream:
            _add_run(dict(zip(taken, panels, strict=False)), run)
        for empty in panels[len(taken) :]:
            empty.set_axis_off()
        figure.suptitle(stream)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
        paths.append(out / f"collapse-{stream}.png")
        figure.savefig(paths[-1], dpi=60)
    return paths


def _add_run(panels: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    row = run["row"]
    name, style, colour = ("guard on", "--", "C1") if row["guard"] else ("guard off", "-", "C0")
    for field, panel in panels.items():
        # What was measured of a refused version is not kept: `refused` is an event.
        points = [(point["edits"], point[field]) for point in run["series"] if point["published"]]
        shown = [(edits, value) for edits, value in points if value is not None]
        if shown:
            panel.plot(*zip(*shown, strict=True), color=colour, linestyle=style, label=name)
        for event, mark in EVENTS.items():
            at = row[f"{event}_at"]
            if at is not None:
                panel.axvline(at, color=mark, linestyle=style, linewidth=0.8, label=f"{name}: {event}")
        panel.set_title(field, fontsize="medium")
        if field in LOGARITHMIC:
            panel.set_yscale("log")
