"""What the status page and the metrics show, in a number of statements that no history changes.

Counts come from the running totals in `tallies`, times and the last step from the end of an index.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, case, func, select

from daemon.core.actors import ActorKind
from daemon.core.lifecycle import FINAL, OperationKind, OperationState, ReasonCode, State
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD
from daemon.ledger.heartbeats import signs
from daemon.ledger.reading import find_version
from daemon.ledger.record.disproved import disproved
from daemon.ledger.record.schedule import coming
from daemon.ledger.rows import LedgerStatus, TransitionRow
from daemon.ledger.tables import control, corrections, operations, tallies, transitions

#: causes of a rollback that metrics tell apart: who asked for it, or what failed
ROLLBACK_CAUSES = (*map(str, ActorKind), str(ReasonCode.PUBLISH_FAILED), str(ReasonCode.CANARY_FAILED))


@dataclass(frozen=True)
class _Tally:
    """How often rows of a kind went from one state to another, for reasons of one code."""

    kind: str
    old: str
    new: str
    code: str
    count: int


def read_status(c: Connection, now: float) -> LedgerStatus:
    """Everything the status page and the metrics show, from one snapshot."""
    controls: dict[str, Any] = dict(c.execute(select(control.c.name, control.c.value)).all())
    counted = [_Tally(*row) for row in c.execute(select(tallies))]
    live = find_version(c, controls.get("live") or BASE_VERSION)
    counts = {str(state): 0 for state in State} | _in_state(counted, "correction")
    oldest = _oldest_pending(c)
    return LedgerStatus(
        live=live.id,
        paused=controls.get("paused"),
        counts=counts,
        pending=counts[State.VALIDATED],
        oldest_pending_seconds=None if oldest is None else max(0.0, now - oldest),
        last_live_at=c.scalar(select(func.max(corrections.c.live_at))),
        measurements=live.measurements,
        verdict=live.verdict,
        rollbacks=_rollbacks(c, counted),
        nas_skipped=_with_code(counted, "correction", ReasonCode.SKIPPED_OUTLIER),
        operations_pending=_in_state(counted, "operation").get(OperationState.PENDING, 0),
        ended=_into(counted, "correction", lambda state: state in FINAL),
        steps=_into(counted, GUARD),
        last_step=last_step(c),
        watched_at=watched.get("at") if (watched := controls.get("watched")) else None,
        forecast=controls.get("forecast"),
        workers=signs(controls, now),
        background=controls.get("background"),
        disproved=disproved(controls),
        coming=coming(c),
        scheduled=counts[State.RECEIVED],
    )


def last_step(c: Connection, *steps: str) -> TransitionRow | None:
    """The guard's last step, of those named or of any."""
    query = select(transitions).where(transitions.c.kind == GUARD).order_by(transitions.c.seq.desc())
    if steps:
        query = query.where(transitions.c.new.in_(steps))
    row = c.execute(query.limit(1)).first()
    return TransitionRow(*row) if row else None


def edits_left(forecast: Mapping[str, Any] | None) -> float | None:
    """Edits until the nearest limit: infinite when none is approached, None while too little is known."""
    if not forecast or not forecast["known"]:
        return None
    left = [one["edits"] for one in forecast["forecasts"]]
    return min((math.inf if edits is None else edits for edits in left), default=math.inf)


def corrections_by_state(c: Connection) -> dict[str, int]:
    """Every state is there."""
    counted = [_Tally(*row) for row in c.execute(select(tallies).where(tallies.c.kind == "correction"))]
    return {str(state): 0 for state in State} | _in_state(counted, "correction")


def _in_state(counted: Sequence[_Tally], kind: str) -> dict[str, int]:
    """State → how many rows of the kind are in it: those that came less those that went."""
    found: Counter[str] = Counter()
    for each in counted:
        if each.kind == kind:
            found[each.new] += each.count
            if each.old:
                found[each.old] -= each.count
    return dict(found)


def _into(
    counted: Sequence[_Tally], kind: str, wanted: Callable[[str], bool] = lambda _: True
) -> dict[str, int]:
    """State → how often a row of the kind came into it, also those that have left it again."""
    found: Counter[str] = Counter()
    for each in counted:
        if each.kind == kind and wanted(each.new):
            found[each.new] += each.count
    return dict(found)


def _with_code(counted: Sequence[_Tally], kind: str, code: ReasonCode) -> int:
    return sum(each.count for each in counted if each.kind == kind and each.code == code)


def _oldest_pending(c: Connection) -> float | None:
    """Since when the first one could be written: since it came, or since its time came."""
    # Two questions: each is answered from an index.
    ready, starts, came = (
        corrections.c.state == State.VALIDATED,
        corrections.c.valid_from,
        corrections.c.received_at,
    )
    since = case((starts > came, starts), else_=came)
    asked = [
        select(func.min(came)).where(ready, starts.is_(None)).scalar_subquery(),
        select(func.min(since)).where(ready, starts.is_not(None)).scalar_subquery(),
    ]
    return min((at for at in c.execute(select(*asked)).one() if at is not None), default=None)


def _rollbacks(c: Connection, counted: Sequence[_Tally]) -> dict[str, int]:
    done = (operations.c.kind == OperationKind.ROLLBACK) & (operations.c.state == OperationState.DONE)
    query = select(operations.c.actor_kind, func.count()).where(done).group_by(operations.c.actor_kind)
    found = dict.fromkeys(ROLLBACK_CAUSES, 0) | dict(c.execute(query).all())
    for code in (ReasonCode.PUBLISH_FAILED, ReasonCode.CANARY_FAILED):
        found[str(code)] = _with_code(counted, "version", code)
    return found
