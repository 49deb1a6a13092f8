"""`factd follow`: a stream of server-sent events, until Ctrl-C."""

import threading
from collections.abc import Callable
from contextlib import closing
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import httpx
import typer

from daemon.cli.exits import CommandError, Exit
from daemon.cli.ledger import open_ledger
from daemon.cli.options import JsonOption, StateOption
from daemon.cli.output import show_json, show_lines, tell
from daemon.cli.reporting import reported
from daemon.cli.run.signals import terminate_like_interrupt
from daemon.core.errors import ClientError
from daemon.core.settings import Settings
from daemon.intake.doorbell import Doorbell, DoorbellThread
from daemon.intake.feeds.following import (
    ACTOR,
    CONNECT_SECONDS,
    SILENT_SECONDS,
    Followed,
    Follower,
    Mapping,
    plain_corrections,
    refuse_in,
)
from daemon.intake.feeds.position import Position
from daemon.intake.feeds.taking import Taker
from daemon.intake.feeds.wikimedia import RecentChanges, read_labels
from daemon.intake.intake import Room
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import gate_of
from daemon.ledger.ledger import Ledger


class Form(StrEnum):
    """What the data of an event is."""

    CORRECTION = "correction"
    WIKIMEDIA = "wikimedia"


def follow(
    url: Annotated[str, typer.Argument(help="Address of the stream, http:// or https://.")],
    mapping: Annotated[
        Form,
        typer.Option(
            help="What the data of an event is: a correction as JSON, or a recent change of Wikimedia."
        ),
    ] = Form.CORRECTION,
    labels: Annotated[
        Path | None, typer.Option(help="wikimedia: lines of an item, a tab and its words (Q142, France).")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(help='"NAME: VALUE" sent with the request, as for a token; repeatable.'),
    ] = None,
    no_answer: Annotated[
        str | None,
        typer.Option(
            help="What shall be said where a fact is obsolete; default FACTD_NO_ANSWER, else it is taken out."
        ),
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow a stream of server-sent events into the ledger until Ctrl-C.

    It goes on after the last event that the ledger has (Last-Event-ID), also in another process, and connects
    again with growing pauses when the connection is lost.
    """
    terminate_like_interrupt()
    with reported(as_json):
        if not url.startswith(("http://", "https://")):
            raise CommandError(
                Exit.BAD_INPUT, f"{url!r} is no address of a stream", "give one with http:// or https://"
            )
        headers = _headers(header or [])
    with open_ledger(state, as_json) as (settings, ledger):
        ledger.intake.gate = gate_of(settings)
        found = _mapping(mapping, labels, settings)
        answer = settings.no_answer if no_answer is None else no_answer
        with _client(headers) as client, closing(_bell(settings)) as ring:
            follower = Follower(
                url=url,
                client=client,
                taker=_taker(ledger, settings, answer),
                position=Position.of(settings.state_dir, url),
                mapping=found,
                ring=ring,
                stopping=threading.Event(),
                say=tell,
                most=most,
            )
            followed = _run(follower)
    _show(followed, as_json)


def _run(follower: Follower) -> Followed:
    try:
        return follower.run()
    except KeyboardInterrupt:
        return follower.followed
    except ClientError as error:
        what = f"{follower.url} cannot be followed: {error.status} {error.text}"
        raise CommandError(
            Exit.FAILED, what, "correct the address, or give what it asks for with --header"
        ) from None


def _taker(ledger: Ledger, settings: Settings, no_answer: str) -> Taker:
    room = Room(ledger, settings.max_pending)
    return Taker(ledger, room, ACTOR, no_answer=no_answer, refused=partial(refuse_in, ledger))


def _mapping(form: Form, labels: Path | None, settings: Settings) -> Mapping:
    if form is Form.CORRECTION:
        return plain_corrections
    if labels is None:
        mend = "give a file of lines such as Q142, a tab, France"
        raise CommandError(
            Exit.BAD_INPUT, "--mapping wikimedia needs --labels: its events hold numbers", mend
        )
    return RecentChanges(load_lexicon(settings.relations), read_labels(labels))


def _headers(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise CommandError(
                Exit.BAD_INPUT, "--header needs a name, a colon and a value", '"Authorization: Bearer …"'
            )
        found[name.strip()] = value.strip()
    return found


def _client(headers: dict[str, str]) -> httpx.Client:
    timeout = httpx.Timeout(CONNECT_SECONDS, read=SILENT_SECONDS)
    return httpx.Client(headers=headers, timeout=timeout, follow_redirects=True)


def _bell(settings: Settings) -> DoorbellThread:
    """In a thread: no event waits for a broker that is away. It stays open until the process ends."""
    doorbell = Doorbell.of(settings.redis_url, settings.names)
    ring: Callable[[], None] = doorbell.ring
    return DoorbellThread(ring)


def _show(followed: Followed, as_json: bool) -> None:
    counts = followed.report.view()
    view = {
        "events": followed.events,
        "skipped": followed.skipped,
        "connections": followed.connections,
    } | counts
    if as_json:
        show_json(view)
        return
    told = ", ".join(f"{view[name]} {name}" for name in ("taken", "known", "retracted", "refused", "skipped"))
    show_lines(f"{followed.events} events in {followed.connections} connections: {told}")
