"""Routes of versions and operations: list them, ask for one to be carried out, and Alertmanager's webhook."""

from typing import Annotated, Any

from fastapi import APIRouter
from fastapi import Path as PathParameter
from pydantic import ValidationError

from daemon.core.errors import CorrectionError
from daemon.core.messages import parse_json, problem
from daemon.core.publication import BASE_VERSION
from daemon.http.alerts import Webhook
from daemon.http.schemas import alerts_schema
from daemon.http.service import ADMIN, SUBMIT, Body, Id, Service, ServiceOf, Version, Why
from daemon.http.views import operation_view, version_view

router = APIRouter()


@router.get("/v1/versions", dependencies=SUBMIT)
def get_versions(service: ServiceOf) -> dict[str, Any]:
    """All versions, oldest first, with verdicts and measurements, and which is live."""
    rows = [service.ledger.questions.version(BASE_VERSION), *service.ledger.questions.versions()]
    return {
        "live": service.ledger.questions.live_version(),
        "versions": [version_view(row, full=True) for row in rows],
    }


@router.get("/v1/operations/{number}", dependencies=SUBMIT)
def get_operation(
    service: ServiceOf, number: Annotated[int, PathParameter(ge=1, lt=2**31)]
) -> dict[str, Any]:
    """What became of an operation that was asked for."""
    return operation_view(service.ledger.questions.operation(number))


@router.post("/v1/corrections/{id:any}/retract", status_code=202, dependencies=ADMIN)
def retract(service: ServiceOf, id: Id, why: Why = None) -> dict[str, Any]:
    """Asks the applier to take one fact out; the answer is the operation."""
    return _request(service, "retract", id, why)


@router.post("/v1/versions/{version}/rollback", status_code=202, dependencies=ADMIN)
def rollback(service: ServiceOf, version: Version, why: Why = None) -> dict[str, Any]:
    """Asks the applier to serve an older version again; the answer is the operation."""
    return _request(service, "rollback", version, why)


@router.post("/v1/compact", status_code=202, dependencies=ADMIN)
def compact(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Asks the applier to write all live facts anew from the base weights; judged like any version."""
    return _request(service, "compact", None, why)


@router.post("/v1/consolidate", status_code=202, dependencies=ADMIN)
def consolidate(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Asks for a consolidation: all live facts written anew, and trained on from there in the background."""
    return _request(service, "consolidate", None, why)


@router.post("/v1/pause", status_code=202, dependencies=ADMIN)
def pause(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Asks the applier to pause: corrections stay queued until somebody resumes."""
    return _request(service, "pause", None, why)


@router.post("/v1/resume", status_code=202, dependencies=ADMIN)
def resume(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Asks the applier to go on, also when the guard has paused."""
    return _request(service, "resume", None, why)


def _request(service: Service, kind: str, target: str | None, why: str | None) -> dict[str, Any]:
    number = service.ledger.intake.request(kind, target, actor="operator:http", why=why)
    service.ring()
    return operation_view(service.ledger.questions.operation(number))


@router.post("/v1/alerts", status_code=202, dependencies=ADMIN, openapi_extra=alerts_schema())
def alerts(service: ServiceOf, body: Body) -> list[dict[str, Any]]:
    """Alertmanager's webhook. An alert (fingerprint, start) asks for one rollback, sent once or often."""
    try:
        webhook = Webhook.model_validate(parse_json(body))
    except ValidationError as error:
        raise CorrectionError([problem(item) for item in error.errors()]) from None
    said = [service.alert_desk.answer(alert) for alert in webhook.alerts]
    service.ring()
    return said
