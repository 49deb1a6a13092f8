"""`factd plot`: the stability history of the versions that were served, as a picture."""

# matplotlib leaves out what its figures' methods take.
# pyright: reportUnknownMemberType=false

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

# Not pyplot: that keeps figures and a backend as global state.
from matplotlib.figure import Figure

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json
from daemon.core.lifecycle import OperationKind, OperationState, VersionState
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import VersionRow
from monitoring.measure import Measure
from monitoring.registry import WATCHED
from monitoring.thresholds import Thresholds

#: What the verdict said of a measure → the colour of its point.
COLOURS = {"ok": "tab:green", "warn": "tab:orange", "limit": "tab:red", "unknown": "tab:grey"}
#: Inches: height of a panel; width of the picture, at least, at most, and for each version.
PANEL_HEIGHT, WIDTH, WIDEST, PER_VERSION = 2.4, 10.0, 40.0, 0.35
#: At most so many versions are named on the axis.
NAMED = 60


@dataclass(frozen=True)
class Served:
    """A version that went live. `rollback` says who went back to it; None when it was new."""

    row: VersionRow
    at: float
    rollback: str | None = None


@dataclass(frozen=True)
class Series:
    """One watched measure over what was served; NaN where it was not measured."""

    measure: Measure
    values: list[float] = field(default_factory=list[float])
    states: list[str] = field(default_factory=list[str])

    @property
    def measured(self) -> bool:
        return any(map(math.isfinite, self.values))


def plot(
    out: Annotated[Path, typer.Option(help="The picture; .png, .svg or .pdf.")] = Path("stability.png"),
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw how the measures of the served versions went, with limits, versions and rollbacks."""
    with open_ledger(state, as_json) as (settings, ledger):
        served = history(ledger)
        found = [one for one in series(served) if one.measured]
        if not found:
            mend = "post a correction; measures are kept with each version"
            raise CommandError(Exit.NOT_FOUND, "no version with measurements was served yet", mend)
        try:
            thresholds = Thresholds().overridden(settings.thresholds)
            draw(served, found, thresholds, out)
        except (OSError, ValueError) as error:
            raise CommandError(
                Exit.BAD_INPUT, f"--out {out}: {error}", "give a file in a writable folder"
            ) from None
    names = [one.measure.name for one in found]
    if as_json:
        versions = [{"version": one.row.id, "at": one.at, "rollback": one.rollback} for one in served]
        show_json({"out": str(out), "versions": versions, "measures": names})
    else:
        typer.echo(f"{out}: {len(names)} measures over {len(served)} publications")


def history(ledger: Ledger) -> list[Served]:
    """What was served, in order: each version that went live, and each that a rollback returned to."""
    rollbacks = {
        str(row.id): row
        for row in ledger.questions.operations(OperationState.DONE)
        if row.kind is OperationKind.ROLLBACK and row.target is not None
    }
    served: list[Served] = []
    for change in ledger.questions.transitions():
        if change.kind == "version" and change.new == VersionState.LIVE:
            served.append(Served(ledger.questions.version(change.id), change.at))
        asked = rollbacks.get(change.id) if change.kind == "operation" else None
        if asked is None or asked.target is None or change.new != OperationState.DONE:
            continue
        if not served or served[-1].row.id != asked.target:  # the base has no row that could go live
            served.append(Served(ledger.questions.version(asked.target), change.at))
        served[-1] = replace(served[-1], rollback=asked.actor)
    return served


def series(served: Sequence[Served]) -> list[Series]:
    """One series for each watched measure; of a measure with a value for each layer, the worst layer's."""
    found = [Series(measure) for measure in WATCHED]
    for one in served:
        measured, verdict = one.row.measurements or {}, one.row.verdict or {}
        for line in found:
            line.values.append(_worst(measured.get(line.measure.name), line.measure.high_is_bad))
            line.states.append(verdict.get("guards", {}).get(line.measure.name, "unknown"))
    return found


def _worst(stored: dict[str, Any] | float | str | None, high_is_bad: bool) -> float:
    """The value of a stored measure: one number, or the worst layer's; NaN if any layer's is NaN."""
    values = list(stored.values()) if isinstance(stored, dict) else [stored]
    numbers = [float(value) for value in values if value is not None]
    if not numbers or any(map(math.isnan, numbers)):
        return math.nan
    return max(numbers) if high_is_bad else min(numbers)


def draw(served: Sequence[Served], found: Sequence[Series], limits: Thresholds, out: Path) -> None:
    """One panel a measure; points have the colour of its state when the version was last judged."""
    width = min(WIDEST, max(WIDTH, PER_VERSION * len(served)))
    figure = Figure(figsize=(width, PANEL_HEIGHT * len(found) + 1), layout="constrained")
    panels = figure.subplots(len(found), 1, squeeze=False, sharex=True)[:, 0]
    places = range(len(served))
    for panel, line in zip(panels, found, strict=True):
        panel.plot(places, line.values, color="tab:blue", linewidth=1)
        for state, colour in COLOURS.items():
            at = [i for i in places if line.states[i] == state]
            panel.plot(at, [line.values[i] for i in at], "o", color=colour, markersize=4, label=state)
        bounds = limits[line.measure.name]
        for kind, limit, colour in (("warn", bounds.warn, "tab:orange"), ("limit", bounds.limit, "tab:red")):
            if limit or line.measure.high_is_bad:  # a limit of 0 stops nothing: a share is never below it
                panel.axhline(limit, color=colour, linestyle="--", linewidth=0.8, label=f"{kind} at")
        for i in (i for i in places if served[i].rollback):
            panel.axvline(i, color="tab:purple", linestyle=":", label="rollback")
        panel.set_title(line.measure.name, loc="left", fontsize="medium")
        panel.grid(axis="y", alpha=0.3)
    step = -(-len(served) // NAMED)
    names = [one.row.id + (f"\n({one.rollback})" if one.rollback else "") for one in served]
    panels[-1].set_xticks(list(places)[::step], names[::step], rotation=90, fontsize="x-small")
    handles, labels = panels[0].get_legend_handles_labels()
    marks = dict(zip(labels, handles, strict=True))
    for panel in panels[1:]:
        marks |= dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    figure.legend(list(marks.values()), list(marks), loc="outside upper right", ncols=4, fontsize="small")
    figure.suptitle("Measures of what was served; limits before calibration", x=0.01, ha="left")
    figure.savefig(out, dpi=110)
