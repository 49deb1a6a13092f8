"""`factd relations`: the relations that sentences are read by."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.cli.exits import EPILOG, CommandError, Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.cli.reporting import reported
from daemon.intake.reading.lexicon import load_lexicon, read_relations
from daemon.supervise.running import settings_for

COLUMNS = ("name", "words", "of", "is", "prompt", "asked as")
#: Words by which a relation is known that a table shows; --json shows all.
WORDS_SHOWN = 3

app = typer.Typer(
    name="relations",
    help="List the relations that sentences are read by, or check a file of them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list", epilog=EPILOG)
def show(
    containing: Annotated[
        str | None, typer.Argument(help="Only those with this text in a name or word.")
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the relations, those of FACTD_RELATIONS included."""
    with reported(as_json):
        lexicon = load_lexicon(settings_for(state).relations)
    found = [
        one
        for one in lexicon.relations.values()
        if containing is None or any(containing.lower() in text.lower() for text in (one.name, *one.nouns))
    ]
    if as_json:
        show_json([one.model_dump() for one in found])
        return
    rows = [
        (
            one.name,
            ", ".join(one.nouns[:WORDS_SHOWN]),
            one.subject,
            one.object,
            one.prompts[0],
            one.questions[0],
        )
        for one in found
    ]
    show_table(f"{len(found)} relations", COLUMNS, rows)


@app.command("check", epilog=EPILOG)
def check(
    file: Annotated[Path, typer.Argument(help="A TOML file of [[relation]] tables.")],
    as_json: JsonOption = False,
) -> None:
    """Check a file of relations; exit code 2 when something is wrong with it."""
    with reported(as_json):
        found, problems = read_relations(file)
        if problems:
            told = "\n".join(f"  {problem}" for problem in problems)
            what = f"{len(problems)} problems in {file}\n{told}"
            raise CommandError(
                Exit.BAD_INPUT, what, "mend what is listed", problems=[vars(problem) for problem in problems]
            )
    if as_json:
        show_json({"relations": [one.name for one in found], "problems": []})
    else:
        typer.echo(f"{len(found)} relations, nothing wrong")
