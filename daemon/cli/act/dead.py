"""`factd dead`: corrections that were given up after too many attempts."""

import getpass
from typing import Annotated, Any

import typer

from daemon.cli.exits import EPILOG, CommandError, Exit
from daemon.cli.ledger import open_ledger, ring_doorbell
from daemon.cli.options import JsonOption, StateOption, WhyOption
from daemon.cli.output import show_json, show_lines, show_table
from daemon.core.lifecycle import OperationKind, State
from daemon.http.views import correction_view, operation_view
from daemon.ledger.ledger import Ledger

IdsArgument = Annotated[list[str] | None, typer.Argument(help="Ids of dead corrections.")]
AllOption = Annotated[bool, typer.Option("--all", help="All that are dead now.")]
SHOWN = ("id", "prompt", "target", "attempts", "reason")


app = typer.Typer(
    name="dead",
    help="List, retry or drop corrections that were given up after too many attempts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list", epilog=EPILOG)
def show(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the dead corrections, each with the reason why it was given up."""
    with open_ledger(state, as_json) as (_, ledger):
        views = [correction_view(row) for row in ledger.questions.corrections(State.DEAD)]
    if as_json:
        show_json(views)
    else:
        show_table(f"{len(views)} dead", SHOWN, [[view[name] for name in SHOWN] for view in views])


@app.command("retry", epilog=EPILOG)
def retry(
    ids: IdsArgument = None,
    everything: AllOption = False,
    why: WhyOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Try dead corrections again, each alone; their attempts are counted from zero."""
    with open_ledger(state, as_json) as (settings, ledger):
        views = _decide(ledger, OperationKind.RETRY, ids, everything, why)
        ring_doorbell(settings)
    _report(views, as_json)


@app.command("drop", epilog=EPILOG)
def drop(
    ids: IdsArgument = None,
    everything: AllOption = False,
    why: WhyOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give dead corrections up for good: they end rejected."""
    with open_ledger(state, as_json) as (_, ledger):
        views = _decide(ledger, OperationKind.DROP, ids, everything, why)
    _report(views, as_json)


def _decide(
    ledger: Ledger, kind: OperationKind, ids: list[str] | None, everything: bool, why: str | None
) -> list[dict[str, Any]]:
    if bool(ids) == everything:
        raise CommandError(
            Exit.BAD_INPUT, "give ids or --all, one of the two", "`factd dead list` shows them"
        )
    chosen = ids or [row.id for row in ledger.questions.corrections(State.DEAD)]
    actor = f"operator:{getpass.getuser()}"
    numbers = ledger.intake.decide_dead(kind, chosen, actor=actor, why=why)
    return [operation_view(ledger.questions.operation(number)) for number in numbers]


def _report(views: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json(views)
    for view in [] if as_json else views:
        show_lines(f"{view['kind']} {view['target']}: {view['reason']}")
