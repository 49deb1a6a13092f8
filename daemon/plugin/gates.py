"""What a request passes before vLLM's routes: the serving key, and whether a version is in place.

vLLM's own check covers the paths under /v1 and a few more. /invocations, which answers prompts, /tokenize and
others are outside it.
"""

import asyncio
import hmac
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast, get_args

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon.core.publication import BEFORE_LIVE_SECONDS, UNPUBLISHED, BeforeLive

#: So often a held request looks whether a version was published, seconds.
HOLD_POLL_SECONDS = 0.05
#: When a refused request may come again: an apply worker looks at its replicas every five seconds.
RETRY_AFTER_SECONDS = 5
#: Methods that ask for no answer of the model.
READING = ("GET", "HEAD", "OPTIONS")

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
ADMIN_ROUTES = frozenset(f"/plugins/factd/{name}" for name in ("stage", "publish", "version", "products"))


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


@dataclass(frozen=True)
class Hold:
    """What becomes of a request while nobody has told the server a version.

    Attributes:
        seconds: "wait" holds it so long at most.
    """

    policy: BeforeLive = "wait"
    seconds: float = BEFORE_LIVE_SECONDS

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Hold":
        """From FACTD_BEFORE_LIVE and FACTD_BEFORE_LIVE_SECONDS.

        Raises:
            RuntimeError: one of them cannot be used.
        """
        policy = environment.get("FACTD_BEFORE_LIVE") or cls.policy
        if policy not in get_args(BeforeLive):
            raise RuntimeError(
                f"FACTD_BEFORE_LIVE = {policy!r}: give one of {', '.join(get_args(BeforeLive))}"
            )
        seconds = environment.get("FACTD_BEFORE_LIVE_SECONDS") or cls.seconds
        try:
            return cls(cast(BeforeLive, policy), float(seconds))
        except ValueError:
            raise RuntimeError(f"FACTD_BEFORE_LIVE_SECONDS = {seconds!r}: give a number") from None


class LiveGate:
    """ASGI middleware: what the model would answer is held or refused until a version is in place.

    A server that has just started has the unedited model. Its answers would be wrong where facts were edited.

    Args:
        history: versions served by this process, oldest first; grows.
    """

    def __init__(self, app: ASGIApp, history: Sequence[str], hold: Hold) -> None:
        self.app, self.history, self.hold = app, history, hold

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._in_place() or not _asks_the_model(scope) or await self._held():
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1013})
        told = "the live version is not in place yet: this server has just started; come again"
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        await JSONResponse({"error": {"message": told, "code": 503}}, 503, headers)(scope, receive, send)

    def _in_place(self) -> bool:
        return self.hold.policy == "serve" or self.history[-1] != UNPUBLISHED

    async def _held(self) -> bool:
        """Waits as long as the policy says; whether a version is in place then."""
        if self.hold.policy == "refuse":
            return False
        loop = asyncio.get_running_loop()
        end = loop.time() + self.hold.seconds
        while not self._in_place() and (left := end - loop.time()) > 0:
            await asyncio.sleep(min(HOLD_POLL_SECONDS, left))
        return self._in_place()


def _asks_the_model(scope: Scope) -> bool:
    if scope["type"] == "websocket":
        return True
    if scope["type"] != "http" or scope["method"] in READING:
        return False
    return path_of(scope) not in OPEN_ROUTES.keys() | ADMIN_ROUTES
