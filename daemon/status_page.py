"""The status page and the metrics: both are read from the ledger when somebody asks."""

from collections.abc import Sequence
from html import escape
from typing import Any

from daemon.ledger import Ledger
from daemon.ledger_queries import edits_left
from daemon.ruling import GUARD
from daemon.serving import ServingClient, ServingError
from monitoring.measurements import Measurements
from monitoring.metrics import StatusSnapshot

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;text-align:left;vertical-align:top}"
)
ROWS_SHOWN = 50


def number_of(version: str) -> int | None:
    """12 for "v000012"; the base is 0, also when a replica that restarted says "default". It computes with
    the base then, but is in sync only when it was told a version."""
    if version == "default":
        return 0
    return int(version[1:]) if version[:1] == "v" and version[1:].isdigit() else None


def snapshot(ledger: Ledger, replicas: Sequence[ServingClient]) -> StatusSnapshot:
    """Everything /metrics exports."""
    status = ledger.status()
    stages: dict[str, list[float]] = {}
    for _, stage, seconds in ledger.stage_seconds():
        stages.setdefault(stage, []).append(seconds)
    measurements = Measurements.from_json(status.measurements) if status.measurements else None
    served = {f"{i}": _served(replica) for i, replica in enumerate(replicas)}
    return StatusSnapshot(
        outcomes=status.counts,
        queue_depth={"corrections": status.pending, "apply": status.operations_pending},
        oldest_pending_seconds=status.oldest_pending_seconds or 0.0,
        stage_seconds=stages,
        measurements=measurements,
        layers=sorted(measurements.drift) if measurements else (),
        guards=(status.verdict or {}).get("guards", {}),
        edits_until_limit=edits_left(status.forecast),
        steps=status.steps,
        nas_skipped=status.nas_skipped,
        version=number_of(status.live),
        served_versions={name: number_of(version) for name, version in served.items()},
        in_sync={name: version == status.live for name, version in served.items()},
        publish_seconds=(stages.get("publish") or [None])[-1],
        pause_seconds=(stages.get("pause") or [None])[-1],
        rollbacks=status.rollbacks,
        last_success_timestamp_seconds=status.last_live_at,
    )


def _served(replica: ServingClient) -> str:
    """What the replica says; "" when it does not answer."""
    try:
        return replica.served().version
    except ServingError:
        return ""


def render(ledger: Ledger) -> str:
    """One HTML page: status, the newest corrections, the versions."""
    from daemon.views import correction_view, status_view, step_view, version_view

    status = status_view(ledger.status())
    corrections = [correction_view(row) for row in ledger.corrections(limit=ROWS_SHOWN)][::-1]
    versions = [version_view(row) for row in ledger.versions()][::-1][:ROWS_SHOWN]
    steps = [step_view(row) for row in ledger.transitions(kind=GUARD)[: -ROWS_SHOWN - 1 : -1]]
    names = ("live", "paused", "pending", "operations_pending", "nas_skipped", "forecast")
    counts = [(state, count) for state, count in status["counts"].items() if count]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>factd</title><style>{STYLE}</style>"
        "<h1>factd</h1>"
        + _table(("", ""), [(name.replace("_", " "), status[name]) for name in names] + counts)
        + "<h2>Steps of the guard</h2>"
        + _rows(steps, ("step", "on", "why"))
        + "<h2>Corrections</h2>"
        + _rows(corrections, ("id", "prompt", "before", "after", "state", "reason", "version"))
        + "<h2>Versions</h2>"
        + _rows(versions, ("id", "parent", "state", "reason"))
        + "</html>"
    )


def _rows(views: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    return _table(names, [[view[name] for name in names] for view in views])


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(name)}" for name in names)
    cells = ("".join(f"<td>{'' if cell is None else escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{head}" + "".join(f"<tr>{row}" for row in cells) + "</table>"
