"""What a request passes before vLLM's routes: the serving key.

vLLM's own check covers the paths under /v1 and a few more. /invocations, which answers prompts, /tokenize and
others are outside it.
"""

import hmac
import os
from collections.abc import Collection
from typing import cast

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

#: without a token: load balancers ask it
READY_ROUTE = "/plugins/factd/ready"
#: The routes that need no key, with the reason why.
OPEN_ROUTES = {
    "/health": "orchestrators ask it; it says nothing but its status",
    "/ping": "the same, under SageMaker's name",
    "/metrics": "Prometheus asks it; numbers only",
    READY_ROUTE: "load balancers ask it; it names the version",
}
#: Routes of the plugin that ask for the admin token, which is another one.
ADMIN_ROUTES = frozenset(f"/plugins/factd/{name}" for name in ("stage", "publish", "version"))


def path_of(scope: Scope) -> str:
    """The path of a request as routes are named, without a final slash."""
    return scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") or "/"


def serving_keys(app: FastAPI) -> list[str]:
    """The keys that vLLM asks for: its --api-key where that was given, else VLLM_API_KEY."""
    told = cast("list[str] | None", getattr(getattr(app.state, "args", None), "api_key", None))
    return [key for key in told or [os.environ.get("VLLM_API_KEY", "")] if key]


class KeyGate:
    """ASGI middleware: whoever has none of the keys reaches the routes of `OPEN_ROUTES` only."""

    def __init__(self, app: ASGIApp, keys: Collection[str]) -> None:
        self.app, self.keys = app, [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._admits(scope):
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        content = {"detail": "send 'Authorization: Bearer KEY' with the serving key (FACTD_SERVING_API_KEY)"}
        await JSONResponse(content, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        if path_of(scope) in OPEN_ROUTES.keys() | ADMIN_ROUTES:
            return True
        scheme, _, told = Headers(scope=scope).get("authorization", "").partition(" ")
        # Every comparison, each in constant time: the time of an answer tells nothing of the keys.
        same = [hmac.compare_digest(told.encode(), key) for key in self.keys]
        return scheme.lower() == "bearer" and any(same)
