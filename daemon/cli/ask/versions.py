"""`factd versions`: all versions, oldest first."""

from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import local_time, show_json, show_table
from daemon.core.publication import BASE_VERSION
from daemon.http.views import version_view


def versions(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the versions, oldest first."""
    with open_ledger(state, as_json) as (_, ledger):
        live = ledger.questions.live_version()
        views = [version_view(ledger.questions.version(BASE_VERSION))] + [
            version_view(row) for row in ledger.questions.versions()
        ]
    if as_json:
        show_json({"live": live, "versions": views})
        return
    rows = [
        (
            v["id"] + (" *" if v["id"] == live else ""),
            v["parent"],
            v["state"],
            len(v["added"]),
            len(v["removed"]),
            v["reason"],
            "" if v["live_at"] is None else local_time(v["live_at"]),
        )
        for v in views
    ]
    columns = ("version", "parent", "state", "added", "removed", "reason", "live since")
    show_table("Versions (* live)", columns, rows, spare=1)
