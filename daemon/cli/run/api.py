"""`factd api`: the HTTP API."""

from typing import Annotated

import typer
import uvicorn

from daemon.cli.options import StateOption, settings_of
from daemon.http.api import create_app


def api(
    state: StateOption = None,
    host: Annotated[str | None, typer.Option(help="Address to bind; default FACTD_API_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; default FACTD_API_PORT.")] = None,
) -> None:
    """Run the HTTP API with /metrics and the status page."""
    settings = settings_of(state_dir=state)
    uvicorn.run(
        create_app(settings),
        host=host or settings.api_host,
        port=port or settings.api_port,
        log_level="warning",
        access_log=False,
    )
