"""`factd status`: what happened to one correction, or as a whole."""

from typing import Annotated, Any

import typer

from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import local_time, show_json, show_table
from daemon.http.views import correction_view, status_view
from daemon.ledger.ledger import Ledger

#: Columns of a correction's history.
CHANGE = ("at", "from", "to", "reason", "actor")


def status(
    id: Annotated[str | None, typer.Argument(help="A correction's id.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: to one correction, or as a whole."""
    with open_ledger(state, as_json) as (_, ledger):
        view = status_view(ledger.questions.status()) if id is None else _correction(ledger, id)
    if as_json:
        show_json(view)
        return
    history, answers = view.pop("history", []), view.pop("answers", {})
    for name in ("forecasts", "limits"):  # the nearest forecast stands in the table
        view.pop(name, None)
    show_table("Correction" if id else "Status", ("", ""), [(n, _readable(n, v)) for n, v in view.items()])
    if answers:
        told = [[name, *(a[n] for n in ("asked", "before", "after", "said"))] for name, a in answers.items()]
        show_table("Asked in chat", ("form", "asked", "before", "after", "said"), told)
    if history:
        show_table(
            "History", CHANGE, [[_readable(name, change[name]) for name in CHANGE] for change in history]
        )


def _correction(ledger: Ledger, id: str) -> dict[str, Any]:
    row = ledger.questions.get(id)
    history = [
        {"at": t.at, "from": t.old, "to": t.new, "reason": t.reason, "actor": t.actor}
        for t in ledger.questions.transitions(row.id, kind="correction")
    ]
    return correction_view(row) | {"history": history}


def _readable(name: str, value: Any | None) -> object:
    """A field of a view as an operator reads it: times are local, a verdict is one line."""
    if name == "verdict" and value is not None:
        return "; ".join([value["outcome"], *value["reasons"]])
    if name == "last_step" and value is not None:
        return f"{local_time(value['at'])}: {value['step']} {value['on']}: {value['why']}"
    if name == "lost" and value:
        return "; ".join(f"{form}: {answer!r}" for form, answer in value.items())
    if name == "questions":
        return "; ".join(value or [])
    if name == "paused" and value is not None:
        since = f" since {local_time(value['at'])}" if value.get("at") else ""
        return f"by {value['actor']}{since}: {value.get('why') or 'no reason given'}"
    if name.endswith("_seconds") and value is not None:
        return f"{value:.1f} s"
    return local_time(value) if (name == "at" or name.endswith("_at")) and value is not None else value
