"""The HTTP API: corrections in, questions and operations, health, metrics, the status page."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from daemon.core.errors import (
    CorrectionError,
    Problem,
    SettingsError,
)
from daemon.core.lifecycle import FINAL, State
from daemon.core.messages import MAX_ID, Correction, parse_correction, parse_json, printable, problem
from daemon.core.ruling import guard_policy
from daemon.core.settings import Settings
from daemon.http.alerts import PLAIN, AlertDesk, Webhook
from daemon.http.errors import responses
from daemon.http.status_page import PAGE_HEADERS, healthy, numbers_only, page_view, snapshot
from daemon.http.views import correction_view, operation_view, version_view
from daemon.intake.intake import Bell, Rates, Room, Writer
from daemon.ledger.ledger import Ledger
from daemon.publish.replicas import open_replicas
from daemon.publish.serving import ServingClient
from monitoring.metrics import Metrics

#: bytes of a request body; some 10,000 corrections
MAX_BODY = 8 * 2**20
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PAGE = Path(__file__).parent / "page"
POLL_SECONDS = 0.1
MAX_WAIT_SECONDS = 60.0


class Service:
    """What the routes share; made once by `create_app`."""

    def __init__(
        self, settings: Settings, ledger: Ledger, replicas: Sequence[ServingClient], ring: Callable[[], None]
    ) -> None:
        self.ledger, self.replicas, self.ring = ledger, replicas, ring
        submit, admin = settings.submit_token, settings.admin_token
        if admin is None:
            raise SettingsError("the API needs FACTD_ADMIN_TOKEN (and FACTD_SUBMIT_TOKEN for clients)")
        self.admin = admin.get_secret_value().encode()
        self.submit = submit.get_secret_value().encode() if submit else self.admin
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.alert_desk = AlertDesk(ledger, guard_policy(settings), settings.name)
        self.room, self.rates = Room(ledger, settings.max_pending), Rates(settings)
        self.writer = Writer(ledger)

    def close(self) -> None:
        self.writer.close()
        self.ledger.close()

    def scopes(self, authorization: str | None) -> set[str]:
        token = (authorization or "").removeprefix("Bearer ").encode()
        # Both comparisons are always made, each in constant time.
        is_admin = hmac.compare_digest(token, self.admin)
        is_submit = hmac.compare_digest(token, self.submit)
        return {"admin", "submit"} if is_admin else {"submit"} if is_submit else set()


async def _service(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(_service)]
#: PostgreSQL stores no NUL; no id and no reason needs a control character.
Id = Annotated[str, PathParameter(max_length=MAX_ID, pattern=PLAIN)]
Why = Annotated[str | None, Query(max_length=1000, pattern=PLAIN)]


def _scope(wanted: str) -> Callable[..., Awaitable[str]]:
    """A dependency that gives the name of the token; counts the request as one of its."""

    # Not plain functions, this one and `_service`: FastAPI would send each post through three threads.
    async def check(service: ServiceOf, authorization: Annotated[str | None, Header()] = None) -> str:
        scopes = service.scopes(authorization)
        if not scopes:
            raise HTTPException(401, "send 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})
        if wanted not in scopes:
            raise HTTPException(403, f"this needs the {wanted} token")
        token = "admin" if "admin" in scopes else "submit"
        if service.rates.in_memory:
            service.rates.spend("requests", token)
        else:
            await run_in_threadpool(service.rates.spend, "requests", token)
        return token

    return check


may_submit = _scope("submit")
SUBMIT = [Depends(may_submit)]
ADMIN = [Depends(_scope("admin"))]


async def _body(request: Request) -> bytes:
    """The body, read no further than MAX_BODY."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes; send fewer corrections")
    return bytes(body)


def _corrections_schema() -> dict[str, Any]:
    """For the schema only; the body is read by `_body`, so that a fault names field, value and mend."""
    one = Correction.model_json_schema()
    one["properties"]["neighbours"]["items"] = one.pop("$defs")["Neighbour"]
    many = {"type": "array", "minItems": 1, "items": one}
    return _body_schema({"anyOf": [one, many]})


def _alerts_schema() -> dict[str, Any]:
    webhook = Webhook.model_json_schema()
    webhook["properties"]["alerts"]["items"] = webhook.pop("$defs")["Alert"]
    return _body_schema(webhook)


