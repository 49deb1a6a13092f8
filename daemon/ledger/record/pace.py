"""How long a consolidation takes, and how many edits come meanwhile, as far as the past tells."""

from sqlalchemy import Connection, select

from daemon.core.lifecycle import OperationKind, OperationState
from daemon.ledger.reading import fact_ids
from daemon.ledger.tables import operations, versions


def pace(c: Connection, version: str, fact_seconds: float, now: float) -> dict[str, float]:
    """Of a consolidation that begins now: `seconds` until it is live, and the `edits` until then.

    The last one's seconds a fact, or the estimate before there was one, times the facts of the version. As
    many edits are expected as went live in as long a time until now.
    """
    seconds = len(fact_ids(c, version)) * (_last(c) or fact_seconds)
    lately = select(versions.c.added).where(versions.c.live_at > now - seconds)
    return {"seconds": seconds, "edits": sum(len(added) for added in c.scalars(lately))}


def _last(c: Connection) -> float | None:
    """Seconds a fact of the last consolidation that went live, from the request on; None before the first."""
    query = (
        select(operations.c.finished_at - operations.c.created_at, versions.c.id)
        .join(versions, versions.c.operation == operations.c.id)
        .where(operations.c.kind == OperationKind.CONSOLIDATE, operations.c.state == OperationState.DONE)
        .where(versions.c.live_at.is_not(None))
        .order_by(operations.c.id.desc())
        .limit(1)
    )
    row = c.execute(query).first()
    if row is None:
        return None
    # A clock that was set back meanwhile tells nothing.
    return max(0.0, row[0]) / max(1, len(fact_ids(c, row[1])))
