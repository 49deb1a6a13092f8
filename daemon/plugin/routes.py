"""The part of factd that runs in vLLM's API server: the routes of a publication and the version header.

Imports nothing of vLLM: the engine is whatever has `collective_rpc`, `pause_generation` and so on.
"""

import asyncio
import hmac
import logging
import os
import signal
import time
from argparse import Namespace
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders, State
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.core.publication import (
    IN_FLIGHT,
    IN_FLIGHT_MOST_SECONDS,
    IN_FLIGHT_SECONDS,
    UNPUBLISHED,
    InFlight,
)
from daemon.plugin.gates import READY_ROUTE, Hold, KeyGate, LiveGate, serving_keys
from daemon.plugin.product_route import add_product_route
from daemon.plugin.salts import Core, Salts
from daemon.versions.keys import VARIABLE, told_keys

logger = logging.getLogger("vllm.factd")

EXTENSION = "daemon.plugin.worker.WorkerExtension"
VERSION_HEADER = "X-Factd-Version"
POLL_SECONDS = 0.01
#: A publication waits so long for the one before it. If that one still hangs on a disk, the caller learns it
#: by this, without waiting for the whole deadline again.
BUSY_SECONDS = 30.0
STATUS = {"stale_fence": 409, "missing": 404, "refused": 422, "swap_failed": 500, "busy": 503}
RETRYABLE = {"swap_failed", "busy"}

#: vLLM's own ways to pause
Pause = Literal["keep", "wait", "abort"]


class StageBody(BaseModel):
    """Body of `stage`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: str = Field(pattern=r"^v\d{6}$")
    fence: int = Field(ge=0, lt=1 << 63)


class PublishBody(StageBody):
    """Body of `publish`: also what becomes of running requests, and how long "wait" waits for them."""

    in_flight: InFlight = IN_FLIGHT
    in_flight_seconds: float = Field(IN_FLIGHT_SECONDS, ge=0, le=IN_FLIGHT_MOST_SECONDS)


class PublicationError(Exception):
    """Raised when a publication was refused or failed; becomes the HTTP answer."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class Engine(Protocol):
    """What is called of vLLM's engine."""

    @property
    def engine_core(self) -> Core: ...
    async def collective_rpc(self, method: str, *, args: Sequence[object] = ()) -> list[Any]: ...
    async def pause_generation(self, *, mode: Pause, clear_cache: bool) -> None: ...
    async def resume_generation(self) -> None: ...
    async def update_weight_version(self, version: str, /) -> None: ...


class Publications:
    """Runs publications on the engine, one at a time."""

    def __init__(self, engine: Engine, history: list[str]) -> None:
        self.engine, self.history = engine, history
        self.lock = asyncio.Lock()
        self.salts = Salts()
        self.salts.write_into(engine.engine_core)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self.lock.acquire()
        except TimeoutError:
            raise PublicationError("busy", "an earlier version is still being staged or flipped") from None
        try:
            yield
        finally:
            self.lock.release()

    async def _all(self, method: str, *args: object) -> list[Any]:
        """Calls every worker; raises the first refusal."""
        answers = await self.engine.collective_rpc(method, args=args)
        for answer in answers:
            if answer and "error" in answer:
                raise PublicationError(answer["error"]["code"], answer["error"]["message"])
        return answers

    async def _stage(self, body: StageBody) -> dict[str, Any]:
        await self._all("factd_stage", body.version, body.fence)
        while True:
            outcomes = await self._all("factd_stage_outcome")
            if all(outcome is not None for outcome in outcomes):
                return outcomes[0]
            await asyncio.sleep(POLL_SECONDS)

    async def stage(self, body: StageBody) -> dict[str, Any]:
        async with self._alone():
            outcome = await self._stage(body)
            return {"version": body.version, "seconds": outcome["seconds"], "sha256": outcome["sha256"]}

    async def publish(self, body: PublishBody) -> dict[str, Any]:
        async with self._alone():
            started = time.perf_counter()
            await self._stage(body)
            pause, drain = time.perf_counter(), 0.0
            try:
                drain = await self._pause(body)
                self.salts.turn()
                swapped = await self._swap(body)
                await self.engine.update_weight_version(body.version)
                self.history.append(body.version)  # before the first token of the new weights
            finally:
                await self.engine.resume_generation()
            done = time.perf_counter()
            stood = (done - pause - drain) * 1e3
            logger.info("factd: published %s, drained %.1f s, paused %.1f ms", body.version, drain, stood)
            return {
                "version": body.version,
                "seconds": done - started,
                "pause_seconds": done - pause - drain,
                "drain_seconds": drain,
                "swap_seconds": max(answer["seconds"] for answer in swapped),
            }

    async def _pause(self, body: PublishBody) -> float:
        """Pauses generation; returns how many seconds running requests had to end before.

        "carry" leaves running requests the keys and values that they have. All other policies clear the
        caches: what is kept recomputes on the new weights.
        """
        if body.in_flight == "carry":
            await self.engine.pause_generation(mode="keep", clear_cache=False)
            return 0.0
        started = time.perf_counter()
        pausing = asyncio.ensure_future(self.engine.pause_generation(mode=body.in_flight, clear_cache=True))
        if body.in_flight != "wait":
            await pausing
            return 0.0
        # Not cancelled at the deadline: the engine would go on with the pause that was asked for.
        await asyncio.wait([pausing], timeout=body.in_flight_seconds)
        waited = time.perf_counter() - started
        if not pausing.done():
            await self.engine.pause_generation(mode="keep", clear_cache=True)
        await pausing
        return waited

    async def _swap(self, body: PublishBody) -> list[Any]:
        try:
            answers = await self.engine.collective_rpc("factd_swap", args=(body.version, body.fence))
            failed = [answer["error"] for answer in answers if "error" in answer]
            if failed and len(failed) < len(answers):
                await self.engine.collective_rpc("factd_undo")
        except Exception as error:  # not even the last good tensors could be put back
            logger.critical("factd: the weights are in an unknown state; stopping this server")
            os.kill(os.getpid(), signal.SIGTERM)
            raise PublicationError("swap_failed", f"weights unknown, the server stops: {error!r}") from error
        if failed:
            raise PublicationError(failed[0]["code"], failed[0]["message"])
        return answers

    async def ask_alone(self, method: str, *args: object) -> list[Any]:
        """Calls every worker while no publication is under way."""
        async with self._alone():
            return await self._all(method, *args)

    async def served(self) -> dict[str, Any]:
        answers = await self._all("factd_served")
        if any(answer["version"] != answers[0]["version"] for answer in answers):
            raise PublicationError("swap_failed", "ranks serve different versions; restart this server")
        return answers[0]


