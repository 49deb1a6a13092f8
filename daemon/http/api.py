"""The HTTP API: corrections in, questions and operations, health, metrics, the status page."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, closing

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

from daemon.core.settings import Settings
from daemon.http import corrections, health, operations, statements
from daemon.http.errors import responses
from daemon.http.health import PAGE
from daemon.http.service import Service
from daemon.intake.doorbell import Doorbell, DoorbellThread
from daemon.ledger.ledger import Ledger
from daemon.publish.reports import open_reports
from daemon.publish.serving import Reports

router = APIRouter()
for part in (corrections, statements, operations, health):
    router.include_router(part.router)


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
    ledger = ledger or Ledger.open(settings.ledger_url)
    service = Service(settings, ledger, _replicas(settings) if replicas is None else replicas, ring)
    opened.callback(service.close)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        with opened:
            yield

    app = FastAPI(title="factd", lifespan=lifespan, openapi_url="/v1/openapi.json")
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
