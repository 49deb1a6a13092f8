"""`factd worker`: one Celery worker."""

import os
import sys
from typing import Annotated

import typer

from daemon.cli.exits import CommandError, Exit, fail
from daemon.core.names import Queue
from daemon.core.settings import load_settings

#: --queue → the queues that are taken, and the worker's name when none is given.
ROLES: dict[str, tuple[tuple[Queue, ...], str]] = {
    "corrections": (("corrections",), "intake"),
    "apply": (("apply",), "apply"),
    "values": (("values",), "values"),
    "all": (("corrections", "apply"), "all"),
}


def worker(
    queue: Annotated[
        str, typer.Option(help="corrections (intake), apply (the one writer), values (helps it), or all.")
    ] = "all",
    name: Annotated[str | None, typer.Option(help="Worker name; default: the queue's role.")] = None,
    loglevel: Annotated[str, typer.Option(help="Celery's log level.")] = "info",
) -> None:
    """Run one Celery worker in the foreground."""
    if queue not in ROLES:
        fail(
            CommandError(Exit.BAD_INPUT, f"there is no queue {queue!r}", f"one of {', '.join(ROLES)}"), False
        )
    taken, role = ROLES[queue]
    names = load_settings().names
    argv = ["-m", "celery", "-A", "daemon.app:celery", "worker", "-P", "solo"]
    argv += ["-Q", ",".join(map(names.queue, taken)), "-n", f"{names.worker(name or role)}@%h"]
    argv += ["-l", loglevel, "--without-gossip", "--without-mingle"]
    os.execv(sys.executable, [sys.executable, *argv])
