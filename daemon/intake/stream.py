"""Corrections from a Redis Stream, for producers without Celery.

    XADD factd:corrections * correction '{"subject": "France", "prompt": "The capital of {} is", …}'

Entry 1700000000000-0 becomes correction `stream-1700000000000-0`. An entry is acknowledged and
deleted once the ledger has it, or has the reason why it was refused. So the stream holds what is still to be
read.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import OperationalError as DatabaseError

from daemon.core.errors import ConflictError, CorrectionError, Problem, SettingsError
from daemon.core.messages import Correction, parse_correction, parse_json
from daemon.core.names import MAIN
from daemon.intake.intake import Room, submit_or_refuse
from daemon.intake.server import connect, transaction
from daemon.ledger.ledger import Ledger

log = logging.getLogger("factd")

GROUP, CONSUMER, FIELD = "factd", "intake", "correction"
#: Key of the nameless model's stream.
STREAM = MAIN.stream
#: After a reader was killed, the next one can begin so long later, seconds.
LOCK_SECONDS = 5.0
#: At most so many entries are read and committed together.
ENTRIES = 200
#: So long a read waits for the next entry, seconds. So long a reader waits for the lock, for room, or after
#: a fault.
PAUSE_SECONDS = 1.0
#: Time-out of the connection, seconds: longer than a read waits.
SOCKET_SECONDS = 5.0

Entry = tuple[bytes, Mapping[bytes, bytes] | None]


def append(redis_url: str, corrections: Sequence[Correction], stream: str = STREAM) -> list[str]:
    """Appends entries, all or none, and returns the ids that the corrections will have.

    Raises:
        RedisError: no server answers; whether the entries are there is unknown.
        SettingsError: the URL is not one of a Redis or Valkey server.
    """
    try:
        made = connect(redis_url, SOCKET_SECONDS)
    except ValueError as error:
        raise SettingsError(f"FACTD_REDIS_URL names no Redis or Valkey server: {error}") from None
    with made as client, transaction(client) as pipe:
        for correction in corrections:
            pipe.xadd(stream, {FIELD: json.dumps(correction.model_dump())})
        return [_name(entry) for entry in pipe.execute()]


def _name(entry: bytes) -> str:
    return f"stream-{entry.decode()}"


class StreamReader:
    """Moves entries into the ledger.

    One reader holds a lock, and the others stand by. Several readers at once would bring the entries into the
    ledger in any order.
    """

    def __init__(
        self, client: Redis, ledger: Ledger, room: Room, ring: Callable[[], object], stream: str = STREAM
    ) -> None:
        self.client, self.ledger, self.room, self.ring = client, ledger, room, ring
        self.stream, self.lock = stream, f"{stream}:reader"

    def run(self, stopping: threading.Event) -> None:
        """Reads until `stopping`. A fault of the broker or the ledger is logged, and reading begins again."""
        while not stopping.is_set():
            try:
                self._read(stopping)
            except (RedisError, DatabaseError) as error:
                log.warning("the stream %s cannot be read: %s", self.stream, error)
            except Exception:
                log.exception("the stream %s cannot be read", self.stream)
            stopping.wait(PAUSE_SECONDS)

    def _read(self, stopping: threading.Event) -> None:
        lock = self.client.lock(self.lock, timeout=LOCK_SECONDS, blocking=False, thread_local=False)
        if not lock.acquire():
            return
        try:
            self._make_group()
            self._take_over()
            while not stopping.is_set():
                lock.reacquire()
                if self.room.left() == 0:
                    stopping.wait(PAUSE_SECONDS)  # the entries wait in the stream
                else:
                    self._take(self._unread())
        finally:
            with suppress(RedisError):  # the lock expires by itself
                lock.release()

    def _make_group(self) -> None:
        """Makes the group of readers at the first entry: even if the group was lost, no entry is skipped."""
        try:
            self.client.xgroup_create(self.stream, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    def _take_over(self) -> None:
        """Takes in the entries that a former reader had read and not acknowledged, before any new entry."""
        start, last = b"0", b"0-0"
        while start != last:
            start, entries, *_ = self.client.xautoclaim(self.stream, GROUP, CONSUMER, 0, start, count=ENTRIES)
            self._take(entries)

    def _unread(self) -> list[Entry]:
        wait = int(1000 * PAUSE_SECONDS)
        found: Any = self.client.xreadgroup(GROUP, CONSUMER, {self.stream: ">"}, count=ENTRIES, block=wait)
        return found[0][1] if found else []

    def _take(self, entries: list[Entry]) -> None:
        if not entries:
            return
        kept = [(_name(id), fields) for id, fields in entries if fields is not None]
        try:
            self.ledger.intake.submit_many([(id, _correction(fields)) for id, fields in kept], actor="stream")
        except (CorrectionError, ConflictError):
            for id, fields in kept:
                with suppress(CorrectionError, ConflictError):  # recorded as refused
                    submit_or_refuse(self.ledger, id, lambda fields=fields: _correction(fields), "stream")
        ids = [id for id, _ in entries]
        with transaction(self.client) as pipe:
            pipe.xack(self.stream, GROUP, *ids)
            pipe.xdel(self.stream, *ids)
            pipe.execute()
        self.room.add(len(kept))
        self.ring()


def _correction(fields: Mapping[bytes, bytes]) -> Correction:
    """Raises CorrectionError."""
    names = sorted(name.decode(errors="replace") for name in fields)
    if names != [FIELD]:
        mend = f"an entry has one field, {FIELD}, with the correction as JSON"
        raise CorrectionError([Problem("", repr(names)[:80], mend)])
    return parse_correction(parse_json(fields[FIELD.encode()]))


class StreamThread:
    """A reader in a thread of its own.

    Raises:
        ValueError: the URL is not one of a Redis or Valkey server.
    """

    def __init__(
        self, redis_url: str, ledger: Ledger, room: Room, ring: Callable[[], object], stream: str = STREAM
    ) -> None:
        self._client = connect(redis_url, SOCKET_SECONDS)
        self._reader = StreamReader(self._client, ledger, room, ring, stream)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends within a second or two, and lets the next reader begin."""
        self._stopping.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        with self._client:
            self._reader.run(self._stopping)
