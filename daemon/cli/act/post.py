"""`factd post`: corrections go through the stream, as any producer's would."""

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer
from redis.exceptions import RedisError

from daemon.cli.exits import CommandError, Exit
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_lines, show_table, tell, waiting
from daemon.cli.reporting import reported
from daemon.core.errors import CorrectionError, QueueFullError, UnknownIdError
from daemon.core.lifecycle import FINAL, State
from daemon.core.messages import Correction, parse_correction, parse_lines
from daemon.core.settings import Settings
from daemon.http.views import correction_view, standing
from daemon.intake.intake import Room
from daemon.intake.stream import append
from daemon.ledger.ledger import Ledger
from daemon.supervise.running import settings_for

#: The largest file that is read, bytes; some 100,000 corrections.
MAX_FILE_BYTES = 64 * 2**20
POLL_SECONDS = 0.1
#: After Ctrl-C so many ids are printed.
IDS_SHOWN = 20
#: Nobody waits for what waits for its time.
SETTLED = FINAL | {State.RECEIVED}
GOOD = frozenset({"live", "already_known", "received"})


def post(
    subject: Annotated[str | None, typer.Option(help="What the statement is about.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help='Text with one {} for the subject: "The owner of {} is".')
    ] = None,
    target: Annotated[str | None, typer.Option(help="What the model should answer.")] = None,
    was: Annotated[str | None, typer.Option(help="The old answer.")] = None,
    paraphrase: Annotated[list[str] | None, typer.Option(help="A rewording to check; repeatable.")] = None,
    question: Annotated[
        list[str] | None, typer.Option(help="A question that asks for it, with one {}; repeatable.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: the same key twice is one correction.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Where the correction comes from.")] = None,
    priority: Annotated[int, typer.Option(help="A higher number goes first.")] = 0,
    valid_from: Annotated[
        str | None,
        typer.Option(help="Goes live no earlier: 2027-01-01T09:00:00+01:00 (ISO 8601 with a zone)."),
    ] = None,
    valid_until: Annotated[str | None, typer.Option(help="Leaves by itself then; as --valid-from.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="JSON lines, one correction a line; - reads stdin.")
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Wait until every correction is live, waits for its time, or has ended otherwise."
        ),
    ] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that --wait waits.")] = 120.0,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Post corrections through the queue and print their ids."""
    fields: dict[str, Any] = {"subject": subject, "prompt": prompt, "target": target, "was": was}
    fields |= {
        "paraphrases": paraphrase or None,
        "questions": question or None,
        "key": key,
        "source": source,
        "priority": priority or None,
        "valid_from": valid_from,
        "valid_until": valid_until,
    }
    with reported(as_json):
        corrections = _read(file, {name: value for name, value in fields.items() if value is not None})
        settings = settings_for(state)
        ids = send(settings, corrections)
        if wait:
            show_ended(settings, ids, timeout, as_json)
        elif as_json:
            show_json({"ids": ids})
        else:
            show_lines("\n".join(ids))


def _read(file: Path | None, fields: dict[str, Any]) -> list[Correction]:
    if file is not None and fields:
        raise CommandError(
            Exit.BAD_INPUT, "--file and the fields of one correction exclude each other", "give one"
        )
    try:
        if file is None:
            return [parse_correction(fields)]
        return parse_lines(read_text(file))
    except CorrectionError as error:
        problems = [{"field": p.field, "value": p.value, "mend": p.mend, "line": p.line} for p in error.shown]
        what = f"the correction cannot be taken; nothing was posted\n{indent(str(error), '  ')}"
        raise CommandError(
            Exit.BAD_INPUT, what, "mend what is listed and post again", problems=problems, more=error.more
        ) from None


def read_text(file: Path) -> str:
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{file} cannot be read: {error.strerror}", "give a readable file"
        ) from None
    if len(raw) > MAX_FILE_BYTES:
        raise CommandError(Exit.BAD_INPUT, f"{file} is larger than {MAX_FILE_BYTES} bytes", "split the file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{file} is not UTF-8 (byte {error.start})", "save it as UTF-8"
        ) from None


def send(settings: Settings, corrections: Sequence[Correction]) -> list[str]:
    """Puts them on the queue and returns their ids."""
    _check_room(settings, len(corrections))
    try:
        # Not as Celery messages: a killed worker may lose a message that it has just fetched, and nobody
        # waits for its result here.
        return append(settings.redis_url, corrections, settings.names.stream)
    except RedisError as error:
        mend = "start `factd up`, or set FACTD_REDIS_URL; `factd doctor` checks"
        raise CommandError(Exit.UNAVAILABLE, f"the broker does not answer: {error}", mend) from None


def _check_room(settings: Settings, count: int) -> None:
    """Says at once that the queue is full; otherwise the post would wait without a word."""
    if settings.database_url is None and not settings.state_dir.exists():
        return  # the ledger is on another host; its intake leaves messages in the queue while it is full
    with closing(Ledger.open(settings.ledger_url)) as ledger:
        try:
            Room(ledger, settings.max_pending).take(count)
        except QueueFullError as error:
            mend = "wait until a batch is done; `factd status` shows why corrections wait"
            raise CommandError(Exit.BUSY, str(error), mend, retry_after=error.seconds) from None


def show_ended(settings: Settings, ids: Sequence[str], timeout: float, as_json: bool) -> None:
    """Waits until all have ended, shows them, and exits with what became of them."""
    try:
        _show_ended(settings, ids, timeout, as_json)
    except KeyboardInterrupt:
        raise _interrupted(ids) from None


def _show_ended(settings: Settings, ids: Sequence[str], timeout: float, as_json: bool) -> None:
    with closing(Ledger.open(settings.ledger_url)) as ledger:
        with waiting(f"waiting for {_counted(ids)}"):
            rows = wait_for(ledger, ids, timeout)
    if as_json:
        show_json({"ids": list(ids), "corrections": rows})
    else:
        columns = ("id", "prompt", "before", "after", "state", "reason", "post_to_live_seconds")
        shown = [{**row, "state": standing(row)} for row in rows]
        show_table("Corrections", columns, [[row[name] for name in columns] for row in shown])
    held = [row["id"] for row in rows if row["state"] == State.HELD]
    if held:
        what = f"{len(held)} of {len(rows)} corrections are held for review"
        raise typer.Exit(_say(Exit.HELD, what, "`factd review list` shows why; somebody else approves them"))
    unfinished = [row["id"] for row in rows if row["state"] not in SETTLED]
    if unfinished:
        what = f"{len(unfinished)} of {len(rows)} corrections not finished after {timeout:.0f} s"
        raise typer.Exit(_say(Exit.TIMED_OUT, what, "they stay queued; `factd status ID`"))
    if lost := [row["id"] for row in rows if row.get("lost")]:
        what = f"{len(lost)} of {len(rows)} corrections are live, but the server answers otherwise: lost"
        mend = f"`factd status {lost[0]}` shows its answer, `factd compact` writes it again"
        tell(f"warning: {what}\n  next: {mend}")
    bad = [row for row in rows if row["state"] not in GOOD]
    if bad:
        raise typer.Exit(
            _say(Exit.FAILED, f"{len(bad)} of {len(rows)} corrections are not live", "see the reasons")
        )


def _counted(ids: Sequence[str]) -> str:
    return f"{len(ids)} corrections" if len(ids) > 1 else "the correction"


def _interrupted(ids: Sequence[str]) -> CommandError:
    """Ctrl-C ends the waiting, not what was posted: the ids are all that is left to ask by."""
    shown = "".join(f"\n  {id}" for id in ids[:IDS_SHOWN])
    more = f"\n  and {len(ids) - IDS_SHOWN} more (--json shows all)" if len(ids) > IDS_SHOWN else ""
    what = f"no longer waiting for {_counted(ids)}; posted and on the way:{shown}{more}"
    mend = f"`factd status {ids[0]}` tells how far it is, `factd retract {ids[0]}` takes it out"
    return CommandError(Exit.INTERRUPTED, what, mend, ids=list(ids))


def _say(code: Exit, what: str, mend: str) -> int:
    tell(f"error: {what}\n  next: {mend}")
    return int(code)


def wait_for(ledger: Ledger, ids: Sequence[str], timeout: float) -> list[dict[str, Any]]:
    """Polls the ledger until all have ended or the time is up; an unknown id has not arrived yet."""
    deadline = time.monotonic() + timeout
    while True:
        rows = [correction_dict(ledger, id) for id in ids]
        if all(row["state"] in {*SETTLED, State.HELD} for row in rows) or time.monotonic() > deadline:
            return rows
        time.sleep(POLL_SECONDS)


def correction_dict(ledger: Ledger, id: str) -> dict[str, Any]:
    """A correction as JSON; state "queued" when the intake worker has not seen it yet."""
    try:
        return correction_view(ledger.questions.get(id))
    except UnknownIdError:
        blank = dict.fromkeys(("prompt", "before", "after", "reason", "version", "post_to_live_seconds"))
        return {"id": id, "state": "queued", **blank}
