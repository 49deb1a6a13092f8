"""Which pending corrections make the next batch. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from daemon.core.lifecycle import State
from daemon.ledger.rows import Candidate


@dataclass(frozen=True)
class Settlement:
    """A pending correction that needs no work."""

    id: str
    state: State
    reason: str
    by: str


@dataclass(frozen=True)
class Plan:
    """The next batch: facts to add, live facts that they replace, and corrections settled without work."""

    added: tuple[Candidate, ...] = ()
    removed: tuple[str, ...] = ()
    settled: tuple[Settlement, ...] = ()
    #: how much longer the batch may wait for company, seconds; 0 when it is full or one of it has waited
    #: long enough
    wait_seconds: float = 0.0


def plan_batch(
    pending: Sequence[Candidate],
    live: Sequence[Candidate],
    batch_size: int,
    now: float,
    patience: float = 0.0,
    rest: float = math.inf,
) -> Plan:
    """The next batch, from what waits and what is live.

    Of each slot (subject and prompt) only the newest pending correction is tried. If it goes live, the older
    ones are superseded; if it is rejected, they have their turn.

    Higher priority goes first, then the order of arrival. Corrections of one subject keep their order: an
    urgent one takes the older ones of its subject along, and waits with them.

    Args:
        patience: how long the first correction of an incomplete batch waits for company, seconds.
        rest: the longest time between two attempts, seconds.
    """
    held = {fact.slot: fact for fact in live}
    by_age = sorted(pending, key=attrgetter("seq"))
    newest = {row.slot: row for row in by_age}
    settled = tuple(_settle(pending, newest, held)) if held else ()
    done = {settlement.id for settlement in settled}
    added: list[Candidate] = []
    waiting: set[str] = set()
    limit = batch_size
    for row in _in_order(by_age):
        if row.id in done or newest[row.slot] is not row:
            continue
        # A time further off than the longest rest was written before the clock was set back.
        if now < row.not_before <= now + rest or row.subject in waiting:
            waiting.add(row.subject)
            continue
        # A batch that was refused is tried again in halves: the smallest limit in it counts.
        row_limit = min(limit, row.batch_limit or limit)
        if len(added) >= row_limit:
            break
        limit = row_limit
        added.append(row)
    removed = tuple(held[row.slot].id for row in added if row.slot in held)
    complete = settled or len(added) >= limit
    return Plan(tuple(added), removed, settled, 0.0 if complete else _patience(added, now, patience))


def _in_order(by_age: Sequence[Candidate]) -> Sequence[Candidate]:
    """The most urgent subjects first; within one priority the oldest first."""
    if len({row.priority for row in by_age}) < 2:
        return by_age  # nothing is urgent, which is the usual case: thousands of rows need no second sort
    priority: dict[str, int] = {}
    ranked: list[tuple[int, int, Candidate]] = []
    for row in reversed(by_age):
        # The most urgent of this one and of the younger ones of its subject.
        priority[row.subject] = max(row.priority, priority.get(row.subject, row.priority))
        ranked.append((-priority[row.subject], row.seq, row))
    return [row for _, _, row in sorted(ranked)]


def _patience(added: Sequence[Candidate], now: float, patience: float) -> float:
    if any(row.attempts or row.batch_limit or row.not_before for row in added):
        return 0.0  # tried before: it has waited
    # A clock that was set back must not make anybody wait longer.
    waited = (max(0.0, now - row.received_at) for row in added)
    return max(0.0, patience - max(waited, default=patience))


def _settle(
    pending: Sequence[Candidate],
    newest: Mapping[tuple[str, str], Candidate],
    held: Mapping[tuple[str, str], Candidate],
) -> Iterator[Settlement]:
    for row in pending:
        fact = held.get(row.slot)
        if fact is None:
            continue
        top = newest[row.slot]
        if fact.seq > row.seq:
            yield Settlement(row.id, State.SUPERSEDED, f"{fact.id} is newer and live", fact.id)
        elif row is top and row.repeats(fact):
            yield Settlement(row.id, State.ALREADY_KNOWN, f"{fact.id} says the same and is live", fact.id)
        elif row is not top and top.repeats(fact):
            # The newest one wants what is live; an older wish must not come between.
            yield Settlement(row.id, State.SUPERSEDED, f"superseded by {top.id}", top.id)
