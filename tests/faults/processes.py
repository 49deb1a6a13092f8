"""What other processes do on the disk of a World. They come from a server that has imported torch already,
so that each takes a fraction of a second."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from celery.signals import worker_ready
from sqlalchemy import event

import daemon.app
from daemon.core.errors import LeaseLostError
from daemon.core.settings import Settings
from daemon.http.api import create_app
from daemon.ledger.ledger import Ledger
from tests.daemon.conftest import World

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])
#: exit status of an applier that found out that a newer one is at work
PASSED = 75


@contextmanager
def process(target, *args):
    """A process; killed at the end if it still runs."""
    made = CONTEXT.Process(target=target, args=args)
    made.start()
    try:
        yield made
    finally:
        made.kill()
        made.join()


def until_stopped(made) -> None:
    """Returns when the process has stopped itself."""
    status = psutil.Process(made.pid)
    while status.status() != psutil.STATUS_STOPPED:
        made.join(0.02)
        assert made.exitcode is None, "it ended before the stage was reached"


def wake(made) -> int:
    """Lets a stopped process go on to its end; returns its exit status."""
    os.kill(made.pid, signal.SIGCONT)
    made.join(60)
    return made.exitcode


def applier(root: Path, stage: str) -> None:
    """One run of the applier that stops its own process at the stage."""
    world = World(root)

    def stop(reached):
        if reached == stage:
            os.kill(os.getpid(), signal.SIGSTOP)

    world.applier.reached = stop
    try:
        world.run()
    except LeaseLostError:
        sys.exit(PASSED)


def worker(build: Any, queues: Sequence[str], environment: Mapping[str, str], ready: Any) -> None:
    """A real Celery worker, until it is killed. Sets the event `ready` when it takes messages.

    Args:
        build: in the place of `daemon.app.build_applier`.
    """
    os.environ |= environment
    daemon.app.build_applier = build
    worker_ready.connect(lambda **_: ready.set(), weak=False)
    argv = ["worker", "-P", "solo", "-l", "warning", "--without-gossip", "--without-mingle"]
    daemon.app.celery.worker_main([*argv, "-Q", ",".join(queues), "-n", f"{queues[0]}@%h"])


def api(root: Path, port: int, moment: str) -> None:
    """The HTTP API, that kills itself at a moment of the first post."""

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    settings = Settings(state_dir=root, admin_token="secret")
    ledger = Ledger.open(settings.ledger_url)
    ring = die if moment == "before the answer" else lambda: None

    if moment == "in the transaction":

        @event.listens_for(ledger.database.engine, "before_cursor_execute")
        def _(_c, _cursor, statement, *_):
            if statement.startswith("INSERT INTO transitions"):
                die()

    if moment == "before the commit":

        @event.listens_for(ledger.database.engine, "commit")
        def _(connection):
            if connection.get_execution_options().get("factd_write"):
                die()

    uvicorn.run(create_app(settings, ledger, [], ring), port=port, log_level="warning")
