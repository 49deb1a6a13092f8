"""Plots of what the benchmarks measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.horizon import label

#: Panels of the horizon's plot: field and title.
HORIZON = (
    ("s", "S (harmonic mean of ES, PS, NS)"),
    ("perplexity_ratio", "perplexity over the base's"),
    ("exact_match", "exact match, %"),
    ("retention_oldest", "ES of the oldest tenth, %"),
    ("weight_norm_ratio_max", "‖W‖ / ‖W₀‖, worst layer"),
    ("subspace_similarity_min", "LS, worst layer"),
)
#: Runs drawn with one style before the next is taken.
COLOURS = 10
STYLES = ("-", "--", ":", "-.")


def _figure(rows: int, columns: int) -> tuple[Any, list[Any]]:
    # Not pyplot: that keeps figures and a backend as global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 3.6 * rows), layout="constrained")
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
