"""`factd bench lifelong`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.configuration import Configuration, parse_all
from benchmarks.files import say, write_json
from benchmarks.glue import load_glue
from benchmarks.lifelong.beliefs import AUDITED, predictions
from benchmarks.lifelong.beliefs import beliefs as shares
from benchmarks.lifelong.churn import Plan
from benchmarks.lifelong.laws import laws
from benchmarks.lifelong.lifelong import TITLES, table
from benchmarks.lifelong.lifelong import lifelong as measured
from benchmarks.lifelong.streams import DATA_SETS, STREAMS, Numbers, built, named
from benchmarks.runs import collected
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    TextOption,
    TokensOption,
    ValuesOption,
    edit_counts,
    own_configuration,
    reported_benchmark,
    show_markdown,
)
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption, settings_of
from daemon.cli.output import show_json
from editing.methods import METHODS

#: The data sets, and the churn as the product writes it.
USUAL = ",".join([*DATA_SETS, "churn"])


def lifelong(
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD:PLACEMENT:ANCHOR:PROTECT[:name=value,…]; may be given often; default our own."
        ),
    ] = None,
    streams: Annotated[str, typer.Option(help=f"Of {', '.join(STREAMS)}; with commas.")] = USUAL,
    every_method: Annotated[bool, typer.Option(help="Every method as published, beside --config.")] = False,
    out: OutOption = Path("bench"),
    batch: Annotated[int, typer.Option(min=1, help="Facts written at once.")] = 20,
    checkpoints: Annotated[str, typer.Option(help="Numbers of edits of the data sets.")] = "100,300,1000",
    subjects: Annotated[int, typer.Option(min=1, help="Subjects that change, in each kind.")] = 50,
    kinds: Annotated[str, typer.Option(help="Of price, version, seat; with commas; default all.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="How often each of them changes.")] = 100,
    every: Annotated[int, typer.Option(min=1, help="Rounds between two checkpoints.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of what changes, and to what.")] = 0,
    sample: Annotated[int, typer.Option(min=0, help="Facts asked at a checkpoint; 0 for all.")] = 300,
    others: Annotated[int, typer.Option(min=1, help="Other subjects of a data set, asked in chat.")] = 100,
    compact_every: Annotated[int, typer.Option(min=0, help="Compact each so many edits; 0: never.")] = 0,
    collapse: Annotated[bool, typer.Option(help="End a stream when the model has collapsed.")] = True,
    glue: Annotated[int, typer.Option(min=0, help="Questions of each of five GLUE tasks to ask too.")] = 0,
    beliefs: Annotated[bool, typer.Option(help="Audit what is said by age, and what will be lost.")] = False,
    minutes: Annotated[float, typer.Option(min=0, help="Of writing, a configuration; 0: no limit.")] = 0.0,
    values: ValuesOption = "",
    text: TextOption = None,
    data: DataOption = None,
    model: ModelOption = None,
    state: StateOption = None,
    corpus: CorpusOption = None,
    tokens: TokensOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write methods x streams of facts for a lifetime, to resume at will; writes OUT/lifelong.json."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        chosen = _configurations(config, every_method, values, state)
        names = named(streams)
        plan = Plan(subjects, rounds, tuple(filter(None, kinds.split(","))), seed)
        numbers = Numbers(
            edit_counts(checkpoints),
            batch,
            sample,
            others,
            compact_every,
            plan,
            every,
            collapse,
            seconds=60 * minutes or float("inf"),
            beliefs=AUDITED if beliefs else 0,
            glue=load_glue(data, glue) if glue else {},
        )
        texts = common.texts(text)
        opened = common.open()
        # What cannot be had is told before the first hour of work.
        ready = [built(name, opened, numbers, data, texts) for name in names]
        rows = measured(opened, ready, chosen, out, say)
    told = laws(rows, {name: numbers.ending(name) for name in STREAMS})
    write_json(out / "lifelong-laws.json", told)
    runs = collected(out)
    audit = {"beliefs": shares(runs), "predictions": predictions(runs)}
    if audit["beliefs"]:
        write_json(out / "lifelong-beliefs.json", audit)
    if as_json:
        show_json(rows)
        return
    show_markdown(f"Lifelong; {out / 'lifelong.json'}", TITLES, table(rows))
    _show(f"Collapse and growth; {out / 'lifelong-laws.json'}", told)
    for title, lines in audit.items():
        _show(f"{title.capitalize()}; {out / 'lifelong-beliefs.json'}", lines)


def _configurations(
    config: list[str] | None, every_method: bool, values: str, state: Path | None
) -> list[Configuration]:
    """Those named; else our own, in the forms that it ships with. Then every method, if asked for."""
    named_ones = parse_all(config or [], values)
    if not named_ones:
        forms = f"forms={'.'.join(settings_of(state_dir=state).forms)}"
        named_ones = [own_configuration(",".join(filter(None, (forms, values))))]
    return list(dict.fromkeys([*named_ones, *parse_all(list(METHODS) if every_method else [], values)]))


def _show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A table of objects with the same fields; nothing where there is none."""
    if rows:
        show_markdown(title, list(rows[0]), [[_shown(value) for value in row.values()] for row in rows])


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
