"""Alertmanager's webhook: a firing alert that names a rollback asks for one, once.

It goes to the newest healthy version. The applier carries it out like the guard's own, within the same
cool-down and budget; whatever else arrives here is only answered.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from daemon.core.lifecycle import OperationKind, OperationState
from daemon.core.publication import BASE_VERSION
from daemon.core.text import PLAIN
from daemon.ledger.intake import Ask
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import OperationRow
from monitoring.policy import Policy, decide
from monitoring.verdict import Verdict

#: The label by which an alert names what it asks for; deploy/prometheus/rules.yml sets it.
ACTION_LABEL, ROLLBACK = "factd_action", "rollback"
#: The label that says which model an alert is about, where there are several: its FACTD_NAME.
MODEL_LABEL = "factd_model"


class Alert(BaseModel):
    """What is read of an alert; Alertmanager sends more."""

    model_config = ConfigDict(extra="ignore")
    status: str
    labels: dict[str, Annotated[str, Field(pattern=PLAIN)]] = {}
    fingerprint: str = Field(min_length=1, max_length=64, pattern=PLAIN)
    startsAt: AwareDatetime  # Alertmanager's spelling

    @property
    def name(self) -> str:
        return self.labels.get("alertname", "alert")

    @property
    def actor(self) -> str:
        """The same for every repetition; another once the alert was resolved and fires again."""
        return f"alert:{self.fingerprint}@{self.startsAt.isoformat()}"


class Webhook(BaseModel):
    """Alertmanager's webhook message, version 4."""

    model_config = ConfigDict(extra="ignore")
    alerts: list[Alert] = Field(max_length=1000)


class AlertDesk:
    """Answers alerts.

    The look at the ledger and the request happen under the ledger's write lock. So one alert asks for one
    operation, even when two Alertmanagers send it to two API processes.
    """

    def __init__(self, ledger: Ledger, policy: Policy, model: str = "") -> None:
        self.ledger, self.rules, self.model = ledger, policy, model

    def answer(self, alert: Alert) -> dict[str, Any]:
        """Says what was done: `action` is rollback or none, `why` gives the reason of none."""
        said = {"fingerprint": alert.fingerprint, "alertname": alert.name}
        if alert.status != "firing":
            return said | _none(f"status is {alert.status}")
        if alert.labels.get(ACTION_LABEL) != ROLLBACK:
            return said | _none(f"no label {ACTION_LABEL}={ROLLBACK}")
        about = alert.labels.get(MODEL_LABEL, "")
        if about != self.model:
            return said | _none(f"{MODEL_LABEL} is {about!r}, and this model's name is {self.model!r}")
        with self.ledger.intake.asking() as ask:
            return said | (self._answered(alert) or self._not_now(alert) or self._ask(ask, alert))

    def _answered(self, alert: Alert) -> dict[str, Any] | None:
        rollbacks = [row for row in self.ledger.questions.operations() if row.kind is OperationKind.ROLLBACK]
        for row in rollbacks:
            if row.actor == alert.actor:
                return _none("handled before", row)
        for row in rollbacks:
            if row.state is OperationState.PENDING:
                return _none("a rollback is under way", row)
            # A symptom that began before a rollback ended is of the version that was left.
            ended = row.finished_at if row.state is OperationState.DONE else None
            if ended is not None and alert.startsAt.timestamp() <= ended:
                return _none("a rollback answers it already", row)
        return None

    def _not_now(self, alert: Alert) -> dict[str, Any] | None:
        """Nothing is recorded, so that the alert is heard when Alertmanager repeats it afterwards."""
        questions = self.ledger.questions
        if questions.live_version() == BASE_VERSION:
            return _none("the base model is live")
        state, verdict = questions.policy(), Verdict("rejected", (f"{alert.name} is firing",), (), {})
        decision = decide(state, verdict, "live", self.ledger.database.clock(), self.rules)
        if state.paused is not None:
            return _none(f"the guard has paused: {decision.reason}")
        return _none(decision.reason) if decision.would == "hold" else None

    def _ask(self, ask: Ask, alert: Alert) -> dict[str, Any]:
        questions = self.ledger.questions
        live, target = questions.live_version(), questions.healthy_versions()[0]
        number = ask(OperationKind.ROLLBACK, target, alert.actor, f"{alert.name} is firing")
        return {"action": ROLLBACK, "from": live, "to": target, "operation": number}


def _none(why: str, row: OperationRow | None = None) -> dict[str, Any]:
    said = {"action": "none", "why": why}
    return said if row is None else said | {"operation": row.id, "state": str(row.state)}
