"""The HTTP API: corrections in, questions and operations, health, metrics, the status page."""

import hmac
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, generate_latest

from daemon.alerts import Webhook, handle
from daemon.errors import (
    ConflictError,
    CorrectionError,
    Problem,
    SettingsError,
    TransitionError,
    UnknownIdError,
)
from daemon.ledger import Ledger
from daemon.messages import Correction, parse_correction, parse_json
from daemon.serving import ServingClient, VllmReplica
from daemon.settings import Settings
from daemon.status_page import render, snapshot
from daemon.views import correction_view, operation_view, version_view
from monitoring.metrics import Metrics

#: bytes of a request body; some 10,000 corrections
MAX_BODY = 8 * 2**20
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
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
        self.alert_lock = threading.Lock()

    def scopes(self, authorization: str | None) -> set[str]:
        token = (authorization or "").removeprefix("Bearer ").encode()
        # Both comparisons are always made, each in constant time.
        is_admin = hmac.compare_digest(token, self.admin)
        is_submit = hmac.compare_digest(token, self.submit)
        return {"admin", "submit"} if is_admin else {"submit"} if is_submit else set()


def _service(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(_service)]


def _scope(wanted: str) -> Callable[..., None]:
    def check(service: ServiceOf, authorization: Annotated[str | None, Header()] = None) -> None:
        scopes = service.scopes(authorization)
        if not scopes:
            raise HTTPException(401, "send 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})
        if wanted not in scopes:
            raise HTTPException(403, f"this needs the {wanted} token")

    return check


SUBMIT = [Depends(_scope("submit"))]
ADMIN = [Depends(_scope("admin"))]


async def _body(request: Request) -> bytes:
    """The body, read no further than MAX_BODY."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes; send fewer corrections")
    return bytes(body)


router = APIRouter()


@router.post("/v1/corrections", status_code=202, dependencies=SUBMIT)
def post_corrections(
    service: ServiceOf,
    body: Annotated[bytes, Depends(_body)],
    idempotency_key: Annotated[str | None, Header(max_length=150)] = None,
) -> dict[str, Any]:
    """Takes one correction or a list, all or none; they are durable when this answers."""
    content = parse_json(body)
    many = content if isinstance(content, list) else [content]
    corrections = _parsed(many)
    if idempotency_key:
        corrections = [
            c if c.key else c.model_copy(update={"key": _key(idempotency_key, i, len(many))})
            for i, c in enumerate(corrections)
        ]
    ids = service.ledger.submit_many([(None, correction) for correction in corrections], actor="http")
    service.ring()
    return {"ids": ids}


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


@router.get("/v1/corrections/{id}", dependencies=SUBMIT)
def get_correction(
    service: ServiceOf, id: str, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
) -> dict[str, Any]:
    """One correction; `wait` seconds at most until it is not under way any more."""
    deadline = time.monotonic() + wait
    under_way = {"received", "validated", "staged", "verified", "published"}
    while True:
        view = correction_view(service.ledger.get(id))
        if view["state"] not in under_way or time.monotonic() >= deadline:
            return view
        time.sleep(POLL_SECONDS)


@router.get("/v1/facts", dependencies=SUBMIT)
def get_facts(service: ServiceOf) -> list[dict[str, Any]]:
    """The corrections that are live."""
    return [correction_view(row) for row in service.ledger.facts()]


@router.get("/v1/versions", dependencies=SUBMIT)
def get_versions(service: ServiceOf) -> dict[str, Any]:
    """All versions, oldest first, with verdicts and measurements, and which is live."""
    rows = [service.ledger.version("v000000"), *service.ledger.versions()]
    return {"live": service.ledger.live_version(), "versions": [version_view(row, full=True) for row in rows]}


@router.get("/v1/operations/{number}", dependencies=SUBMIT)
def get_operation(service: ServiceOf, number: int) -> dict[str, Any]:
    """What became of an operation that was asked for."""
    return operation_view(service.ledger.operation(number))


@router.post("/v1/corrections/{id}/retract", status_code=202, dependencies=ADMIN)
def retract(service: ServiceOf, id: str, why: str | None = None) -> dict[str, Any]:
    """Asks for one fact to be taken out; the answer is the operation."""
    return _request(service, "retract", id, why)


@router.post("/v1/versions/{version}/rollback", status_code=202, dependencies=ADMIN)
def rollback(service: ServiceOf, version: str, why: str | None = None) -> dict[str, Any]:
    """Asks for an older version to be served again; the answer is the operation."""
    return _request(service, "rollback", version, why)


@router.post("/v1/compact", status_code=202, dependencies=ADMIN)
def compact(service: ServiceOf, why: str | None = None) -> dict[str, Any]:
    """All live facts written anew from the base weights, judged like any version."""
    return _request(service, "compact", None, why)


def _request(service: Service, kind: str, target: str | None, why: str | None) -> dict[str, Any]:
    number = service.ledger.request(kind, target, actor="operator:http", why=why)
    service.ring()
    return operation_view(service.ledger.operation(number))


@router.post("/v1/alerts", status_code=202, dependencies=ADMIN)
def alerts(service: ServiceOf, webhook: Webhook) -> list[dict[str, Any]]:
    """Alertmanager's webhook; the same alert (fingerprint and start) asks for one rollback only."""
    with service.alert_lock:
        said = handle(service.ledger, webhook)
    service.ring()
    return said


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceOf) -> JSONResponse:
    """The ledger can be read and every replica answers."""
    live = service.ledger.live_version()
    replicas = {replica.name: replica.healthy() for replica in service.replicas}
    ready = all(replicas.values())
    return JSONResponse({"ready": ready, "live": live, "replicas": replicas}, 200 if ready else 503)


