"""`factd tail`: changes of state as they happen."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import local_time, show_json, show_lines
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import CorrectionRow, TransitionRow

#: Between two looks at the ledger, seconds. A reader sees no delay, and a look is one indexed query.
POLL_SECONDS = 0.25
#: Changes shown before the first new one, like `tail`.
BEFORE = 10
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def tail(
    since: Annotated[
        str | None,
        typer.Option(
            help=f"Begin so long ago (30s, 10m, 2h, 1d) or at an ISO time; default the last {BEFORE}."
        ),
    ] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow what happens to corrections, versions and operations until Ctrl-C; --json: one object a line."""
    with open_ledger(state, as_json) as (_, ledger):
        start = None if since is None else moment(since, time.time())
        try:
            for row, about in _follow(ledger, start):
                if not (show_json(asdict(row), indent=None) if as_json else show_lines(line(row, about))):
                    return
        except KeyboardInterrupt:
            return


Named = tuple[TransitionRow, CorrectionRow | None]


def _follow(ledger: Ledger, since: float | None) -> Iterator[Named]:
    """Changes as they come, each with the correction that it is about."""
    rows = (
        ledger.questions.transitions(limit=BEFORE)
        if since is None
        else ledger.questions.transitions(since=since)
    )
    last = 0
    while True:
        yield from _named(ledger, rows)
        last = rows[-1].seq if rows else last
        if not rows:
            time.sleep(POLL_SECONDS)
        rows = ledger.questions.transitions(after=last, since=since or 0.0)


def _named(ledger: Ledger, rows: Sequence[TransitionRow]) -> Iterator[Named]:
    ids = sorted({row.id for row in rows if row.kind == "correction"})
    known = {row.id: row for row in ledger.questions.rows(ids)}
    for row in rows:
        yield row, known.get(row.id) if row.kind == "correction" else None


def moment(text: str, now: float) -> float:
    """Unix seconds of "10m" (ten minutes before `now`) or of an ISO time; local time when it names no zone.

    Raises:
        CommandError: the text is neither, or the time lies in the future.
    """
    try:
        # "-5m" means the same: other tools write it so.
        unit = UNITS.get(text[-1:])
        at = now - abs(float(text[:-1])) * unit if unit else datetime.fromisoformat(text).timestamp()
    except ValueError:
        at = math.nan
    mend = "give 30s, 10m, 2h, 1d or an ISO time such as 2026-11-21T19:30"
    if not math.isfinite(at):
        raise CommandError(Exit.BAD_INPUT, f"--since {text!r} is no time", mend)
    if at > now:
        raise CommandError(Exit.BAD_INPUT, f"--since {text!r} lies in the future", mend)
    return at


def line(row: TransitionRow, about: CorrectionRow | None = None) -> str:
    """One change for the eye: the time is local."""
    at = local_time(row.at)
    change = f"{row.old} → {row.new}" if row.old else row.new
    # A message that was refused has no subject.
    named = f"  {about.subject} → {about.target}" if about is not None and about.subject else ""
    reason = f": {' '.join(row.reason.split())}" if row.reason else ""
    return f"{at}  {row.kind} {row.id}{named}  [{change}]{reason}  ({row.actor})"
