"""`factd retract`, `rollback`, `compact`, `consolidate`, `pause`, `resume`: what the applier carries out."""

import getpass
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger, ring_doorbell
from daemon.cli.options import JsonOption, StateOption, WhyOption
from daemon.cli.output import show_json, show_lines, waiting
from daemon.http.views import operation_view

TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait for the result; 0 does not wait.")]
#: Between two looks at the ledger.
POLL_SECONDS = 0.1


def retract(
    id: Annotated[str, typer.Argument(help="The correction's id.")],
    why: WhyOption = None,
    timeout: TimeoutOption = 60.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take one fact out of the model; the others stay."""
    _operate("retract", id, why, timeout, state, as_json)


def rollback(
    version: Annotated[
        str, typer.Argument(help="A version that was live, e.g. v000012; v000000 is the base.")
    ],
    why: WhyOption = None,
    timeout: TimeoutOption = 60.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve an older version again, bit for bit."""
    _operate("rollback", version, why, timeout, state, as_json)


def compact(
    why: WhyOption = None,
    timeout: TimeoutOption = 600.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write all live facts anew from the base model; judged like any version."""
    _operate("compact", None, why, timeout, state, as_json)


def consolidate(
    why: WhyOption = None,
    timeout: TimeoutOption = 0.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train all live facts on from their joint solution, in the background; judged like any version."""
    _operate("consolidate", None, why, timeout, state, as_json)


def pause(
    why: WhyOption = None,
    timeout: TimeoutOption = 60.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop applying corrections; they stay queued."""
    _operate("pause", None, why, timeout, state, as_json)


def resume(
    why: WhyOption = None,
    timeout: TimeoutOption = 60.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply corrections again; what the guard has paused goes on too."""
    _operate("resume", None, why, timeout, state, as_json)


def _operate(
    kind: str, target: str | None, why: str | None, timeout: float, state: Path | None, as_json: bool
) -> None:
    with open_ledger(state, as_json) as (settings, ledger):
        number = ledger.intake.request(kind, target, actor=f"operator:{getpass.getuser()}", why=why)
        ring_doorbell(settings)
        view: dict[str, Any] = operation_view(ledger.questions.operation(number))
        deadline = time.monotonic() + timeout
        with waiting(f"{kind}: waiting for the applier"):
            while view["state"] == "pending" and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                view = operation_view(ledger.questions.operation(number))
        view["live"] = ledger.questions.live_version()
        if timeout > 0 and view["state"] == "pending":
            what = f"{kind} is recorded as operation {number} and was not carried out within {timeout:.0f} s"
            raise CommandError(Exit.TIMED_OUT, what, "it stays recorded; is `factd up` running?", **view)
        if view["state"] == "failed":
            raise CommandError(
                Exit.FAILED, f"{kind} failed: {view['reason']}", "see STATE/logs/apply.log", **view
            )
    if as_json:
        show_json(view)
    else:
        show_lines(f"{kind} {target or ''}: {view['state']}; live is {view['live']}")
