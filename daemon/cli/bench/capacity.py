"""`factd bench capacity`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.capacity.capacity import COLUMNS, facts_of, parsed, planned, stream_of, table
from benchmarks.capacity.capacity import capacity as measured
from benchmarks.files import say
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    TextOption,
    TokensOption,
    edit_counts,
    reported_benchmark,
    show_markdown,
)
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption
from daemon.cli.output import show_json

#: Numbers of edits of which two neighbours are a factor of two or less apart.
CHECKPOINTS = "25,50,100,150,200,300,400,600,800,1000"


def capacity(
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD:PLACEMENT:ANCHOR:PROTECT[:name=value,…], with keys=SHARE of the key dimensions; "
            "may be given often; default a plan from one layer to all below the window's end."
        ),
    ] = None,
    out: OutOption = Path("bench"),
    batch: Annotated[int, typer.Option(min=1, help="Facts written at once.")] = 50,
    checkpoints: Annotated[str, typer.Option(help="Numbers of edits, with commas.")] = CHECKPOINTS,
    sample: Annotated[int, typer.Option(min=1, help="Facts asked at a checkpoint.")] = 100,
    documents: Annotated[int, typer.Option(min=1, help="Held-out documents for perplexity.")] = 16,
    text: TextOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    state: StateOption = None,
    corpus: CorpusOption = None,
    tokens: TokensOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill more and fewer key directions with facts; writes OUT/capacity.json with the law. Resumable."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        marks, texts = edit_counts(checkpoints), common.texts(text)[:documents]
        chosen = [parsed(one) for one in config or ()]
        opened = common.open()
        stream = stream_of(opened, facts_of(opened, data, marks[-1]), texts, marks, batch, sample)
        found = measured(opened, stream, chosen or planned(opened), out, say)
    if as_json:
        show_json(found)
    else:
        show_markdown(f"Capacity; {out / 'capacity.json'}", COLUMNS, table(found))
