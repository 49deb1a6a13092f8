"""`factd bench trust`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.data import find
from benchmarks.files import say
from benchmarks.trust.measure import COLUMNS, table
from benchmarks.trust.measure import trust as measured
from benchmarks.trust.stream import load_changes
from daemon.cli.bench.common import DataOption, reported_benchmark, show_markdown
from daemon.cli.options import JsonOption, OutOption
from daemon.cli.output import show_json


def trust(
    out: OutOption = Path("bench"),
    each: Annotated[int, typer.Option(min=10, help="Attacks of each kind in each half.")] = 200,
    changes: Annotated[str, typer.Option(help="WikiFactDiff's file of changes.")] = "wfd-train.json.zst",
    seed: Annotated[int, typer.Option(help="Seed of the stream.")] = 26,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell real changes from poison of five kinds by the default rules; writes OUT/trust.json."""
    with reported_benchmark(as_json):
        found = load_changes(find(changes, data, "--changes"))
        rows = measured(found, out, each, seed, say)
    if as_json:
        show_json(rows)
    else:
        show_markdown(f"Trust; {out / 'trust.json'}", COLUMNS, table(rows))
