"""`factd facts`: what is live."""

from typing import Any

from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import local_time, show_json, show_table
from daemon.http.views import correction_view


def facts(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the facts that are live."""
    with open_ledger(state, as_json) as (_, ledger):
        views = [correction_view(row) for row in ledger.questions.facts()]
    if as_json:
        show_json(views)
    else:
        rows = [[view["id"], _fact(view), view["version"], local_time(view["live_at"])] for view in views]
        show_table(f"{len(views)} live facts", ("id", "fact", "version", "live since"), rows, spare=2)


def _fact(view: dict[str, Any]) -> str:
    """One line a fact: what is asked, what is answered now, and what was answered before."""
    before = f" (before: {view['before']})" if view["before"] else ""
    lost = "; ".join(f"{form} answers {text.strip()!r}" for form, text in view["lost"].items())
    now = f"{view['target']} is lost: {lost}" if lost else view["after"] or view["target"]
    return f"{view['prompt']} → {now}{before}"
