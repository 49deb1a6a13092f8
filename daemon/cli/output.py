"""What all commands share: exit codes, tables or JSON, progress, and how errors are shown.

Answers go to stdout, everything else to stderr. Colours and bars are for terminals alone: rich leaves
them out of a pipe, and colours where NO_COLOR is set.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from difflib import get_close_matches
from enum import IntEnum
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from daemon.core.progress import Progress, by_tenths

#: A column of sentences narrower than this cannot be read; the rows are then shown one below the other.
READABLE = 20
#: Characters of a cell in a table of many rows; --json and the view of a single row have them all.
SHOWN = 200
#: What a table spends on borders: for each column, and for the last.
COLUMN_BORDER, BORDER = 3, 1
#: Ids suggested for one that is not known.
SUGGESTIONS = 3


class Exit(IntEnum):
    """Exit codes of `factd`; documented in docs/cli.md and in the help."""

    OK = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    TIMED_OUT = 5
    BUSY = 6


#: What each code says, for docs/cli.md.
EXIT_MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "it was tried and did not work; the reason is on stderr",
    Exit.BAD_INPUT: "the request or a setting is wrong; nothing was changed",
    Exit.NOT_FOUND: "no such correction or version",
    Exit.UNAVAILABLE: "the broker, the ledger or vLLM cannot be reached",
    Exit.TIMED_OUT: "still not finished when the time was up; it may finish later",
    Exit.BUSY: "the queue is full; nothing was posted, come again later",
}

EPILOG = (
    "Exit codes: 0 ok, 1 failed, 2 bad input, 3 not found, 4 unavailable "
    "(broker, ledger or vLLM cannot be reached), 5 timed out, 6 busy: the queue is full."
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
    """A table; where the terminal is too narrow for one, a block of lines for each row."""
    out = console()
    cells = [[_shown(cell) for cell in row] for row in rows]
    if len(columns) > 2:
        cells = [[text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in row] for row in cells]
    # An id or a number in two lines can be neither read nor copied.
    whole = [not any(" " in row[i] for row in cells) for i in range(len(columns))]
    widths = [max(len(text) for text in (name, *(row[i] for row in cells))) for i, name in enumerate(columns)]
    least = [width if keep else min(width, READABLE) for width, keep in zip(widths, whole, strict=True)]
    if len(columns) > 2 and sum(least) + COLUMN_BORDER * len(columns) + BORDER > out.width:
        return _show_blocks(out, title, columns, cells)
    table = Table(title=title, title_justify="left", show_header=any(columns))
    for name, keep in zip(columns, whole, strict=True):
        table.add_column(name, overflow="fold", no_wrap=keep and len(columns) > 2)
    for row in cells:
        table.add_row(*map(escape, row))
    out.print(table)
    return None


def local_time(seconds: float) -> str:
    """A time since the epoch as a local one."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def _shown(cell: Any) -> str:
    """Answers of models have line breaks; of counts only those that are not zero say something."""
    if isinstance(cell, Mapping):
        return ", ".join(f"{name} {value}" for name, value in cell.items() if value)
    return "" if cell is None else " ".join(str(cell).split())


def _show_blocks(out: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    out.print(title, style="italic", markup=False)
    for row in rows:
        block = Table.grid(padding=(0, 2))
        block.add_column(style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for name, cell in zip(columns, row, strict=True):
            block.add_row(escape(name), escape(cell))
        out.print()
        out.print(block)


@contextmanager
def progress() -> Iterator[Progress]:
    """Gives a function for (stage, fraction done): bars on a terminal, a line for each tenth elsewhere."""
    out = Console(stderr=True)
    if not out.is_terminal:
        yield by_tenths(lambda line: print(line, file=sys.stderr, flush=True))
        return
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=out) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=fraction)

        yield show


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows on a terminal that something is waited for."""
    out = Console(stderr=True)
    if out.is_terminal:
        with out.status(what):
            yield
    else:
        yield


def nearest(id: str, known: Iterable[str]) -> str:
    """What to do about an id that is not known: those that begin with it or look like it."""
    names = list(known)
    begin = [name for name in names if id and name.startswith(id)]
    close = begin or get_close_matches(id, names, SUGGESTIONS)
    if close:
        return f"did you mean {' or '.join(close[:SUGGESTIONS])}?"
    return "`factd facts` and `factd versions` list what there is"


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

    from daemon.core.errors import SettingsError

    try:
        yield
    except CommandError as error:
        fail(error, as_json)
    except SettingsError as error:
        fail(CommandError(Exit.BAD_INPUT, str(error), "docs/settings.md says what each takes"), as_json)
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
