"""Routes that tell how factd is: health checks, metrics, the status page and its numbers."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import generate_latest

from daemon.http.service import ServiceOf
from daemon.http.status_page import PAGE_HEADERS, healthy, numbers_only, page_view, snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: The files of the status page.
PAGE = Path(__file__).parent / "page"

router = APIRouter()


@router.get("/healthz")
def healthz() -> dict[str, str]:
    """This process answers."""
    return {"status": "ok"}


@router.get("/readyz")
def readyz(service: ServiceOf) -> JSONResponse:
    """The ledger can be read and every replica answers."""
    live = service.ledger.questions.live_version()
    # Numbers as in /metrics, not addresses: everybody may ask.
    replicas = {f"replica {i}": answers for i, answers in enumerate(healthy(service.replicas))}
    ready = all(replicas.values())
    return JSONResponse({"ready": ready, "live": live, "replicas": replicas}, 200 if ready else 503)


@router.get("/metrics")
def metrics(service: ServiceOf) -> Response:
    """The metrics, read from the ledger at each scrape, so no value is older than the scrape."""
    service.metrics.update(snapshot(service.ledger, service.replicas))
    return Response(generate_latest(service.registry), media_type=CONTENT_TYPE)


@router.get("/v1/status")
def status(service: ServiceOf, authorization: Annotated[str | None, Header()] = None) -> dict[str, Any]:
    """What the status page shows: numbers for everybody; reasons and names only with a token."""
    caller = service.caller(authorization)
    if authorization and not caller.scopes:
        raise HTTPException(401, "this token is not known", {"WWW-Authenticate": "Bearer"})
    view = page_view(service.ledger, service.replicas)
    view["scope"] = next((scope for scope in ("admin", "review", "submit") if scope in caller.scopes), None)
    view["name"] = caller.name or None
    return view if caller.scopes else numbers_only(view)


@router.get("/")
def page() -> FileResponse:
    """The status page."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


@router.get("/docs", include_in_schema=False)
@router.get("/redoc", include_in_schema=False)
def schema() -> PlainTextResponse:
    """Where the schema is. A page that draws it would load scripts from elsewhere."""
    text = "The OpenAPI schema is at /v1/openapi.json, and docs/api.md lists the routes.\n"
    return PlainTextResponse(text, headers=PAGE_HEADERS)
