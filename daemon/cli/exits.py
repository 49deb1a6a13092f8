"""How a command ends: exit codes, and the error that says what to do next."""

from enum import IntEnum
from typing import Any, NoReturn

import typer

from daemon.cli.output import show_json, tell


class Exit(IntEnum):
    """Exit codes of `factd`; documented in docs/cli.md and in the help."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TIMED_OUT = 5
    BUSY = 6
    OUT_OF_SYNC = 7
    HELD = 8
    INTERRUPTED = 130


#: What each code says, for docs/cli.md.
EXIT_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "it was tried and did not work; the reason is on stderr",
    Exit.BAD_INPUT: "the request or a setting is wrong; nothing was changed",
    Exit.NOT_FOUND: "no such correction or version",
    Exit.UNAVAILABLE: "the broker, the ledger or vLLM cannot be reached",
    Exit.TIMED_OUT: "still not finished when the time was up; it may finish later",
    Exit.BUSY: "the queue is full; nothing was posted, come again later",
    Exit.OUT_OF_SYNC: "a replica does not serve the live version, or no worker gives a sign of life "
    "(`factd status`, `factd doctor`)",
    Exit.HELD: "held for review: somebody else decides (`factd review list`), or four eyes are needed",
    Exit.INTERRUPTED: "Ctrl-C while it waited; what was posted stays posted",
}

EPILOG = (
    "Exit codes: 0 ok, 1 failed, 2 bad input, 3 not found, 4 unavailable "
    "(broker, ledger or vLLM cannot be reached), 5 timed out, 6 busy: the queue is full, "
    "7 out of sync: a replica serves something else than the live version, or a worker is away, "
    "8 held for review, or the reviewer is who posted it, "
    "130 interrupted by Ctrl-C."
)


class CommandError(Exception):
    """Raised when a command cannot go on; `mend` says what to do next."""

    def __init__(self, code: Exit, what: str, mend: str = "", **fields: Any) -> None:
        super().__init__(what)
        self.code, self.what, self.mend, self.fields = code, what, mend, fields


def fail(error: CommandError, as_json: bool) -> NoReturn:
    """Shows an error on stderr and leaves with its code. With --json, stdout gets it too."""
    if as_json:
        view = {"error": error.what, "mend": error.mend, "exit_code": int(error.code), **error.fields}
        show_json(view)
    tell(f"error: {error.what}" + (f"\n  next: {error.mend}" if error.mend else ""))
    raise typer.Exit(int(error.code))
