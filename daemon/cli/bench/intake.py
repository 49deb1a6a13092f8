"""`factd bench intake`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.files import say, write_json
from benchmarks.service.intake import Load
from benchmarks.service.intake import intake as measured
from daemon.cli.options import JsonOption, OutOption
from daemon.cli.output import show_json, show_table


def intake(
    out: OutOption = Path("bench"),
    clients: Annotated[int, typer.Option(min=1, help="Clients that post at the same time.")] = 8,
    single: Annotated[int, typer.Option(min=1, help="Corrections posted one by one.")] = 3000,
    bulk: Annotated[int, typer.Option(min=500, help="Corrections posted 500 in a request.")] = 40_000,
    rate: Annotated[float, typer.Option(min=1, help="Posts a second at a steady pace.")] = 150.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long the steady pace is kept.")] = 10.0,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast the HTTP API takes corrections in; writes OUT/intake.json. Edits nothing."""
    result = measured(Load(clients, single, bulk, rate=rate, seconds=seconds), say)
    write_json(out / "intake.json", result)
    if as_json:
        show_json(result)
    else:
        rows = [(name, f"{value:.4g}") for name, value in result.items()]
        show_table(f"Intake; {out / 'intake.json'}", ("", ""), rows)
