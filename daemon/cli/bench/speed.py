"""`factd bench speed`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.configuration import Configuration
from benchmarks.data import Record
from benchmarks.files import say, write_json
from benchmarks.speed import speed as measured
from benchmarks.speed import table
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    FactsOption,
    TokensOption,
    ValuesOption,
    own_configuration,
    reported_benchmark,
)
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption
from daemon.cli.output import show_json, show_table


def speed(
    out: OutOption = Path("bench"),
    edits: Annotated[int, typer.Option(min=1, help="Facts written in one batch.")] = 50,
    serial_edits: Annotated[int, typer.Option(min=1, help="How many of them the serial peer writes.")] = 8,
    config: Annotated[
        str | None, typer.Option(help="METHOD:PLACEMENT:ANCHOR:PROTECT; default our own.")
    ] = None,
    values: ValuesOption = "",
    facts: FactsOption = "counterfact",
    data: DataOption = None,
    model: ModelOption = None,
    state: StateOption = None,
    corpus: CorpusOption = None,
    tokens: TokensOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time an update beside the published serial procedure; writes OUT/speed.json."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        tuned = Configuration.parse(config, values) if config else own_configuration(values)
        opened = common.open()
        records: tuple[Record, ...] = common.records(opened, facts, edits).records
        result = measured(opened, records, tuned, serial_edits, say, common.in_float32)
    write_json(out / "speed.json", result)
    if as_json:
        show_json(result)
    else:
        show_table(f"Speed; {out / 'speed.json'}", ("", ""), table(result))
