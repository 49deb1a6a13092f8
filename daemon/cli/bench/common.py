"""What the benchmarks of editing share: their options, the model and the data, and wide tables."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.configuration import Configuration, Model
from benchmarks.data import TEXT, Records, corpus_file, find, held_out, load_records, load_texts, writable
from benchmarks.errors import BenchError, ChoiceError
from benchmarks.files import Progress, say
from daemon.cli.exits import CommandError, Exit, fail
from daemon.cli.options import settings_of
from daemon.cli.output import show_lines
from editing.errors import EditError
from editing.model.loaded import LoadedModel, load_model

DataOption = Annotated[Path | None, typer.Option(help="Folder of the data sets; default ../shared/data.")]
FactsOption = Annotated[
    str, typer.Option(help="counterfact, zsre, wikifactdiff, or a file like one of them.")
]
TextOption = Annotated[Path | None, typer.Option(help="Documents; perplexity is measured on the last ones.")]
CorpusOption = Annotated[
    Path | None, typer.Option(help="Text or documents for the second moments; default FACTD_CORPUS.")
]
TokensOption = Annotated[
    int | None, typer.Option(help="Tokens of the corpus; default 10 times the FFN's width.")
]
DtypeOption = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16; default FACTD_DTYPE.")]
ValuesOption = Annotated[str, typer.Option(help="name=value,… changed in every configuration.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the sample that is scored.")]


@dataclass(frozen=True)
class Common:
    """What all benchmarks are told."""

    model: str | None
    state: Path | None
    data: Path | None
    corpus: Path | None
    tokens: int | None
    dtype: str | None

    def open(self) -> Model:
        told = {"model": self.model, "state_dir": self.state, "corpus": self.corpus, "dtype": self.dtype}
        settings = settings_of(**told)
        corpus = settings.corpus and corpus_file(settings.corpus, settings.statistics / "corpora")
        name, folder, dtype = settings.model, settings.statistics, settings.dtype
        return Model.open(name, folder, Progress(say), dtype=dtype, corpus=corpus, tokens=self.tokens)

    def in_float32(self) -> LoadedModel:
        settings = settings_of(model=self.model, state_dir=self.state)
        return load_model(settings.model, settings.statistics, "float32")

    def records(self, model: Model, facts: str, count: int) -> Records:
        found = load_records(find(facts, self.data, "--facts"))
        chosen = writable(found, model.loaded.tokenizer, model.install.contexts(), count)
        say(f"{facts}: {chosen}")
        return chosen

    def texts(self, text: Path | None) -> list[str]:
        return held_out(load_texts(find(str(text or TEXT), self.data, "--text")))


def own_configuration(values: str = "") -> Configuration:
    """The product's own configuration."""
    settings = settings_of()
    parts = (settings.method, settings.placement or "", settings.anchor or "", settings.protect)
    return Configuration.parse(":".join(parts), values)


@contextmanager
def reported_benchmark(as_json: bool) -> Generator[None]:
    """Turns errors of the benchmarks into messages and exit codes."""
    try:
        yield
    except BenchError as error:
        mend = "`factd bench COMMAND --help` lists the options"
        fail(CommandError(Exit.BAD_INPUT, str(error), mend), as_json)
    except EditError as error:
        fail(CommandError(Exit.FAILED, str(error), "run `factd doctor`"), as_json)


def show_markdown(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a wide table as Markdown: a terminal's table would be folded to its width."""
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (columns, *rows)]
    rule = f"|{'---|' * len(columns)}"
    show_lines("\n".join([title, "", lines[0], rule, *lines[1:], ""]))


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def edit_counts(text: str) -> tuple[int, ...]:
    try:
        found = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] < 1:
        raise ChoiceError(f"--checkpoints {text!r}: give numbers of edits, such as 100,200,500")
    return found
