"""`factd bench measures`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.files import write_json
from benchmarks.measures import layer_cost
from daemon.cli.exits import CommandError, Exit, fail
from daemon.cli.options import JsonOption, OutOption
from daemon.cli.output import show_json, show_table


def measures(
    out: OutOption = Path("bench"),
    shape: Annotated[str, typer.Option(help="Rows x columns of the weight.")] = "4096x14336",
    as_json: JsonOption = False,
) -> None:
    """Time the weight-space measures of one synthetic layer beside its update; writes OUT/measures.json."""
    rows, _, columns = shape.partition("x")
    if not (rows.isdigit() and columns.isdigit() and int(rows) and int(columns)):
        fail(
            CommandError(Exit.BAD_INPUT, f"--shape {shape!r} is no shape", "write it as 4096x14336"), as_json
        )
    result = layer_cost(int(rows), int(columns))
    write_json(out / "measures.json", result)
    if as_json:
        show_json(result)
        return
    spent = [(name, f"{seconds:.3g} s") for name, seconds in result["seconds"].items()]
    rate = f"{result['matrix_flops_per_second'] / 1e9:.0f} GFLOP/s"
    share = f"{result['share']:.1%} of the update of one fact"
    show_table(f"Measures; {out / 'measures.json'}", ("", ""), [*spent, ("rate", rate), ("share", share)])
