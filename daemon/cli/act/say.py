"""`factd say`: plain sentences are read into corrections, shown back, and posted when confirmed."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from daemon.cli.act.post import read_text, send, show_ended
from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json
from daemon.cli.reporting import reported
from daemon.core.messages import Correction
from daemon.intake.reading.reader import Read
from daemon.intake.reading.served import reader_of, unconfirmed
from daemon.supervise.running import settings_for

#: What confirms a reading of the served model here.
HOW = "leave --yes out and answer the question, or give --reader served with --yes"


def say(
    sentence: Annotated[
        str | None, typer.Argument(help='A fact: "Amara Singh is the director of Vale University."')
    ] = None,
    file: Annotated[Path | None, typer.Option(help="One statement a line; - reads stdin.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Post what is understood without asking.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what is understood and post nothing.")
    ] = False,
    who: Annotated[
        Literal["lexicon", "served"] | None,
        typer.Option(
            "--reader",
            help="Who reads: the lexicon, or the served model where the lexicon has no relation; default "
            "FACTD_READER. With --yes, served also posts what the model has read.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every correction is live or has ended otherwise.")
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits.")] = 120.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read plain sentences into corrections, show what was understood, and post what is confirmed.

    Works without a network. Opinions, questions, conditions, rumours, plans and instructions are refused.
    """
    with reported(as_json):
        statements = _statements(sentence, file)
        settings = settings_for(state)
        reader = reader_of(settings, who)
        found = [reader.read(statement) for statement in statements]
        # With --json nothing is shown before somebody is asked.
        if (yes or as_json) and not dry_run and who != "served":
            found = [unconfirmed(read, HOW) for read in found]
        if dry_run:
            _show(found, as_json)
        else:
            corrections = _confirmed(found, yes, as_json)
            ids = send(settings, corrections) if corrections else []
            if wait and ids:
                show_ended(settings, ids, timeout, as_json)
            elif as_json:
                show_json({"statements": [read.view() for read in found], "ids": ids})
            else:
                typer.echo("\n".join(ids))
    _leave(found, dry_run, as_json)


def _statements(sentence: str | None, file: Path | None) -> list[str]:
    if (sentence is None) == (file is None):
        raise CommandError(Exit.BAD_INPUT, "give a sentence or --file, one of the two", "`factd say --help`")
    if sentence is not None:
        return [sentence]
    assert file is not None
    found = [line.strip() for line in read_text(file).removeprefix("\ufeff").split("\n") if line.strip()]
    if not found:
        raise CommandError(Exit.BAD_INPUT, f"{file} holds no statement", "write one sentence a line")
    return found


def _show(found: Sequence[Read], as_json: bool) -> None:
    if as_json:
        show_json([read.view() for read in found])
        return
    for read in found:
        if len(found) > 1:
            typer.echo(read.statement)
        for reading in read.readings if read.refused is None else ():
            by = "I understood" if read.reader == "lexicon" else "The served model understood"
            typer.echo(f"{by}: {reading.told()}")
        if read.refused is not None:
            typer.echo(f"not taken ({read.refused.kind.replace('_', ' ')}): {read.refused.why}")


def _confirmed(found: Sequence[Read], yes: bool, as_json: bool) -> list[Correction]:
    """What shall be posted: asks on a terminal unless --yes was given."""
    corrections = [correction for read in found for correction in read.corrections()]
    if not as_json:
        _show(found, as_json)
    if not corrections or yes:
        return corrections
    if not on_terminal():
        what = "nobody is there to confirm what was understood; nothing was posted"
        raise CommandError(Exit.BAD_INPUT, what, "give --yes to post it, or --dry-run to see it")
    what = "it" if len(corrections) == 1 else f"these {len(corrections)}"
    return corrections if typer.confirm(f"Post {what}?", default=False, err=True) else []


def on_terminal() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty()


def _leave(found: Sequence[Read], dry_run: bool, as_json: bool) -> None:
    """Ends with the exit code for bad input when a statement was refused."""
    refused = sum(read.refused is not None for read in found)
    if refused and not dry_run:
        told = "the statement was" if len(found) == 1 else f"{refused} of {len(found)} statements were"
        if not as_json:
            typer.echo(
                f"error: {told} not taken\n  next: mend what is said above, and say it again", err=True
            )
        raise typer.Exit(int(Exit.BAD_INPUT))
