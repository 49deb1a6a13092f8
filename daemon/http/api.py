"""The HTTP API: corrections in, questions and operations, health, metrics, the status page."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.core.settings import Settings
from daemon.http import corrections, events, health, operations, reviews, statements
from daemon.http.errors import responses
from daemon.http.health import PAGE
from daemon.http.service import Service
from daemon.intake.doorbell import Doorbell, DoorbellThread
from daemon.ledger.ledger import Ledger
from daemon.publish.reports import open_reports
from daemon.publish.serving import Reports

router = APIRouter()
for part in (corrections, statements, events, reviews, operations, health):
    router.include_router(part.router)


class Head:
    """Answers HEAD as GET, without the body; FastAPI's routes know GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def headers_only(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self.app({**scope, "method": "GET"}, receive, headers_only)


def create_app(
    settings: Settings,
    ledger: Ledger | None = None,
    replicas: Sequence[Reports] | None = None,
    ring: Callable[[], None] | None = None,
) -> FastAPI:
    """The application; what is not given is opened from the settings.

    Raises:
        SettingsError: no admin token.
    """
    opened = ExitStack()
    if ring is None:
        doorbell = opened.enter_context(closing(Doorbell.of(settings.redis_url, settings.names)))
        ring = opened.enter_context(closing(DoorbellThread(doorbell.ring)))
    ledger = ledger or Ledger.of(settings)
    service = Service(settings, ledger, _replicas(settings) if replicas is None else replicas, ring)
    opened.callback(service.close)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        with opened:
            yield

    app = FastAPI(
        title="factd",
        lifespan=lifespan,
        openapi_url="/v1/openapi.json",
        # FastAPI's own pages load scripts from elsewhere, on the origin that the page keeps its token for.
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Head)
    app.state.service = service
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=PAGE))
    for kind, respond in responses():
        app.add_exception_handler(kind, respond)
    return app


def _replicas(settings: Settings) -> list[Reports]:
    if settings.publish == "plugin" and settings.admin_token is None:
        return []
    return open_reports(settings)