def _body_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


router = APIRouter()


@router.post("/v1/corrections", status_code=202, openapi_extra=_corrections_schema())
def post_corrections(
    service: ServiceOf,
    token: Annotated[str, Depends(may_submit)],
    body: Annotated[bytes, Depends(_body)],
    idempotency_key: Annotated[str | None, Header(max_length=150)] = None,
) -> dict[str, Any]:
    """Takes one correction or a list, all or none; they are durable when this answers."""
    content = parse_json(body)
    many = content if isinstance(content, list) else [content]
    corrections = _parsed(many)
    _check_size(service, len(corrections))
    if idempotency_key is not None:
        _check_key(idempotency_key)
        corrections = [
            c if c.key else c.model_copy(update={"key": _key(idempotency_key, i, len(many))})
            for i, c in enumerate(corrections)
        ]
    service.rates.spend("corrections", token, len(corrections))
    service.room.take(len(corrections))
    ids = service.writer.submit([(None, correction) for correction in corrections], "http")
    service.ring()
    return {"ids": ids}


def _check_size(service: Service, count: int) -> None:
    """What could never be taken is not told to come again."""
    most = min(service.rates.most("corrections"), service.room.most)
    if count > most:
        raise HTTPException(413, f"{count} corrections in one request; send {most} at once at most")


def _check_key(key: str) -> None:
    try:
        printable(key)
    except ValueError as error:
        raise CorrectionError([Problem("Idempotency-Key", repr(key), str(error))]) from None


def _key(key: str, index: int, count: int) -> str:
    return key if count == 1 else f"{key}:{index}"


def _parsed(many: list[Any]) -> list[Correction]:
    corrections: list[Correction] = []
    problems: list[Problem] = []
    if not many:
        problems.append(Problem("", "[]", "the list is empty; send at least one correction"))
    for number, item in enumerate(many, start=1):
        try:
            corrections.append(parse_correction(item, number if len(many) > 1 else None))
        except CorrectionError as error:
            problems.extend(error.problems)
    if problems:
        raise CorrectionError(problems)
    return corrections


