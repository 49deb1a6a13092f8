"""What all commands show: tables or JSON, and progress.

Answers go to stdout, everything else to stderr. Colours and bars are for terminals alone: rich leaves
them out of a pipe, and colours where NO_COLOR is set.
"""

import json
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeGuard

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID
from rich.table import Table

from daemon.core.progress import Progress, by_tenths

#: Fewest characters of a readable column of sentences. In a narrower terminal a row becomes a block of lines.
READABLE = 20
#: A cell of a table shows at most so many characters; --json and tables of two columns show all.
SHOWN = 200
#: Characters that borders take: for each column, and once for the table.
COLUMN_BORDER, BORDER = 3, 1


def console() -> Console:
    return Console(highlight=False)


def show_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Shows a table; in a terminal that is too narrow, a block of lines for each row."""
    out = console()
    cells = [[_shown(cell) for cell in row] for row in rows]
    if len(columns) > 2:
        cells = [[text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in row] for row in cells]
    # Ids and numbers stay on one line: nobody can read or copy them from two.
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


def _is_mapping(cell: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(cell, Mapping)


def _shown(cell: object) -> str:
    """A cell on one line, since a model's answer may have line breaks; of counts only those above zero."""
    if _is_mapping(cell):
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
def progress() -> Generator[Progress]:
    """A function that shows (stage, fraction done): bars on a terminal, elsewhere a line for each tenth."""
    out = Console(stderr=True)
    if not out.is_terminal:
        yield by_tenths(lambda line: print(line, file=sys.stderr, flush=True))
        return
    with Bars(console=out) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=1.0)
            bar.update(tasks[stage], completed=fraction)

        yield show


@contextmanager
def waiting(what: str) -> Generator[None]:
    """Shows on a terminal that something is waited for."""
    out = Console(stderr=True)
    if out.is_terminal:
        with out.status(what):
            yield
    else:
        yield
