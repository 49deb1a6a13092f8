"""`factd status`: what happened to one correction, or as a whole."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

import typer
from rich.markup import escape

from daemon.cli.exits import Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import console, local_time, show_json, show_table
from daemon.core.settings import Settings
from daemon.core.times import seconds_of
from daemon.http.status_page import truth_of
from daemon.http.views import child_view, correction_view, standing, status_view
from daemon.ledger.ledger import Ledger
from daemon.publish.reports import open_reports
from daemon.publish.truth import UNKNOWN

#: Of a view, what the table leaves out: mismatches stand above it, what is coming below, and the nearest
#: forecast in it.
UNSHOWN = ("mismatches", "forecasts", "limits", "coming")
#: Fields that hold several entries, of which a line is made.
LISTED = ("lost", "findings", "questions", "room")
#: Columns of a correction's history.
CHANGE = ("at", "from", "to", "reason", "actor")
#: Columns of what the clock will do.
COMING = ("at", "change", "subject", "target", "id")


def status(
    id: Annotated[str | None, typer.Argument(help="A correction's id.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: to one correction, or as a whole.

    As a whole it asks every replica what it serves now. What it should not serve is the first line, and
    exit code 7.
    """
    with open_ledger(state, as_json) as (settings, ledger):
        view = _whole(settings, ledger) if id is None else _correction(ledger, id)
    if as_json:
        show_json(view)
    else:
        _show({**view, "state": standing(view)} if id else view, "Correction" if id else "Status")
    if view.get("mismatches"):
        raise typer.Exit(int(Exit.OUT_OF_SYNC))


def _whole(settings: Settings, ledger: Ledger) -> dict[str, Any]:
    status, replicas = ledger.questions.status(), open_reports(settings)
    found = truth_of(ledger, replicas, status).view()
    if not replicas:
        found["mismatches"].insert(0, UNKNOWN)
    return found | status_view(status)


def _show(view: dict[str, Any], title: str) -> None:
    history, answers = view.pop("history", []), view.pop("answers", {})
    children: list[dict[str, Any]] = view.pop("children", [])
    for sentence in view.get("mismatches", []):
        console().print(f"[red]MISMATCH[/red]  {escape(sentence)}", soft_wrap=True)
    show_table(title, ("", ""), [(n, _readable(n, v)) for n, v in view.items() if n not in UNSHOWN])
    if coming := view.get("coming"):
        told = [[local_time(seconds_of(one["at"])), *(one[name] for name in COMING[1:])] for one in coming]
        show_table(f"The next {len(coming)} changes by the clock", COMING, told)
    if answers:
        told = [[name, *(a[n] for n in ("asked", "before", "after", "said"))] for name, a in answers.items()]
        show_table("Asked in chat", ("form", "asked", "before", "after", "said"), told)
    if children:
        _show_tree(view, children)
    if history:
        show_table(
            "History", CHANGE, [[_readable(name, change[name]) for name in CHANGE] for change in history]
        )


def _show_tree(view: dict[str, Any], children: list[dict[str, Any]]) -> None:
    """The correction with what follows from it."""
    rows = [(view["id"], f"{view['prompt']} → {view['target']}", view["state"])]
    for place, child in enumerate(children, start=1):
        branch = "└─" if place == len(children) else "├─"
        rows.append((f"{branch} {child['id']}", f"{child['prompt']} → {child['target']}", child["state"]))
    show_table("What follows from it", ("id", "correction", "state"), rows)


def _correction(ledger: Ledger, id: str) -> dict[str, Any]:
    row = ledger.questions.get(id)
    history = [
        {"at": t.at, "from": t.old, "to": t.new, "reason": t.reason, "actor": t.actor}
        for t in ledger.questions.transitions(row.id, kind="correction")
    ]
    children = [child_view(child) for child in ledger.questions.children(row.id)]
    return correction_view(row) | {"children": children, "history": history}


def _sign(sign: dict[str, Any]) -> str:
    if sign["alive"]:
        return "alive"
    return "gone" if sign["seen_at"] is None else f"gone, last seen {local_time(sign['seen_at'])}"


def _listed(name: str, value: Mapping[str, Any] | Sequence[Any]) -> Iterator[str]:
    """The entries of a field that holds several."""
    if name == "lost":
        return (f"{form}: {answer!r}" for form, answer in dict(value).items())
    if name == "findings":
        findings = cast(Sequence[Mapping[str, Any]], value)
        return (f"{one['rule']} {one['points']}: {one['why']}" for one in findings)
    if name == "room":
        return (str(told) for told in (dict(value).get("told"),) if told)
    return iter(value)


def _readable(name: str, value: Any | None) -> object:
    """A field of a view as an operator reads it: times are local, a verdict is one line."""
    if name == "replicas":
        return "; ".join(
            f"{one['name']} serves {one['serves'] or '?'} ({one['state']})" for one in value or ()
        )
    if name == "workers":
        signs: dict[str, dict[str, Any]] = value or {}
        return "; ".join(f"{kind} {_sign(sign)}" for kind, sign in signs.items())
    if name == "verdict" and value is not None:
        return "; ".join([value["outcome"], *value["reasons"]])
    if name == "last_step" and value is not None:
        return f"{local_time(value['at'])}: {value['step']} {value['on']}: {value['why']}"
    if name in LISTED:
        return "; ".join(_listed(name, value or ()))
    if name in ("valid_from", "valid_until") and value is not None:
        return local_time(seconds_of(value))
    if name == "paused" and value is not None:
        since = f" since {local_time(value['at'])}" if value.get("at") else ""
        return f"by {value['actor']}{since}: {value.get('why') or 'no reason given'}"
    if name == "background" and value is not None:
        return f"{value['job']} (operation {value['operation']}): {value['stage']}, {value['fraction']:.0%}"
    if name.endswith("_seconds") and value is not None:
        return f"{value:.1f} s"
    return local_time(value) if (name == "at" or name.endswith("_at")) and value is not None else value
