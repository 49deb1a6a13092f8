"""What the HTTP API answers to each error: a status, the fault, and when to come again."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError as DatabaseError

from daemon.core.errors import (
    BusyError,
    ConflictError,
    CorrectionError,
    FourEyesError,
    QueueFullError,
    TransitionError,
    UnknownIdError,
)
from daemon.core.messages import problem

#: When the ledger does not answer, clients are told to come again after so long, seconds.
DATABASE_SECONDS = 5.0


#: Error → the answer.
Respond = Callable[[Request, Any], JSONResponse]


def responses() -> Iterator[tuple[type[Exception], Respond]]:
    """What is answered to each kind of error."""
    yield CorrectionError, _refused
    yield RequestValidationError, _invalid
    yield BusyError, _busy
    yield DatabaseError, _broken
    yield UnknownIdError, _plain(404)
    yield ConflictError, _plain(409)
    yield TransitionError, _plain(409)
    yield FourEyesError, _plain(403)


def _refused(_: Request, error: CorrectionError) -> JSONResponse:
    problems = [vars(problem) for problem in error.shown]
    body = {"detail": "nothing was recorded", "problems": problems, "more": error.more}
    return JSONResponse(body, 422)


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    return _refused(request, CorrectionError([problem(item) for item in error.errors()]))


def _plain(status: int) -> Respond:
    return lambda _request, error: JSONResponse({"detail": str(error)}, status)


def _busy(_: Request, error: BusyError) -> JSONResponse:
    status = 503 if isinstance(error, QueueFullError) else 429
    return _later(status, str(error), error.seconds)


def _broken(_: Request, error: DatabaseError) -> JSONResponse:
    logging.getLogger(__name__).error("the ledger: %s", error)
    return _later(503, f"the ledger does not answer: {error.orig}; ask again", DATABASE_SECONDS)


def _later(status: int, detail: str, seconds: float) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {"Retry-After": str(max(1, math.ceil(seconds)))})
