"""`factd corrections`: what waits, was refused or is live."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption
from daemon.cli.output import local_time, show_json, show_table
from daemon.cli.reporting import reported
from daemon.core.lifecycle import PENDING, State
from daemon.http.views import correction_view, standing
from daemon.ledger.reading import Only

#: Stands for the states in which a correction waits for its batch.
WAITING = "waiting"
#: Fits on a screen; a script asks for more.
LIMIT = 50
COLUMNS = ("id", "state", "correction", "source", "received")


def corrections(
    state: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this state: {WAITING}, live, rejected, dead and so on; repeatable."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only what came from this source.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what is about this subject.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = LIMIT,
    state_dir: Annotated[Path | None, typer.Option(help="State directory; default FACTD_STATE_DIR.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List corrections: what waits, was refused, is live."""
    with reported(as_json):
        states = _states(state or [])
    with open_ledger(state_dir, as_json) as (_, ledger):
        # One more than is shown tells whether there are more.
        rows = ledger.questions.corrections(*states, limit=limit + 1, **Only(source=source, subject=subject))
    views = [correction_view(row) for row in rows[-limit:]]
    if as_json:
        show_json(views)
        return
    cells = [[v["id"], standing(v), _line(v), v["source"], local_time(v["received_at"])] for v in views]
    more = ", the newest; --limit shows more" if len(rows) > limit else ""
    show_table(f"{len(views)} corrections{more}", COLUMNS, cells, spare=2)


def _line(view: dict[str, Any]) -> str:
    """Subject and target, and the reason for its state; a message that could not be read has only that."""
    about = f"{view['subject']} → {view['target']}" if view["subject"] else ""
    return ": ".join(part for part in (about, view["reason"]) if part)


def _states(names: Sequence[str]) -> list[State]:
    known = {WAITING: list(PENDING), **{str(state): [state] for state in State}}
    unknown = [name for name in names if name not in known]
    if unknown:
        mend = f"the states are {', '.join(known)}; the folder of the ledger is --state-dir here"
        raise CommandError(Exit.BAD_INPUT, f"--state {unknown[0]!r} is no state of a correction", mend)
    return [state for name in names for state in known[name]]
