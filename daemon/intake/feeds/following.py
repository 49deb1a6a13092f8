"""Follows a stream of server-sent events into the ledger, over cut connections and restarts.

An event counts as read when the ledger has it, or has the reason why it was refused. Only then its id becomes
the position from which the next connection goes on. An event that comes twice has the same idempotency key,
so it is recorded once.
"""

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import httpx
from sqlalchemy.exc import OperationalError as DatabaseError

from daemon.core.errors import ClientError, CorrectionError, QueueFullError
from daemon.core.messages import parse_json
from daemon.core.shapes import is_object
from daemon.intake.feeds.position import Position
from daemon.intake.feeds.records import Entry, Told, digest, told, wrong
from daemon.intake.feeds.server_sent import Event, Parser
from daemon.intake.feeds.taking import Report, Taker
from daemon.ledger.ledger import Ledger

log = logging.getLogger("factd")

#: The first pause after a lost connection, seconds; doubled each time nothing comes, up to the longest.
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0
#: A pause is drawn between half of it and the whole: a hundred clients must not come back at once.
SPREAD = 0.5
#: A server that says nothing for so long is taken for gone, seconds. Streams send comments in between.
SILENT_SECONDS = 90.0
CONNECT_SECONDS = 10.0
#: Who posts, in the ledger.
ACTOR = "follow"
#: Answers that may become better by waiting; others end the following.
LATER = frozenset({408, 425, 429})

#: An event as a record: None when it holds nothing for us.
Mapping = Callable[[Event], Entry | None]


def plain_corrections(event: Event) -> Entry | None:
    """The data is a correction as JSON, as `POST /v1/corrections` takes it, with `change` besides."""
    if event.kind != "message":
        return None
    if event.data is None:
        return wrong("data", "(a long text)", "is too long for a correction; send one an event")
    try:
        content = parse_json(event.data)
    except CorrectionError as error:
        return error
    if not is_object(content):
        return wrong("data", content, "must be a JSON object with subject, prompt and target")
    return told(content, None)


@dataclass
class Followed:
    """What came in so far."""

    report: Report = field(default_factory=Report)
    events: int = 0
    skipped: int = 0
    connections: int = 0


@dataclass
class Follower:
    """Reads one address until it is told to stop.

    Args:
        most: stop after so many events; None goes on for ever.
        say: is told of each lost connection.
    """

    url: str
    client: httpx.Client
    taker: Taker
    position: Position
    mapping: Mapping
    ring: Callable[[], object]
    stopping: threading.Event
    say: Callable[[str], object] = log.warning
    most: int | None = None
    first_seconds: float = FIRST_SECONDS
    followed: Followed = field(default_factory=Followed)

    def run(self) -> Followed:
        """Returns when `stopping` is set, when `most` events came, or when the server says that this is all.

        Raises:
            ClientError: the server refuses the request for good.
            SettingsError: the position cannot be read.
        """
        pause = self.first_seconds
        while not self._enough():
            before, parser = self.followed.events, Parser(self.position.load())
            try:
                if not self._connect(parser):
                    break
                why = "the connection ended"
            except (httpx.TransportError, DatabaseError) as error:
                why = f"{type(error).__name__}: {error}"
            if self._enough():
                break
            pause = self.first_seconds if self.followed.events > before else min(2 * pause, LONGEST_SECONDS)
            pause = max(pause, parser.retry_seconds or 0.0)
            wait = pause * (1 - SPREAD * random.random())
            self.say(f"{self.url}: {why}; again in {wait:.1f} s after {parser.last_id or 'the beginning'!r}")
            self.stopping.wait(wait)
        return self.followed

    def _enough(self) -> bool:
        return self.stopping.is_set() or (self.most is not None and self.followed.events >= self.most)

    def _connect(self, parser: Parser) -> bool:
        """Reads one response to its end; False when the server wants no further request."""
        headers = {b"Accept": b"text/event-stream", b"Cache-Control": b"no-store"}
        if parser.last_id:
            headers[b"Last-Event-ID"] = parser.last_id.encode()
        with self.client.stream("GET", self.url, headers=headers) as answer:
            if answer.status_code == 204:
                return False
            _check(answer)
            self.followed.connections += 1
            for chunk in answer.iter_bytes():
                self._take(list(parser.feed(chunk)))
                if self._enough():
                    break
        return True

    def _take(self, events: Sequence[Event]) -> None:
        """Records what came together in one transaction, then moves the position."""
        if self.most is not None:
            events = events[: self.most - self.followed.events]
        if not events:
            return
        entries = list(self._entries(events))
        while True:
            try:
                self._record(entries)
                break
            except QueueFullError as error:
                # Nothing is read meanwhile, so the server keeps what comes.
                self.say(f"{self.url} waits: {error}")
                if self.stopping.wait(error.seconds):
                    return
        self.followed.events += len(events)
        if events[-1].id:
            self.position.save(events[-1].id)
        self.ring()

    def _entries(self, events: Iterable[Event]) -> Iterator[tuple[str, Entry]]:
        for event in events:
            entry = self.mapping(event)
            if entry is None:
                self.followed.skipped += 1
            else:
                yield self._key(event), entry

    def _key(self, event: Event) -> str:
        """Without ids an event that comes twice cannot be told from two that say the same."""
        return f"event:{digest(self.url, event.id, event.place, event.data)}" if event.id else ""

    def _record(self, entries: Sequence[tuple[str, Entry]]) -> None:
        report = Report()
        keyed = [entry.keyed(key) if key and isinstance(entry, Told) else entry for key, entry in entries]
        self.taker.take(keyed, report)
        self.followed.report.add(report)


def refuse_in(ledger: Ledger, error: CorrectionError, told: Told | None) -> None:
    """Keeps a refusal in the ledger, under an id of its own: nobody may be looking at the terminal."""
    log.warning("refused: %s", error)
    key = told.correction.key if told else None
    ledger.intake.refuse(f"refused-{digest(key, str(error))}", str(error), actor=ACTOR)


def _check(answer: httpx.Response) -> None:
    """Raises ClientError for what waiting does not mend, and TransportError for the rest."""
    status = answer.status_code
    if status in LATER or status >= 500:
        raise httpx.RemoteProtocolError(f"the server answers {status}")
    if not answer.is_success:
        answer.read()
        raise ClientError(status, answer.text[:200])
    kind = answer.headers.get("Content-Type", "")
    if not kind.startswith("text/event-stream"):
        raise ClientError(status, f"with Content-Type {kind!r}, which is no stream of events")
