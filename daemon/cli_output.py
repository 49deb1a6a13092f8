"""What all commands share: exit codes, the choice between tables and JSON, and how errors are shown."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


class Exit(IntEnum):
    """Exit codes of `factd`; documented in docs/operating.md and in the help."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TIMED_OUT = 5
    BUSY = 6


EPILOG = (
    "Exit codes: 0 ok, 1 failed, 2 bad input, 3 not found, 4 unavailable "
    "(broker, ledger or vLLM cannot be reached), 5 timed out, 6 the queue is full."
)


class CommandError(Exception):
    """Raised when a command cannot go on; `mend` says what to do next."""

    def __init__(self, code: Exit, what: str, mend: str = "", **fields: Any) -> None:
        super().__init__(what)
        self.code, self.what, self.mend, self.fields = code, what, mend, fields


def console() -> Console:
    return Console(highlight=False)


def show_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console().print(table)


def fail(error: CommandError, as_json: bool) -> NoReturn:
    """Shows an error on stderr and leaves with its code. With --json, stdout gets it too."""
    if as_json:
        show_json({"error": error.what, "mend": error.mend, "exit_code": int(error.code), **error.fields})
    lines = f"error: {error.what}" + (f"\n  next: {error.mend}" if error.mend else "")
    sys.stderr.write(lines + "\n")
    raise typer.Exit(int(error.code))


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Turns the errors of the daemon into messages and exit codes."""
    from redis.exceptions import RedisError
    from sqlalchemy.exc import OperationalError as DatabaseError

    try:
        yield
    except CommandError as error:
        fail(error, as_json)
    except (RedisError, ConnectionRefusedError) as error:
        fail(
            CommandError(Exit.UNAVAILABLE, f"the broker does not answer: {error}", "run `factd doctor`"),
            as_json,
        )
    except DatabaseError as error:
        fail(
            CommandError(Exit.UNAVAILABLE, f"the ledger cannot be read: {error.orig}", "run `factd doctor`"),
            as_json,
        )
