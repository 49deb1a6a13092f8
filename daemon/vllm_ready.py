"""The readiness route of a replica: may users be sent to it?

Kept apart from the publish routes because a load balancer asks it, which has no token.
"""

from typing import Any

from fastapi import FastAPI, HTTPException, Request

from daemon.serving import UNPUBLISHED

READY_ROUTE = "/plugins/factd/ready"


def add_ready_route(app: FastAPI) -> None:
    """Adds the route; `app.state.factd.served()` says what the engine serves."""

    @app.get(READY_ROUTE)
    async def ready(request: Request) -> dict[str, Any]:
        """200 once a version was published since the start; before, the replica serves the base weights."""
        version = (await request.app.state.factd.served())["version"]
        if version == UNPUBLISHED:
            raise HTTPException(503, "waits for the applier to publish the live version")
        return {"version": version}
