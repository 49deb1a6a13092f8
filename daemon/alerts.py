"""Alertmanager's webhook: a firing alert asks once for a rollback to the newest healthy version.

The applier carries it out like the guard's own, within the same cool-down and budget.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from daemon.ledger import BASE_VERSION, Ledger
from daemon.lifecycle import OperationKind, OperationState

#: An alert with this label and another value than "rollback" is only acknowledged.
ACTION_LABEL = "factd_action"
#: what goes into the ledger: no control characters
PLAIN = r"^[^\x00-\x1f\x7f]*$"


class Alert(BaseModel):
    """What is read of an alert; Alertmanager sends more."""

    model_config = ConfigDict(extra="ignore")
    status: str
    labels: dict[str, Annotated[str, Field(pattern=PLAIN)]] = {}
    fingerprint: str = Field(min_length=1, max_length=64, pattern=PLAIN)
    startsAt: AwareDatetime  # Alertmanager's spelling


class Webhook(BaseModel):
    """Alertmanager's webhook message, version 4."""

    model_config = ConfigDict(extra="ignore")
    alerts: list[Alert] = Field(max_length=1000)


def handle(ledger: Ledger, webhook: Webhook) -> list[dict[str, Any]]:
    """Asks for at most one rollback; says for each alert what was done."""
    return [_handle_one(ledger, alert) for alert in webhook.alerts]


def _handle_one(ledger: Ledger, alert: Alert) -> dict[str, Any]:
    said = {"fingerprint": alert.fingerprint}
    if alert.status != "firing":
        return said | {"action": "none", "why": f"status is {alert.status}"}
    if alert.labels.get(ACTION_LABEL, "rollback") != "rollback":
        return said | {"action": "none", "why": f"label {ACTION_LABEL} asks for no rollback"}
    actor = f"alert:{alert.fingerprint}@{alert.startsAt.isoformat()}"
    rollbacks = [row for row in ledger.operations() if row.kind is OperationKind.ROLLBACK]
    for row in rollbacks:
        if row.actor == actor:
            return said | {"action": "none", "why": "handled before", "operation": row.id}
        # A symptom that began before a rollback ended is of the version that was left.
        began = alert.startsAt.timestamp()
        open_ = row.state is OperationState.PENDING
        if open_ or (row.finished_at is not None and row.created_at >= began):
            return said | {"action": "none", "why": "a rollback answers it already", "operation": row.id}
    live = ledger.live_version()
    if live == BASE_VERSION:
        return said | {"action": "none", "why": "the base model is live"}
    target = ledger.healthy_versions()[0]
    name = alert.labels.get("alertname", "alert")
    number = ledger.request(OperationKind.ROLLBACK, target, actor=actor, why=f"{name} is firing")
    return said | {"action": "rollback", "from": live, "to": target, "operation": number}
