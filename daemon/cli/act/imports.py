"""`factd import`: a file of corrections, in the form in which somebody has it."""

import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger, ring_doorbell
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import progress, show_json, show_table, tell
from daemon.cli.reporting import reported
from daemon.core.errors import QueueFullError
from daemon.intake.feeds import cloudevents, jsonl, wikifactdiff
from daemon.intake.feeds.files import file_hash
from daemon.intake.feeds.records import Entry, Read, Told, digest
from daemon.intake.feeds.sheet import FIELDS, Sheet
from daemon.intake.feeds.taking import Report, Taker
from daemon.intake.intake import Room
from daemon.intake.trust.gate import gate_of

#: What a record is counted as, and what that says.
COUNTED = {
    "taken": "recorded; they go live one batch after the other",
    "known": "posted before, or out already: nothing changed",
    "retracted": "no longer so: ours are taken out",
    "unchanged": "as they were: nothing to do",
    "refused": "see below",
}


class Format(StrEnum):
    """Forms of a file."""

    CSV = "csv"
    JSONL = "jsonl"
    WIKIFACTDIFF = "wikifactdiff"
    CLOUDEVENTS = "cloudevents"


def import_file(
    file: Annotated[Path, typer.Argument(help="The file to read.")],
    format: Annotated[Format, typer.Option(help="Its form; docs/feeds.md shows each.")],
    column: Annotated[
        list[str] | None, typer.Option(help="csv: FIELD=COLUMN, which column holds a field; repeatable.")
    ] = None,
    set_field: Annotated[
        list[str] | None, typer.Option("--set", help="csv: FIELD=TEXT of every row; repeatable.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="csv: what parts two cells.")] = ",",
    source: Annotated[
        str | None, typer.Option(help="Where the corrections come from, unless a record says so.")
    ] = None,
    no_answer: Annotated[
        str | None,
        typer.Option(
            help="What shall be said where a fact is obsolete; default FACTD_NO_ANSWER, else it is taken out."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and count, and record nothing.")] = False,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import a file of corrections into the ledger; the same file twice is one import.

    Each record is taken, known, unchanged or refused, and the report counts them. Refused records keep no
    other from being taken; exit code 1 says that there were some.
    """
    with reported(as_json):
        read = _reader(format, column or [], set_field or [], delimiter)
        hashed = _hashed(file)
    report, started = Report(), time.monotonic()
    with open_ledger(state, as_json) as (settings, ledger), progress() as show:
        ledger.intake.gate = gate_of(settings)
        answer = settings.no_answer if no_answer is None else no_answer
        room = Room(ledger, settings.max_pending)
        taker = Taker(ledger, room, "import", no_answer=answer, dry=dry_run)
        entries = _keyed(read(file, lambda fraction: show("reading", fraction)), hashed, source)
        full = _take(taker, entries, report)
        if not dry_run and (report.counts["taken"] or report.counts["retracted"]):
            ring_doorbell(settings)
    _show(report, time.monotonic() - started, full, as_json)


def _reader(format: Format, columns: list[str], shared: list[str], delimiter: str) -> Read:
    if format is not Format.CSV and (columns or shared or delimiter != ","):
        raise CommandError(
            Exit.BAD_INPUT, "--column, --set and --delimiter are for --format csv", "leave them out"
        )
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise CommandError(
            Exit.BAD_INPUT, f"--delimiter {delimiter!r} is not one character", "give one: ; or a tab"
        )
    readers: dict[Format, Callable[[], Read]] = {
        Format.CSV: lambda: Sheet(_pairs("--column", columns), _pairs("--set", shared), delimiter).read,
        Format.JSONL: lambda: jsonl.read,
        Format.WIKIFACTDIFF: lambda: wikifactdiff.read,
        Format.CLOUDEVENTS: lambda: cloudevents.read,
    }
    return readers[format]()


def _pairs(option: str, given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in FIELDS:
            mend = f"write {option} FIELD=TEXT with one of {', '.join(sorted(FIELDS))}"
            raise CommandError(Exit.BAD_INPUT, f"{option} {text!r} names no field", mend)
        found[name] = value
    return found


def _hashed(file: Path) -> str:
    try:
        return file_hash(file)
    except OSError as error:
        what = f"{file} cannot be read: {error.strerror}"
        raise CommandError(Exit.BAD_INPUT, what, "give a readable file") from None


def _keyed(entries: Iterator[Entry], hashed: str, source: str | None) -> Iterator[Entry]:
    """With a key for each record without one: this file, its place in it, and what it says."""
    for entry in entries:
        if isinstance(entry, Told):
            if source is not None and entry.correction.source is None:
                changed = entry.correction.model_copy(update={"source": source})
                entry = Told(entry.number, entry.change, changed)
            yield entry.keyed(f"import:{digest(hashed, entry.number, entry.correction.content_hash)}")
        else:
            yield entry


def _take(taker: Taker, entries: Iterator[Entry], report: Report) -> QueueFullError | None:
    try:
        taker.take(entries, report)
    except QueueFullError as error:
        return error
    return None


def _show(report: Report, seconds: float, full: QueueFullError | None, as_json: bool) -> None:
    view: dict[str, Any] = report.view() | {"seconds": round(seconds, 3), "complete": full is None}
    if as_json:
        show_json(view)
    else:
        rows = [[view[name], name, meaning] for name, meaning in COUNTED.items() if view[name]]
        show_table("Imported", ("records", "", ""), rows or [[0, "records", "the file holds none"]])
        for problem in report.problems:
            tell(f"  {problem}")
        if report.more:
            tell(f"  and {report.more} more refused records")
    if full is not None:
        tell(f"error: {full}\n  next: run the same command again later; it goes on where this one ended")
        raise typer.Exit(int(Exit.BUSY))
    if report.counts["refused"]:
        raise typer.Exit(int(Exit.FAILED))
