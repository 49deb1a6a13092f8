"""A ledger with a long history, written in bulk as factd wrote it before running totals (revision 0002)."""

from sqlalchemy import MetaData, Table, insert, update

from daemon.ledger.chain import Head, extend
from daemon.ledger.database import open_engine
from daemon.ledger.migration import upgrade
from monitoring.measurements import Measurements

#: where the corrections of the history are; the others wait
LIVE, REPLACED, OUTLIERS = 0.9, 0.05, 0.02
STAGES = ("before_answers", "edit", "measure", "write", "publish", "pause", "confirm")
#: subjects of the corrections that are not live
OTHERS = 1000
#: rows of one insert
ROWS = 5000
_WAY = ("received", "validated", "staged", "verified", "published", "live")
_OUTLIER = "skipped_outlier: the write vector's norm 12.1 is more than 2 times the anchor 4.4"


def fill(url: str, corrections: int, versions: int) -> None:
    """One line of versions; each holds an equal share of the live corrections.

    Each live fact is of a subject of its own. What is not live is about 1,000 of these subjects.
    """
    # Made before the transaction: PostgreSQL ends one that idles for 30 s.
    tables = _tables(corrections, versions)
    told, head = extend(Head(), list(_changes(corrections, versions)))
    engine = open_engine(url)
    with engine.connect().execution_options(factd_write=True) as c, c.begin():
        upgrade(c, "0002")
        for name, rows in tables.items():
            table = Table(name, MetaData(), autoload_with=c)
            for start in range(0, len(rows), ROWS):
                c.execute(insert(table), rows[start : start + ROWS])
        control = Table("control", MetaData(), autoload_with=c)
        transitions = Table("transitions", MetaData(), autoload_with=c)
        for start in range(0, len(told), ROWS):
            c.execute(insert(transitions), told[start : start + ROWS])
        end = {"seq": head.seq, "hash": head.hash}
        c.execute(update(control).where(control.c.name == "head").values(value=end))
        c.execute(insert(control).values(name="live", value=f"v{versions:06d}"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as c:
        if c.dialect.name == "postgresql":
            c.exec_driver_sql("ANALYZE")  # as its autovacuum does in time
    engine.dispose()


def _tables(corrections: int, versions: int) -> dict[str, list[dict[str, object]]]:
    states = [_state(n, corrections) for n in range(corrections)]
    measured = Measurements(weight_norm_ratio={4: 1.01, 8: 1.02}, subspace_similarity={4: 0.9, 8: 0.95})
    kept = {name: value for name, value in measured.to_json().items() if name != "counts"}
    guards = {"weight_norm_ratio": "ok", "subspace_similarity": "ok"}
    verdict = {"outcome": "accepted", "reasons": [], "blamed": [], "guards": guards}
    live = [n for n, state in enumerate(states) if state == "live"]
    share = len(live) // versions
    lines = [
        {
            "id": f"v{n + 1:06d}",
            "parent": f"v{n:06d}",
            "state": "live" if n == versions - 1 else "past",
            "added": [f"id-{one}" for one in live[n * share : (n + 1) * share]],
            "removed": [],
            "attempts": 1,
            "fence": 1,
            "created_at": float(n),
            "live_at": float(n),
            "verdict": verdict,
            "measurements": kept,
        }
        for n in range(versions)
    ]
    seconds = [
        {"version": line["id"], "stage": stage, "seconds": 0.01 * (n % 7 + 1) ** 4, "at": float(n)}
        for n, line in enumerate(lines)
        for stage in STAGES
    ]
    return {
        "corrections": [_correction(n, state) for n, state in enumerate(states)],
        "versions": lines,
        "stage_seconds": seconds,
    }


def _state(n: int, of: int) -> str:
    share = n / of
    if share < LIVE:
        return "live"
    if share < LIVE + REPLACED:
        return "superseded"
    return "rejected" if share < LIVE + REPLACED + OUTLIERS else "validated"


def _correction(n: int, state: str) -> dict[str, object]:
    return {
        "id": f"id-{n}",
        "content_hash": f"{n:064x}",
        "subject": f"Place {n if state == 'live' else 3 * (n % OTHERS)}",
        "prompt": "The capital of {} is",
        "target": f"City {n}",
        "paraphrases": ["{} has the capital"],
        "neighbours": [{"prompt": "The capital of France is", "answer": "Paris"}],
        "priority": 0,
        "state": state,
        "reason": _OUTLIER if state == "rejected" else None,
        "attempts": 0,
        "not_before": 0.0,
        "received_at": float(n),
        "live_at": float(n) if state == "live" else None,
    }


def _changes(corrections: int, versions: int):
    for n in range(corrections):
        state = _state(n, corrections)
        ways = {"live": _WAY, "validated": _WAY[:2], "superseded": (*_WAY[:2], state)}
        way = ways.get(state, (*_WAY[:3], state))
        for old, new in zip((None, *way), way, strict=False):
            reason = _OUTLIER if new == "rejected" else None
            yield _change("correction", f"id-{n}", old, new, reason)
    for n in range(versions):
        way = ("planned", "written", "published", "live", "past")[: 4 if n == versions - 1 else 5]
        for old, new in zip((None, *way), way, strict=False):
            yield _change("version", f"v{n + 1:06d}", old, new, None)


def _change(kind: str, id: str, old: str | None, new: str, reason: str | None) -> dict[str, object]:
    return {
        "kind": kind,
        "id": id,
        "old": old,
        "new": new,
        "reason": reason,
        "actor": "applier",
        "at": 1000.0,
    }
