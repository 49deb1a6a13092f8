"""`factd bench trust`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.data import find
from benchmarks.files import say
from benchmarks.trust import sure
from benchmarks.trust.measure import COLUMNS, table
from benchmarks.trust.measure import trust as measured
from benchmarks.trust.stream import load_changes
from daemon.apply.trust.screening import believes_of
from daemon.cli.bench.common import Common, DataOption, reported_benchmark, show_markdown
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption
from daemon.cli.output import show_json
from monitoring.measuring.scoring import Scorer


def trust(
    out: OutOption = Path("bench"),
    each: Annotated[int, typer.Option(min=10, help="Attacks of each kind in each half.")] = 200,
    changes: Annotated[str, typer.Option(help="WikiFactDiff's file of changes.")] = "wfd-train.json.zst",
    seed: Annotated[int, typer.Option(help="Seed of the stream.")] = 26,
    sure_of: Annotated[
        int,
        typer.Option(
            "--sure",
            min=0,
            help="Ask the model how sure it is of the old answers of so many real changes, swaps and popular "
            "facts, in the place of the other rules; writes OUT/trust-sure.json.",
        ),
    ] = 0,
    popular: Annotated[str, typer.Option(help="ROME's file of known facts.")] = "known_1000.json.zst",
    data: DataOption = None,
    model: ModelOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell real changes from poison of five kinds by the default rules; writes OUT/trust.json."""
    with reported_benchmark(as_json):
        found = load_changes(find(changes, data, "--changes"))
        if sure_of:
            known = find(popular, data, "--popular")
            loaded = Common(model, state, data, None, None, None).in_float32()
            believes = believes_of(Scorer(loaded.model, loaded.tokenizer))
            rows = sure.sure(found, known, out, count=sure_of, seed=seed, believes=believes)
        else:
            rows = measured(found, out, each, seed, say)
    if as_json:
        show_json(rows)
    elif sure_of:
        show_markdown(f"How sure the model is; {out / 'trust-sure.json'}", sure.COLUMNS, sure.table(rows))
    else:
        show_markdown(f"Trust; {out / 'trust.json'}", COLUMNS, table(rows))