@router.get("/metrics")
def metrics(service: ServiceOf) -> Response:
    """Read from the ledger at each scrape: one process exports, no value outlives its cause."""
    service.metrics.update(snapshot(service.ledger, service.replicas))
    return Response(generate_latest(service.registry), media_type=CONTENT_TYPE)


@router.get("/", response_class=HTMLResponse)
def page(service: ServiceOf) -> str:
    """The status page."""
    return render(service.ledger)


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
    service = Service(
        settings,
        ledger or Ledger.open(settings.ledger_url),
        _replicas(settings) if replicas is None else replicas,
        ring or _doorbell(settings),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.ledger.close()

    app = FastAPI(title="factd", lifespan=lifespan, openapi_url="/v1/openapi.json")
    app.state.service = service
    app.include_router(router)
    for kind, respond in _responses():
        app.add_exception_handler(kind, respond)
    return app


def _responses() -> Iterator[tuple[type[Exception], Any]]:
    def refused(_: Request, error: Any) -> JSONResponse:
        problems = [
            {"field": p.field, "value": p.value, "mend": p.mend, "line": p.line} for p in error.problems
        ]
        return JSONResponse({"detail": "nothing was recorded", "problems": problems}, 422)

    def plain(status: int) -> Any:
        return lambda _request, error: JSONResponse({"detail": str(error)}, status)

    yield CorrectionError, refused
    yield UnknownIdError, plain(404)
    yield ConflictError, plain(409)
    yield TransitionError, plain(409)


def _replicas(settings: Settings) -> list[ServingClient]:
    if settings.admin_token is None:
        return []
    key = settings.serving_api_key.get_secret_value() if settings.serving_api_key else None
    return [VllmReplica(url, settings.admin_token.get_secret_value(), key) for url in settings.replicas]


def _doorbell(settings: Settings) -> Callable[[], None]:
    import logging

    from kombu.exceptions import OperationalError

    from daemon.posting import producer
    from daemon.posting import ring as ring_bell

    app = producer(settings.redis_url)

    def ring() -> None:
        try:
            ring_bell(app)
        except OperationalError as error:  # the request is in the ledger; the supervisor rings every 5 s
            logging.getLogger(__name__).warning("the doorbell could not be rung: %s", error)

    return ring