@router.get("/v1/corrections", dependencies=SUBMIT)
def list_corrections(
    service: ServiceOf,
    state: State | None = None,
    containing: Annotated[str | None, Query(max_length=200, pattern=PLAIN)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[dict[str, Any]]:
    """The newest first; of one state, and with a text in them, when asked."""
    states = [state] if state else []
    rows = service.ledger.questions.corrections(*states, limit=limit, containing=containing)
    return [correction_view(row) for row in rows[::-1]]


@router.get("/v1/corrections/{id}", dependencies=SUBMIT)
async def get_correction(
    service: ServiceOf, id: Id, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
) -> dict[str, Any]:
    """One correction; `wait` seconds at most until it is not under way any more."""
    deadline = time.monotonic() + wait
    while True:
        view = correction_view(await run_in_threadpool(service.ledger.questions.get, id))
        if view["state"] in FINAL or time.monotonic() >= deadline:
            return view
        # Not in a thread: forty clients that wait would hold all there are, and nobody could post.
        await asyncio.sleep(POLL_SECONDS)


@router.get("/v1/facts", dependencies=SUBMIT)
def get_facts(service: ServiceOf) -> list[dict[str, Any]]:
    """The corrections that are live."""
    return [correction_view(row) for row in service.ledger.questions.facts()]


@router.get("/v1/versions", dependencies=SUBMIT)
def get_versions(service: ServiceOf) -> dict[str, Any]:
    """All versions, oldest first, with verdicts and measurements, and which is live."""
    rows = [service.ledger.questions.version("v000000"), *service.ledger.questions.versions()]
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


@router.post("/v1/corrections/{id}/retract", status_code=202, dependencies=ADMIN)
def retract(service: ServiceOf, id: Id, why: Why = None) -> dict[str, Any]:
    """Asks for one fact to be taken out; the answer is the operation."""
    return _request(service, "retract", id, why)


@router.post("/v1/versions/{version}/rollback", status_code=202, dependencies=ADMIN)
def rollback(service: ServiceOf, version: Id, why: Why = None) -> dict[str, Any]:
    """Asks for an older version to be served again; the answer is the operation."""
    return _request(service, "rollback", version, why)


@router.post("/v1/compact", status_code=202, dependencies=ADMIN)
def compact(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """All live facts written anew from the base weights, judged like any version."""
    return _request(service, "compact", None, why)


@router.post("/v1/pause", status_code=202, dependencies=ADMIN)
def pause(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Corrections stay queued until somebody resumes."""
    return _request(service, "pause", None, why)


@router.post("/v1/resume", status_code=202, dependencies=ADMIN)
def resume(service: ServiceOf, why: Why = None) -> dict[str, Any]:
    """Also ends what the guard has paused."""
    return _request(service, "resume", None, why)


def _request(service: Service, kind: str, target: str | None, why: str | None) -> dict[str, Any]:
    number = service.ledger.intake.request(kind, target, actor="operator:http", why=why)
    service.ring()
    return operation_view(service.ledger.questions.operation(number))


@router.post("/v1/alerts", status_code=202, dependencies=ADMIN, openapi_extra=_alerts_schema())
def alerts(service: ServiceOf, body: Annotated[bytes, Depends(_body)]) -> list[dict[str, Any]]:
    """Alertmanager's webhook; the same alert (fingerprint and start) asks for one rollback only."""
    try:
        webhook = Webhook.model_validate(parse_json(body))
    except ValidationError as error:
        raise CorrectionError([problem(item) for item in error.errors()]) from None
    said = [service.alert_desk.answer(alert) for alert in webhook.alerts]
    service.ring()
    return said


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceOf) -> JSONResponse:
    """The ledger can be read and every replica answers."""
    live = service.ledger.questions.live_version()
    # Numbered as in /metrics: addresses are not for everybody.
    replicas = {f"replica {i}": answers for i, answers in enumerate(healthy(service.replicas))}
    ready = all(replicas.values())
    return JSONResponse({"ready": ready, "live": live, "replicas": replicas}, 200 if ready else 503)


@router.get("/metrics")
def metrics(service: ServiceOf) -> Response:
    """Read from the ledger at each scrape: one process exports, no value outlives its cause."""
    service.metrics.update(snapshot(service.ledger, service.replicas))
    return Response(generate_latest(service.registry), media_type=CONTENT_TYPE)


@router.get("/v1/status")
def status(service: ServiceOf, authorization: Annotated[str | None, Header()] = None) -> dict[str, Any]:
    """What the status page shows: numbers to everybody, reasons and names to who has a token."""
    scopes = service.scopes(authorization)
    if authorization and not scopes:
        raise HTTPException(401, "this token is not known", {"WWW-Authenticate": "Bearer"})
    view = page_view(service.ledger, service.replicas)
    view["scope"] = next((scope for scope in ("admin", "submit") if scope in scopes), None)
    return view if scopes else numbers_only(view)


@router.get("/")
def page() -> FileResponse:
    """The status page."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


def create_app(
    settings: Settings,
    ledger: Ledger | None = None,
    replicas: Sequence[ServingClient] | None = None,
    ring: Callable[[], None] | None = None,
) -> FastAPI:
    """The application; what is not given is opened from the settings.

    Raises:
        SettingsError: no admin token.
    """
    bell = _doorbell(settings) if ring is None else None
    service = Service(
        settings,
        ledger or Ledger.open(settings.ledger_url),
        _replicas(settings) if replicas is None else replicas,
        ring or bell or (lambda: None),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()
        if bell is not None:
            bell.close()

    app = FastAPI(title="factd", lifespan=lifespan, openapi_url="/v1/openapi.json")
    app.state.service = service
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=PAGE))
    for kind, respond in responses():
        app.add_exception_handler(kind, respond)
    return app


def _replicas(settings: Settings) -> list[ServingClient]:
    if settings.publish == "plugin" and settings.admin_token is None:
        return []
    return open_replicas(settings)


def _doorbell(settings: Settings) -> Bell:
    from kombu.exceptions import OperationalError

    from daemon.intake.posting import producer
    from daemon.intake.posting import ring as ring_bell

    app = producer(settings.redis_url, settings.names)

    def ring() -> None:
        try:
            ring_bell(app)
        except OperationalError as error:  # the request is in the ledger; the supervisor rings every 5 s
            logging.getLogger(__name__).warning("the doorbell could not be rung: %s", error)

    return Bell(ring)
