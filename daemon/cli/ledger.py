"""Commands that read the ledger, and those that ask the applier for something."""

import getpass
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli.options import JsonOption, StateOption, WhyOption
from daemon.cli.output import (
    EPILOG,
    CommandError,
    Exit,
    local_time,
    nearest,
    reported,
    show_json,
    show_table,
    waiting,
)
from daemon.core.settings import Settings

if TYPE_CHECKING:
    from daemon.ledger.ledger import Ledger

TimeoutOption = Annotated[float, typer.Option(help="Seconds to wait for the result; 0 does not wait.")]
POLL_SECONDS = 0.1


def register(app: typer.Typer) -> None:
    for command in (status, facts, versions, retract, rollback, compact, pause, resume):
        app.command(epilog=EPILOG)(command)


@contextmanager
def open_ledger(state: Path | None, as_json: bool) -> Iterator[tuple[Settings, "Ledger"]]:
    from daemon.core.errors import TransitionError, UnknownIdError
    from daemon.ledger.ledger import Ledger
    from daemon.supervise.up import settings_for

    with reported(as_json):
        settings = settings_for(state)
        if settings.database_url is None and not (settings.state_dir / "ledger.sqlite3").exists():
            what = f"there is no ledger in {settings.state_dir}"
            mend = "start `factd up`, or set FACTD_STATE_DIR (or give --state) to the folder of one that ran"
            raise CommandError(Exit.UNAVAILABLE, what, mend)
        ledger = Ledger.open(settings.ledger_url)
        try:
            yield settings, ledger
        except UnknownIdError as error:
            rows = ledger.questions.versions() if error.kind == "version" else ledger.questions.corrections()
            what = f"there is no {error.kind} {error.id!r}"
            raise CommandError(Exit.NOT_FOUND, what, nearest(error.id, (row.id for row in rows))) from None
        except TransitionError as error:
            raise CommandError(Exit.BAD_INPUT, str(error), "nothing was changed") from None
        finally:
            ledger.close()


def status(
    id: Annotated[str | None, typer.Argument(help="A correction's id.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what happened: to one correction, or as a whole."""
    from daemon.http.views import correction_view, status_view

    with open_ledger(state, as_json) as (_, ledger):
        if id is None:
            view = status_view(ledger.questions.status())
        else:
            view = correction_view(ledger.questions.get(id))
            view["history"] = [
                {"at": t.at, "from": t.old, "to": t.new, "reason": t.reason, "actor": t.actor}
                for t in ledger.questions.transitions(ledger.questions.get(id).id, kind="correction")
            ]
    if as_json:
        show_json(view)
        return
    history = view.pop("history", [])
    for name in ("forecasts", "limits"):  # the nearest forecast stands in the table
        view.pop(name, None)
    show_table("Correction" if id else "Status", ("", ""), [(n, _readable(n, v)) for n, v in view.items()])
    if history:
        show_table(
            "History",
            ("from", "to", "reason", "actor"),
            [[h[n] for n in ("from", "to", "reason", "actor")] for h in history],
        )


def _readable(name: str, value: Any) -> Any:
    """A field of a view as an operator reads it: when, and what the guard objects to."""
    if name == "verdict" and value is not None:
        return "; ".join([value["outcome"], *value["reasons"]])
    if name == "last_step" and value is not None:
        return f"{local_time(value['at'])}: {value['step']} {value['on']}: {value['why']}"
    return local_time(value) if name.endswith("_at") and value is not None else value


def facts(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the facts that are live."""
    from daemon.http.views import correction_view

    with open_ledger(state, as_json) as (_, ledger):
        views = [correction_view(row) for row in ledger.questions.facts()]
    if as_json:
        show_json(views)
    else:
        names = ("id", "prompt", "before", "after", "version")
        show_table(f"{len(views)} live facts", names, [[view[name] for name in names] for view in views])


def versions(state: StateOption = None, as_json: JsonOption = False) -> None:
    """List the versions, oldest first."""
    from daemon.http.views import version_view

    with open_ledger(state, as_json) as (_, ledger):
        live = ledger.questions.live_version()
        views = [version_view(ledger.questions.version("v000000"))] + [
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
        )
        for v in views
    ]
    show_table("Versions (* live)", ("version", "parent", "state", "added", "removed", "reason"), rows)


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
    from daemon.http.views import operation_view

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
        typer.echo(f"{kind} {target or ''}: {view['state']}; live is {view['live']}")


def ring_doorbell(settings: Settings) -> None:
    """Wakes the applier; a broker that is away is no error, for the request is in the ledger already."""
    from kombu.exceptions import OperationalError

    from daemon.intake.posting import producer, ring

    app = producer(settings.redis_url, settings.names)
    try:
        ring(app)
    except OperationalError as error:
        typer.echo(f"note: the doorbell could not be rung ({error}); the applier looks by itself", err=True)
    finally:
        app.close()
