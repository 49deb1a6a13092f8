"""`factd bench collapse`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.collapse import COLUMNS, Plan, collected, table
from benchmarks.collapse import collapse as measured
from benchmarks.drawing import plots
from benchmarks.files import say, write_json
from benchmarks.shipped.hindsight import learnt
from benchmarks.streams import named
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    FactsOption,
    TextOption,
    TokensOption,
    reported_benchmark,
    show_markdown,
)
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption
from daemon.cli.output import show_json


def collapse(
    streams: Annotated[str, typer.Option(help="Which ones, with commas; default all.")] = "",
    out: OutOption = Path("bench"),
    edits: Annotated[int, typer.Option(min=2, help="Harmless facts posted at most in a stream.")] = 300,
    batch: Annotated[int, typer.Option(min=2, help="Corrections posted at once.")] = 20,
    score_every: Annotated[int, typer.Option(min=1, help="Edits between two measurements of S.")] = 60,
    sample: Annotated[int, typer.Option(min=1, help="Live facts that S is measured on.")] = 30,
    facts: FactsOption = "counterfact",
    text: TextOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    state: StateOption = None,
    corpus: CorpusOption = None,
    tokens: TokensOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wear models out with the guard off and on; writes OUT/collapse.json. Finished streams are kept."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        chosen = named(streams)
        texts = common.texts(text)
        opened = common.open()
        records = common.records(opened, facts, edits).records
        plan = Plan(records, texts, Path(facts).name, batch, score_every, sample)
        rows = measured(opened, plan, chosen, out, say)
    runs = collected(out)
    drawn, tables = plots.collapse(runs, out), learnt(runs)
    write_json(out / "hindsight.json", tables)
    if as_json:
        show_json(rows)
        return
    title = f"Collapse; {out / 'collapse.json'}, {', '.join(str(path) for path in drawn)}"
    show_markdown(title, COLUMNS, table(rows))
    for title, (columns, *lines) in tables.items():
        show_markdown(f"\n{title}", columns, lines)
