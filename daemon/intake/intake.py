"""What stands before the ledger at every intake.

`Room` limits how many corrections wait, `Rates` how fast a token posts, `Writer` commits the posts of many
requests at once, and `submit_or_refuse` records a message of a queue or the reason why it is refused.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

from limits import RateLimitItem, parse
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from daemon.core.errors import ConflictError, CorrectionError, QueueFullError, RateError
from daemon.core.messages import MAX_ID, Correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger

log = logging.getLogger("factd")

#: The waiting corrections are counted in the ledger so often, seconds. In between, this process adds what it
#: has let in.
COUNT_SECONDS = 1.0
#: Whoever finds the queue full is told to come again after so long, seconds: by then a batch has ended.
FULL_SECONDS = 5.0
#: At most so many corrections of several requests are committed together.
COMMIT_MOST = 2000
#: A request waits at most so long for a shared counter, seconds.
COUNTER_SECONDS = 0.5

Posts = Sequence[tuple[str | None, Correction]]


class Room:
    """How many more corrections may wait.

    Other processes may exceed the limit by what they let in between two counts (COUNT_SECONDS).
    """

    def __init__(self, ledger: Ledger, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.ledger, self.most, self.clock = ledger, most, clock
        self._lock = threading.Lock()
        self._waiting, self._counted_at = 0, -math.inf

    def left(self) -> int:
        with self._lock:
            return self._left()

    def _left(self) -> int:
        if self.clock() - self._counted_at >= COUNT_SECONDS:
            self._waiting, self._counted_at = self.ledger.questions.pending_count(), self.clock()
        return max(0, self.most - self._waiting)

    def take(self, count: int) -> None:
        """Raises QueueFullError unless `count` more may wait."""
        with self._lock:
            if count > self._left():
                raise QueueFullError(self._waiting, self.most, FULL_SECONDS)
            self._waiting += count

    def add(self, count: int) -> None:
        """Counts corrections that are in the ledger already, whether there was room or not."""
        with self._lock:
            self._waiting += count


class Rates:
    """What a token may ask for and post, counted in memory or in a Redis shared by several processes."""

    def __init__(self, settings: Settings) -> None:
        url = settings.rates_url
        #: counting in memory takes so little time that it needs no thread
        self.in_memory = url.startswith("memory")
        quick = {"socket_connect_timeout": COUNTER_SECONDS, "socket_timeout": COUNTER_SECONDS}
        options = {} if self.in_memory else quick
        self._limiter = SlidingWindowCounterRateLimiter(
            storage_from_string(url, wrap_exceptions=True, **options)
        )
        told = {"requests": settings.request_rate, "corrections": settings.correction_rate}
        self._limits: dict[str, RateLimitItem] = {what: parse(rate) for what, rate in told.items() if rate}

    def most(self, what: Literal["requests", "corrections"]) -> float:
        """What a token may spend within the window, all at once."""
        limit = self._limits.get(what)
        return math.inf if limit is None else limit.amount

    def spend(self, what: Literal["requests", "corrections"], token: str, cost: int = 1) -> None:
        """Raises RateError when the token asks for more than its rate."""
        limit = self._limits.get(what)
        if limit is None or cost == 0:
            return
        try:
            if self._limiter.hit(limit, what, token, cost=cost):
                return
            reset_at = self._limiter.get_window_stats(limit, what, token).reset_time
        except StorageError as error:
            # Corrections are taken while the broker is away; the limit of `Room` still holds.
            log.warning("the rate of %s cannot be counted: %s", what, error.storage_error)
            return
        setting = {"requests": "FACTD_REQUEST_RATE", "corrections": "FACTD_CORRECTION_RATE"}[what]
        raise RateError(what, str(limit), setting, max(0.0, reset_at - time.time()))


class Writer:
    """Commits the posts of all requests that wait in one transaction.

    Each transaction costs an fsync, and requests that write at the same time wait for each other's lock in
    growing steps. Each request is still recorded as a whole or not at all.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._asked: queue.SimpleQueue[tuple[Posts, str, Future[list[str]]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ledger writer", daemon=True)
        self._thread.start()

    def submit(self, posts: Posts, actor: str) -> list[str]:
        """`Ledger.submit_many`; returns when the posts are durable."""
        done: Future[list[str]] = Future()
        self._asked.put((posts, actor, done))
        return done.result()

    def waiting(self) -> int:
        """How many requests the writer has not begun with."""
        return self._asked.qsize()

    def close(self) -> None:
        """Returns when everything asked for is written."""
        self._asked.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._asked.get()) is not None:
            group, last = [first], False
            while not last and not self._asked.empty() and sum(len(g[0]) for g in group) < COMMIT_MOST:
                more = self._asked.get()
                if more is None:
                    last = True
                else:
                    group.append(more)
            for actor in dict.fromkeys(actor for _, actor, _ in group):
                self._write([one for one in group if one[1] == actor], actor)
            if last:
                return

    def _write(self, group: list[tuple[Posts, str, Future[list[str]]]], actor: str) -> None:
        try:
            ids = self.ledger.intake.submit_many(
                [post for posts, _, _ in group for post in posts], actor=actor
            )
        except Exception as error:  # it is raised where the request waits
            if isinstance(error, ConflictError | CorrectionError) and len(group) > 1:
                # One of the requests is at fault. Alone, each of the others is written.
                for one in group:
                    self._write([one], actor)
                return
            for _, _, done in group:
                done.set_exception(error)
        else:
            start = 0
            for posts, _, done in group:
                done.set_result(ids[start : start + len(posts)])
                start += len(posts)


def submit_patiently(
    ledger: Ledger,
    id: str,
    parse: Callable[[], Correction],
    actor: str,
    pause: float,
    stopping: Callable[[], bool],
) -> str:
    """`submit_or_refuse`; while the ledger cannot be written it waits here, not in the broker.

    A message that went back would come again behind younger ones. A message that failed would be gone.

    Args:
        pause: between two attempts, seconds.

    Raises:
        CorrectionError, ConflictError: it was refused; the ledger shows its id as rejected.
        DBAPIError: the database refuses it for its content, or `stopping` says that there is no time to wait.
    """
    while True:
        try:
            return submit_or_refuse(ledger, id, parse, actor)
        except DBAPIError as error:
            # A read-only standby or a damaged file is mended one day. What the database refuses for its
            # content is refused for ever.
            if isinstance(error, DataError | IntegrityError) or stopping():
                raise
            log.error("correction %s waits: the ledger does not answer: %s", id, error.orig)
            time.sleep(pause)


def submit_or_refuse(ledger: Ledger, id: str, parse: Callable[[], Correction], actor: str) -> str:
    """Records a message from a queue, or why it is refused; returns the correction's id.

    Raises:
        CorrectionError, ConflictError: it was refused; the ledger shows its id as rejected.
    """
    try:
        correction = parse()
        try:
            return ledger.intake.submit(correction, id, actor=actor)
        except ConflictError as error:
            if error.field == "id":  # another correction has this id; the refusal needs one of its own
                id = f"{id[: MAX_ID - 17]}-{correction.content_hash[:16]}"
            raise
    except (CorrectionError, ConflictError) as error:
        ledger.intake.refuse(id, str(error), actor=actor)
        log.warning("correction %s refused: %s", id, error)
        raise
