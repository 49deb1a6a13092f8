"""`factd bench`: reproducible measurements; each writes JSON, and plots where there is something to plot."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.bench.service import intake, publish, values
from daemon.cli.options import JsonOption, ModelOption, OutOption, StateOption, settings_of
from daemon.cli.output import EPILOG, CommandError, Exit, fail, show_json, show_table

if TYPE_CHECKING:
    from benchmarks.configuration import Configuration, Model
    from benchmarks.data import Record, Records
    from editing.model.loaded import LoadedModel

app = typer.Typer(
    name="bench",
    help="Measure speed, horizon and collapse beside published methods, publications and intake.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
)

DataOption = Annotated[Path | None, typer.Option(help="Folder of the data sets; default ../shared/data.")]
FactsOption = Annotated[str, typer.Option(help="counterfact, zsre, or a file of either schema.")]
TextOption = Annotated[Path | None, typer.Option(help="Documents; perplexity is measured on the last ones.")]
CorpusOption = Annotated[
    Path | None, typer.Option(help="Text or documents for the second moments; default FACTD_CORPUS.")
]
TokensOption = Annotated[int | None, typer.Option(help="Tokens of it; default 10 times the FFN's width.")]
DtypeOption = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16; default FACTD_DTYPE.")]
ValuesOption = Annotated[str, typer.Option(help="name=value,… changed in every configuration.")]
SeedOption = Annotated[int, typer.Option(help="Of the sample that is scored.")]


def register(parent: typer.Typer) -> None:
    for command in (speed, horizon, collapse, measures, publish, intake, values):
        app.command(epilog=EPILOG)(command)
    parent.add_typer(app)


@dataclass(frozen=True)
class Common:
    """What all benchmarks are told."""

    model: str | None
    state: Path | None
    data: Path | None
    corpus: Path | None
    tokens: int | None
    dtype: str | None

    def open(self) -> "Model":
        from benchmarks.configuration import Model
        from benchmarks.data import corpus_file
        from benchmarks.files import Progress, say

        told = {"model": self.model, "state_dir": self.state, "corpus": self.corpus, "dtype": self.dtype}
        settings = settings_of(**told)
        corpus = settings.corpus and corpus_file(settings.corpus, settings.statistics / "corpora")
        name, folder, dtype = settings.model, settings.statistics, settings.dtype
        return Model.open(name, folder, Progress(say), dtype=dtype, corpus=corpus, tokens=self.tokens)

    def in_float32(self) -> "LoadedModel":
        from editing.model.loaded import load_model

        settings = settings_of(model=self.model, state_dir=self.state)
        return load_model(settings.model, settings.statistics, "float32")

    def records(self, model: "Model", facts: str, count: int) -> "Records":
        from benchmarks.data import find, load_records, writable
        from benchmarks.files import say

        found = load_records(find(facts, self.data, "--facts"))
        chosen = writable(found, model.loaded.tokenizer, model.install.contexts(), count)
        say(f"{facts}: {chosen}")
        return chosen

    def texts(self, text: Path | None) -> list[str]:
        from benchmarks.data import TEXT, find, held_out, load_texts

        return held_out(load_texts(find(str(text or TEXT), self.data, "--text")))


def _own(values: str = "") -> "Configuration":
    """The product's own configuration."""
    from benchmarks.configuration import Configuration

    settings = settings_of()
    parts = (settings.method, settings.placement or "", settings.anchor or "", settings.protect)
    return Configuration.parse(":".join(parts), values)


@contextmanager
def _reported(as_json: bool) -> Iterator[None]:
    """Turns errors of the benchmarks into messages and exit codes."""
    from benchmarks.errors import BenchError
    from editing.errors import EditError

    # Now, not when hours of measuring are to be plotted.
    for package in ("matplotlib", "zstandard"):
        if find_spec(package) is None:
            error = CommandError(Exit.FAILED, f"{package} is not installed", "pip install 'factd[bench]'")
            fail(error, as_json)
    try:
        yield
    except BenchError as error:
        mend = "`factd bench COMMAND --help` lists the options"
        fail(CommandError(Exit.BAD_INPUT, str(error), mend), as_json)
    except EditError as error:
        fail(CommandError(Exit.FAILED, str(error), "run `factd doctor`"), as_json)


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
    from benchmarks.configuration import Configuration
    from benchmarks.files import say, write_json
    from benchmarks.speed import speed as measured
    from benchmarks.speed import table

    with _reported(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        tuned = Configuration.parse(config, values) if config else _own(values)
        opened = common.open()
        records: tuple[Record, ...] = common.records(opened, facts, edits).records
        result = measured(opened, records, tuned, serial_edits, say, common.in_float32)
    write_json(out / "speed.json", result)
    if as_json:
        show_json(result)
    else:
        show_table(f"Speed; {out / 'speed.json'}", ("", ""), table(result))


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
    from benchmarks.configuration import parse_all
    from benchmarks.drawing import plots
    from benchmarks.files import say
    from benchmarks.glue import load_glue
    from benchmarks.horizon import COLUMNS, Stream, table
    from benchmarks.horizon import horizon as measured

    with _reported(as_json):
        common = Common(model, state, data, corpus, tokens, dtype)
        chosen = parse_all(config, values) if config else [_own(values)]
        marks = _numbers(checkpoints)
        texts, asked = common.texts(text), load_glue(data, glue) if glue else {}
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
        _show_markdown(title, ("", *COLUMNS), table(rows))


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
    from benchmarks.collapse import COLUMNS, Plan, collected, table
    from benchmarks.collapse import collapse as measured
    from benchmarks.drawing import plots
    from benchmarks.files import say, write_json
    from benchmarks.hindsight import learnt
    from benchmarks.streams import named

    with _reported(as_json):
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
    _show_markdown(title, COLUMNS, table(rows))
    for title, (columns, *lines) in tables.items():
        _show_markdown(f"\n{title}", columns, lines)


def measures(
    out: OutOption = Path("bench"),
    shape: Annotated[str, typer.Option(help="Rows x columns of the weight.")] = "4096x14336",
    as_json: JsonOption = False,
) -> None:
    """Time the weight-space measures of one synthetic layer beside its update; writes OUT/measures.json."""
    from benchmarks.files import write_json
    from benchmarks.measures import layer_cost

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


def _show_markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A wide table, ready for docs/experiments.md; a terminal's own would be folded to its width."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (columns, *rows)]
    rule = f"|{'---|' * len(columns)}"
    sys.stdout.write("\n".join([title, "", lines[0], rule, *lines[1:], ""]) + "\n")


def _cell(value: Any) -> str:
    return "" if value is None else str(value)


def _numbers(text: str) -> tuple[int, ...]:
    from benchmarks.errors import ChoiceError

    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ChoiceError(f"--checkpoints {text!r}: give numbers of edits, such as 100,200,500")
    return found
