"""`factd bench values`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.files import say, write_json
from benchmarks.service.values import bench
from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption, settings_of
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.supervise.processes import ProcessError
from editing.errors import EditError


def values(
    out: OutOption = Path("bench"),
    edits: Annotated[int, typer.Option(min=1, help="Facts whose values are found.")] = 16,
    workers: Annotated[int, typer.Option(min=1, help="Real workers that are measured, at most.")] = 2,
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what fanning out values costs and simulate many workers; writes OUT/values.json."""
    with reported(as_json):
        try:
            result = bench(settings_of(model=model, state_dir=state), edits, workers, say)
        except (EditError, ProcessError) as error:
            raise CommandError(Exit.FAILED, str(error), "run `factd doctor`") from None
    write_json(out / "values.json", result)
    if as_json:
        show_json(result)
        return
    costs = [(name, f"{1000 * value:.3g} ms") for name, value in result["costs_seconds"].items()]
    costs += [("share of a task", f"{result['cost_ratio']:.3g}")]
    show_table(f"A message; {out / 'values.json'}", ("", ""), costs)
    for title, rows in (("Measured", result["measured"]), ("Simulated", result["simulated"])):
        show_table(title, tuple(rows[0]), [[f"{value:.4g}" for value in row.values()] for row in rows])
