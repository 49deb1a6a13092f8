"""What the status page and the metrics show; read from the ledger and the replicas at each request."""

import math
from collections.abc import Sequence
from typing import Any

from daemon.core.actors import actor_kind
from daemon.core.lifecycle import State
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD
from daemon.http.views import status_view, step_view, version_view
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import LedgerStatus, Sign, VersionRow
from daemon.ledger.status import edits_left
from daemon.publish.serving import Reports
from daemon.publish.truth import Truth, absences, ask, ask_all
from monitoring.errors import MeasurementError
from monitoring.measurements import Measurements
from monitoring.metrics import StatusSnapshot
from monitoring.registry import WATCHED
from monitoring.verdict import shown, worst_value

#: The newest versions, which are also the points of the plots, and the newest steps of the guard.
VERSIONS_SHOWN, STEPS_SHOWN = 60, 20

#: The browser loads only our own scripts and styles, connects only to us, and frames nothing. So a text that
#: was not escaped could do no harm.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def number_of(version: str) -> int | None:
    """12 for "v000012", 0 for the base; None for anything else.

    A replica that has restarted says "default": it computes with the base, so it counts as 0. It is in sync
    only once it was told a version.
    """
    if version == "default":
        return 0
    return int(version[1:]) if version[:1] == "v" and version[1:].isdigit() else None


def snapshot(ledger: Ledger, replicas: Sequence[Reports]) -> StatusSnapshot:
    """Everything /metrics exports."""
    status = ledger.questions.status()
    measurements = Measurements.from_json(status.measurements) if status.measurements else None
    asked = ask(replicas)
    truth = Truth(status.live, asked, status.workers, disproved=status.disproved)
    served = {f"{i}": told.version for i, told in enumerate(asked)}
    return StatusSnapshot(
        outcomes=status.ended,
        queue_depth={
            "corrections": status.pending,
            "apply": status.operations_pending,
            "review": status.counts[State.HELD],
        },
        oldest_pending_seconds=status.oldest_pending_seconds or 0.0,
        stage_seconds=ledger.questions.stage_durations(),
        measurements=measurements,
        layers=sorted(measurements.drift) if measurements else (),
        states=(status.verdict or {}).get("guards", {}),
        edits_until_limit=edits_left(status.forecast),
        steps=status.steps,
        paused_by=actor_kind(status.paused["actor"]) if status.paused else None,
        nas_skipped=status.nas_skipped,
        version=number_of(status.live),
        served_versions={name: number_of(version or "") for name, version in served.items()},
        in_sync={f"{i}": each["in_sync"] for i, each in enumerate(truth.view()["replicas"])},
        publish_seconds=ledger.questions.last_seconds("publish"),
        pause_seconds=ledger.questions.last_seconds("pause"),
        rollbacks=status.rollbacks,
        last_success_timestamp_seconds=status.last_live_at,
        workers={kind: sign.alive for kind, sign in status.workers.items()},
        background={status.background["job"]: status.background["fraction"]} if status.background else {},
    )


def healthy(replicas: Sequence[Reports]) -> list[bool]:
    """Whether each replica answers its health check."""
    return ask_all(lambda replica: replica.healthy(), replicas)


def truth_of(ledger: Ledger, replicas: Sequence[Reports], status: LedgerStatus) -> Truth:
    """What the replicas serve, beside what `status` says is live."""
    told = ask(replicas)
    differs = any(one.version != status.live for one in told)
    begun = ledger.questions.version_in_flight() if differs else None
    return Truth(status.live, told, status.workers, begun.id if begun else None, status.disproved)


def page_view(ledger: Ledger, replicas: Sequence[Reports]) -> dict[str, Any]:
    """`factd status --json` and more: replicas, versions with their measures, the guard's last steps.

    The newest step comes first. `now` is the ledger's clock, so that ages do not depend on the browser's.
    """
    status = ledger.questions.status()
    versions = [
        _version(row)
        for row in (*ledger.questions.newest_versions(VERSIONS_SHOWN), ledger.questions.version(BASE_VERSION))
    ]
    steps = ledger.questions.transitions(kind=GUARD, limit=STEPS_SHOWN)[::-1]
    truth = truth_of(ledger, replicas, status)
    return status_view(status) | {
        "mismatches": truth.mismatches,
        "now": ledger.database.clock(),
        "edits_until_limit": _finite(edits_left(status.forecast)),
        "guards": [{"name": m.name, "high_is_bad": m.high_is_bad, "mend": m.mend} for m in WATCHED],
        "replicas": [one | {"version": number_of(one["serves"] or "")} for one in truth.view()["replicas"]],
        "versions": versions,
        "last_steps": [step_view(row) for row in steps],
    }


def numbers_only(view: dict[str, Any]) -> dict[str, Any]:
    """`page_view` for somebody without a token: states, counts, times and measures, as in /metrics.

    It leaves reasons out, because they quote answers, and ids and addresses, because others choose them.
    """
    paused, verdict = view["paused"], view["verdict"]
    quiet = {"why": None, "on": None}
    return view | {
        "paused": paused and {"actor": actor_kind(paused["actor"]), "at": paused.get("at")},
        "verdict": verdict and {"outcome": verdict["outcome"], "guards": verdict["guards"]},
        "last_step": view["last_step"] and view["last_step"] | quiet,
        "last_steps": [step | quiet for step in view["last_steps"]],
        "replicas": [r | {"name": f"replica {i}"} for i, r in enumerate(view["replicas"])],
        "mismatches": _without_names(view),
        "coming": [{"change": one["change"], "at": one["at"]} for one in view["coming"]],
        "versions": [version | {"reason": None} for version in view["versions"]],
    }


def _without_names(view: dict[str, Any]) -> list[str]:
    live, wrong = view["live"], list[str]()
    for i, replica in enumerate(view["replicas"]):
        if replica["state"] == "disproved":
            wrong.append(f"replica {i} says that it serves {live} and computes something else")
        if replica["state"] in ("behind", "silent"):
            serves = replica["serves"] or "something that it does not tell"
            wrong.append(f"the ledger's live version is {live}, replica {i} serves {serves}")
    return wrong + absences({kind: Sign(**sign) for kind, sign in view["workers"].items()})


def _version(row: VersionRow) -> dict[str, Any]:
    """A version with the worst layer's value of each watched measure, and with counts in place of ids."""
    measured = _measured(row.measurements)
    return version_view(row) | {
        "added": len(row.added),
        "removed": len(row.removed),
        "outcome": (row.verdict or {}).get("outcome"),
        # None: not measured, or not a number.
        "values": {m.name: _finite(worst_value(measured, m.name)) for m in WATCHED},
        # "8 of 9" where cases were counted.
        "shown": {m.name: shown(measured, m.name) for m in WATCHED if measured.counted(m.name)},
    }


def _measured(stored: dict[str, Any] | None) -> Measurements:
    try:
        return Measurements.from_json(stored or {})
    except MeasurementError:  # measurements of another release of factd cannot be drawn beside ours
        return Measurements()


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
