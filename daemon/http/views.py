"""Rows of the ledger as JSON: what the command line and the HTTP API show."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from daemon.core.lifecycle import State
from daemon.core.times import shown
from daemon.ledger.rows import (
    Coming,
    CorrectionRow,
    FormAnswer,
    LedgerStatus,
    OperationRow,
    TransitionRow,
    VersionRow,
)
from editing.said import said


def correction_view(row: CorrectionRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "subject": row.subject,
        "prompt": row.text,
        "template": row.prompt,
        "target": row.target,
        "state": str(row.state),
        "reason": row.reason,
        "before": row.before,
        "after": row.after,
        "was": row.was,
        "questions": list(row.questions),
        "answers": {name: _answer_view(told, row.target) for name, told in row.answers.items()},
        "lost": dict(row.lost),
        "version": row.version,
        "superseded_by": row.superseded_by,
        "attempts": row.attempts,
        "key": row.key,
        "source": row.source,
        "score": row.score,
        "findings": list(row.findings),
        "reviewed_by": row.reviewed_by,
        "parent": row.parent,
        "valid_from": _moment(row.valid_from),
        "valid_until": _moment(row.valid_until),
        "received_at": row.received_at,
        "live_at": row.live_at,
        "post_to_live_seconds": row.post_to_live_seconds,
    }


def standing(view: Mapping[str, Any]) -> str:
    """A correction's state as people read it: a live fact that is not said is "live, lost"."""
    return f"{view['state']}, lost" if view["state"] == State.LIVE and view.get("lost") else view["state"]


def child_view(row: CorrectionRow) -> dict[str, Any]:
    """A correction that follows from another, in the view of that one."""
    return {"id": row.id, "prompt": row.text, "target": row.target, "state": str(row.state)}


def review_view(row: CorrectionRow, poster: str | None) -> dict[str, Any]:
    """A correction as a reviewer sees it: what it says, who posted it, and what speaks against it."""
    return correction_view(row) | {"posted_by": poster}


def _moment(seconds: float | None) -> str | None:
    """As it was posted: a moment in UTC."""
    return None if seconds is None else shown(seconds)


def coming_view(one: Coming) -> dict[str, Any]:
    """`change`: "live" or "leaves"."""
    return asdict(one) | {"at": shown(one.at)}


def _answer_view(told: FormAnswer, target: str) -> dict[str, Any]:
    after = told.get("after")
    return {
        "asked": told["asked"],
        "before": told.get("before"),
        "after": after,
        "said": None if after is None else said(after, target),
    }


def version_view(row: VersionRow, full: bool = False) -> dict[str, Any]:
    view: dict[str, Any] = {
        "id": row.id,
        "parent": row.parent,
        "state": str(row.state),
        "added": list(row.added),
        "removed": list(row.removed),
        "reason": row.reason,
        "created_at": row.created_at,
        "live_at": row.live_at,
    }
    if full:
        view |= {"verdict": row.verdict, "measurements": row.measurements, "fence": row.fence}
    return view


def operation_view(row: OperationRow) -> dict[str, Any]:
    return {
        "operation": row.id,
        "kind": str(row.kind),
        "target": row.target,
        "actor": row.actor,
        "why": row.why,
        "state": str(row.state),
        "reason": row.reason,
        "seconds": None if row.finished_at is None else row.finished_at - row.created_at,
    }


def step_view(row: TransitionRow) -> dict[str, Any]:
    """A step of the guard's ladder. `on`: the version, correction or operation that it concerned."""
    return {"step": row.new, "on": row.id, "why": row.reason, "at": row.at}


def status_view(status: LedgerStatus) -> dict[str, Any]:
    forecast = status.forecast or {}
    return {
        "live": status.live,
        "paused": status.paused,
        "pending": status.pending,
        "oldest_pending_seconds": status.oldest_pending_seconds,
        "scheduled": status.scheduled,
        "coming": [coming_view(one) for one in status.coming],
        "operations_pending": status.operations_pending,
        "counts": status.counts,
        "rollbacks": status.rollbacks,
        "nas_skipped": status.nas_skipped,
        "verdict": status.verdict,
        "last_step": step_view(status.last_step) if status.last_step else None,
        "steps": status.steps,
        "watched_at": status.watched_at,
        "forecast": forecast.get("nearest"),
        "forecasts": forecast.get("forecasts", []),
        "limits": forecast.get("limits", {}),
        "room": forecast.get("room"),
        "last_live_at": status.last_live_at,
        "background": status.background,
        "workers": {kind: asdict(sign) for kind, sign in status.workers.items()},
    }
