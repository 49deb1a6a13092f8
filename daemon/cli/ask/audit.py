"""`factd audit`: is the ledger's record what was written?"""

from dataclasses import asdict
from typing import Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json
from daemon.ledger.audit import audit as verify


def audit(state: StateOption = None, as_json: JsonOption = False) -> None:
    """Verify the hash chain of all changes of state; exit code 1 when it is broken."""
    with open_ledger(state, as_json) as (_, ledger):
        found = verify(ledger.database.engine)
        view = {"valid": found.valid, **asdict(found)}
        if not found.valid:
            mend = "keep it as it is and compare it with a backup"
            raise CommandError(Exit.FAILED, _what(view), mend, **view)
    if as_json:
        show_json(view)
    else:
        typer.echo(f"valid: {found.rows} transitions, the last is {found.head.seq} {found.head.hash}")


def _what(view: dict[str, Any]) -> str:
    lines = ["the ledger is not what was written"]
    if broken := view["broken"]:
        lines.append(f"transition {broken['seq']} ({broken['kind']} {broken['id']}): {broken['why']}")
    for stray in view["strays"]:
        told = stray["chained"] or "nothing"
        lines.append(f"{stray['kind']} {stray['id']} is {stray['state']}, the chain says {told}")
    return "\n  ".join(lines)
