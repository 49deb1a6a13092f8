"""What the HTTP API answers to each error: a status, the fault, and when to come again."""

import logging
import math
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError as DatabaseError

from daemon.core.errors import (
    BusyError,
    ConflictError,
    CorrectionError,
    QueueFullError,
    TransitionError,
    UnknownIdError,
)
from daemon.core.messages import problem

#: a ledger that cannot be written is asked again after so long, seconds
DATABASE_SECONDS = 5.0


def responses() -> Iterator[tuple[type[Exception], Any]]:
    def refused(_: Request, error: Any) -> JSONResponse:
        problems = [vars(problem) for problem in error.problems]
        return JSONResponse({"detail": "nothing was recorded", "problems": problems}, 422)

    def invalid(request: Request, error: Any) -> JSONResponse:
        return refused(request, CorrectionError([problem(item) for item in error.errors()]))

    def plain(status: int) -> Any:
        return lambda _request, error: JSONResponse({"detail": str(error)}, status)

    def busy(_: Request, error: Any) -> JSONResponse:
        status = 503 if isinstance(error, QueueFullError) else 429
        return _later(status, str(error), error.seconds)

    def broken(_: Request, error: Any) -> JSONResponse:
        logging.getLogger(__name__).error("the ledger: %s", error)
        return _later(503, f"the ledger does not answer: {error.orig}; ask again", DATABASE_SECONDS)

    yield CorrectionError, refused
    yield RequestValidationError, invalid
    yield BusyError, busy
    yield DatabaseError, broken
    yield UnknownIdError, plain(404)
    yield ConflictError, plain(409)
    yield TransitionError, plain(409)


def _later(status: int, detail: str, seconds: float) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Retry-After": str(max(1, math.ceil(seconds)))})
