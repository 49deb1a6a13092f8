"""Which pending corrections make the next batch. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.ledger_tables import CorrectionRow
from daemon.lifecycle import State


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

    added: tuple[CorrectionRow, ...] = ()
    removed: tuple[str, ...] = ()
    settled: tuple[Settlement, ...] = ()


def plan_batch(
    pending: Sequence[CorrectionRow], live: Sequence[CorrectionRow], batch_size: int, now: float
) -> Plan:
    """Of each slot (subject and prompt) only the newest pending correction is tried; older ones wait for
    its fate: they are superseded when it goes live, and have their turn when it is rejected."""
    held = {fact.slot: fact for fact in live}
    newest: dict[tuple[str, str], CorrectionRow] = {}
    for row in pending:
        if row.slot not in newest or newest[row.slot].seq < row.seq:
            newest[row.slot] = row
    settled = tuple(_settle(pending, newest, held))
    done = {settlement.id for settlement in settled}
    added: list[CorrectionRow] = []
    limit = batch_size
    for row in pending:
        if row.id in done or newest[row.slot] is not row or row.not_before > now:
            continue
        # A batch that was refused is tried again in halves: the smallest limit in it counts.
        row_limit = min(limit, row.batch_limit or limit)
        if len(added) >= row_limit:
            break
        limit = row_limit
        added.append(row)
    removed = tuple(held[row.slot].id for row in added if row.slot in held)
    return Plan(tuple(added), removed, settled)


def _settle(pending, newest, held):
    for row in pending:
        fact = held.get(row.slot)
        if fact is None:
            continue
        top = newest[row.slot]
        if fact.seq > row.seq:
            yield Settlement(row.id, State.SUPERSEDED, f"{fact.id} is newer and live", fact.id)
        elif row is top and row.target == fact.target:
            yield Settlement(row.id, State.ALREADY_KNOWN, f"{fact.id} says the same and is live", fact.id)
        elif row is not top and top.target == fact.target:
            # The newest one wants what is live; an older wish must not come between.
            yield Settlement(row.id, State.SUPERSEDED, f"superseded by {top.id}", top.id)
