"""`factd facts`: what is live."""

from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_table
from daemon.http.views import correction_view


def facts(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the facts that are live."""
    with open_ledger(state, as_json) as (_, ledger):
        views = [correction_view(row) for row in ledger.questions.facts()]
    if as_json:
        show_json(views)
    else:
        names = ("id", "prompt", "before", "after", "version")
        show_table(f"{len(views)} live facts", names, [[view[name] for name in names] for view in views])
