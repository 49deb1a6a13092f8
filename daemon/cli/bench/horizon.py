"""`factd bench horizon`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.configuration import parse_all
from benchmarks.drawing import plots
from benchmarks.files import say
from benchmarks.glue import Questions, load_glue
from benchmarks.horizon import COLUMNS, table
from benchmarks.horizon import horizon as measured
from benchmarks.runs import Stream
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    FactsOption,
    SeedOption,
    TextOption,
    TokensOption,
    ValuesOption,
    edit_counts,
    own_configuration,
    reported_benchmark,
    show_markdown,
)
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption
from daemon.cli.output import show_json


def horizon(
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD:PLACEMENT:ANCHOR:PROTECT[:name=value,…]; may be given often; default our own."
        ),
    ] = None,
    out: OutOption = Path("bench"),
    batch: Annotated[int, typer.Option(min=1, help="Facts written at once.")] = 20,
    checkpoints: Annotated[str, typer.Option(help="Numbers of edits, with commas.")] = "100,200,500",
    sample: Annotated[int, typer.Option(min=0, help="Facts scored at a checkpoint; 0 for all so far.")] = 0,
    seed: SeedOption = 0,
    compact: Annotated[
        bool, typer.Option(help="Score the model after compaction from the base too.")
    ] = False,
    compact_every: Annotated[int, typer.Option(min=0, help="Compact each so many edits; 0: never.")] = 0,
    glue: Annotated[int, typer.Option(min=0, help="Questions of each of five GLUE tasks to ask too.")] = 0,
    values: ValuesOption = "",
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
    """Stream facts and score all of them at checkpoints; writes OUT/horizon.json. Resumable."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        chosen = parse_all(config, values) if config else [own_configuration(values)]
        marks = edit_counts(checkpoints)
        texts = common.texts(text)
        asked: Questions = load_glue(data, glue) if glue else {}
        opened = common.open()
        records = common.records(opened, facts, marks[-1]).records
        stream = Stream(
            records,
            texts,
            dataset=Path(facts).name,
            batch=batch,
            checkpoints=marks,
            sample=sample,
            seed=seed,
            compact=compact,
            compact_every=compact_every,
            glue=asked,
        )
        rows = measured(opened, stream, chosen, out, say)
    drawn = plots.horizon(rows, out)
    if as_json:
        show_json(rows)
    else:
        title = f"Horizon; {out / 'horizon.json'}, {', '.join(str(path) for path in drawn)}"
        show_markdown(title, ("", *COLUMNS), table(rows))
