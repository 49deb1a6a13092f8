"""`factd bench asked`."""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.asking.asked import COLUMNS, Plan, table, taken
from benchmarks.asking.asked import asked as measured
from benchmarks.asking.ways import QUESTIONS, asked_records
from benchmarks.configuration import parse_all
from benchmarks.data import find, load_records
from benchmarks.files import say
from daemon.cli.bench.common import (
    Common,
    CorpusOption,
    DataOption,
    DtypeOption,
    FactsOption,
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

#: Held-out documents that perplexity is measured on.
TEXTS = 24


def asked(
    config: Annotated[
        list[str] | None,
        typer.Option(
            help="METHOD:PLACEMENT:ANCHOR:PROTECT[:name=value,…]; may be given often; default our own."
        ),
    ] = None,
    out: OutOption = Path("bench"),
    batch: Annotated[int, typer.Option(min=1, help="Facts written at once.")] = 20,
    checkpoints: Annotated[str, typer.Option(help="Numbers of edits, with commas.")] = "100,300",
    others: Annotated[int, typer.Option(min=1, help="Other subjects that are asked about.")] = 100,
    varied: Annotated[
        bool,
        typer.Option("--varied", help="Ask too with a system prompt, late in a chat, in lower case, …"),
    ] = False,
    forms: Annotated[str, typer.Option(help="Kinds of forms, with commas; default FACTD_FORMS.")] = "",
    questions: Annotated[str, typer.Option(help="File of questions by relation.")] = QUESTIONS,
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
    """Ask for written facts in every form, in chat too, by free generation; writes OUT/asked.json."""
    with reported_benchmark(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        kinds = forms.split(",") if forms else settings_of(state_dir=state).forms
        told = f"forms={'.'.join(kinds)}" + (f",{values}" if values else "")
        chosen = parse_all(config, told) if config else [own_configuration(told)]
        marks = edit_counts(checkpoints)
        texts = common.texts(text)[:TEXTS]
        path = find(facts, data, "--facts")
        every = asked_records(load_records(path), path, find(questions, data, "--questions"))
        opened = common.open()
        kept = taken(every, opened, marks[-1] + others)
        plan = Plan(kept[: marks[-1]], kept[marks[-1] :], texts, marks, batch, varied)
        rows = measured(opened, plan, chosen, out, say)
    if as_json:
        show_json(rows)
    else:
        show_markdown(f"Asked; {out / 'asked.json'}", COLUMNS, table(rows))