def _authorise(request: Request) -> None:
    header = request.headers.get("authorization", "")
    expected = f"Bearer {os.environ['FACTD_ADMIN_TOKEN']}"
    if not hmac.compare_digest(header.encode(), expected.encode()):
        raise HTTPException(401, "the admin token is missing or wrong", {"WWW-Authenticate": "Bearer"})


async def _answer(call: Coroutine[Any, Any, dict[str, Any]]) -> Any:
    # shielded: a caller that hangs up must not leave the engine paused
    try:
        return await asyncio.shield(asyncio.ensure_future(call))
    except PublicationError as error:
        content = {"code": error.code, "message": str(error), "retryable": error.code in RETRYABLE}
        return JSONResponse({"error": content}, status_code=STATUS.get(error.code, 500))


class VersionHeader:
    """ASGI middleware: each answer names the version that made it.

    An answer that began under one version and ended under another names all of them, in order. The header of
    a streamed answer leaves with its first byte, so it does not name a version that came later.

    Args:
        history: versions served by this process, oldest first; grows.
    """

    def __init__(self, app: ASGIApp, history: list[str]) -> None:
        self.app, self.history = app, history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begun = len(self.history) - 1

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                versions = dict.fromkeys(self.history[begun:])
                MutableHeaders(scope=message)[VERSION_HEADER] = ", ".join(versions)
            await send(message)

        await self.app(scope, receive, named)


class PublishPlugin:
    """Adds `/plugins/factd/*` and the version header to vLLM's API server."""

    name = "factd"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self.history = [UNPUBLISHED]

    def attach_router(self, app: FastAPI) -> None:
        """Registers the routes and the middleware.

        Raises:
            RuntimeError: FACTD_ADMIN_TOKEN or FACTD_STORE is not set, or FACTD_BEFORE_LIVE cannot be used.
            SettingsError: FACTD_VERSION_KEY holds no public keys.
        """
        for variable in ("FACTD_ADMIN_TOKEN", "FACTD_STORE"):
            if not os.environ.get(variable):
                raise RuntimeError(f"set {variable} in vLLM's environment, or remove factd from VLLM_PLUGINS")
        told_keys(os.environ.get(VARIABLE, ""))  # a server with a key that cannot be read must not start
        guarded = [Depends(_authorise)]
        app.add_middleware(VersionHeader, history=self.history)
        app.add_middleware(LiveGate, history=self.history, hold=Hold.of(os.environ))
        if keys := serving_keys(app):
            app.add_middleware(KeyGate, keys=keys)

        @app.get(READY_ROUTE)
        async def ready() -> JSONResponse:
            """For load balancers: /health answers before the edits are there, this one does not."""
            version = self.history[-1]
            return JSONResponse({"version": version}, 503 if version == UNPUBLISHED else 200)

        @app.post("/plugins/factd/stage", dependencies=guarded)
        async def stage(body: StageBody, request: Request) -> Any:
            return await _answer(request.app.state.factd.stage(body))

        @app.post("/plugins/factd/publish", dependencies=guarded)
        async def publish(body: PublishBody, request: Request) -> Any:
            return await _answer(request.app.state.factd.publish(body))

        @app.get("/plugins/factd/version", dependencies=guarded)
        async def version(request: Request) -> Any:
            return await _answer(request.app.state.factd.served())

        add_product_route(app, guarded, _answer)

    async def init_state(self, engine_client: Engine, state: State, args: Namespace) -> None:
        """Keeps the engine for the routes.

        Raises:
            RuntimeError: the command line lacks the worker extension, or asks for several API servers.
        """
        if getattr(args, "worker_extension_cls", "") != EXTENSION:
            raise RuntimeError(f"start vLLM with --worker-extension-cls {EXTENSION}")
        if (getattr(args, "api_server_count", None) or 1) > 1:
            # Each server would know only its own publications, and name wrong versions in its answers.
            raise RuntimeError("start vLLM with --api-server-count 1")
        state.factd = Publications(engine_client, self.history)
