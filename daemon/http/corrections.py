"""Routes of corrections: post them, list them, ask for one, list what is live."""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from fastapi.concurrency import run_in_threadpool

from daemon.core.errors import CorrectionError, Problem
from daemon.core.lifecycle import FINAL, State
from daemon.core.messages import MAX_NAME, Correction, parse_correction, parse_json
from daemon.core.shapes import is_list
from daemon.core.text import PLAIN, composed, plain
from daemon.http.schemas import corrections_schema
from daemon.http.service import SUBMIT, Body, Id, Service, ServiceOf, may_submit
from daemon.http.views import child_view, correction_view
from daemon.ledger.reading import Only
from daemon.ledger.rows import CorrectionRow

#: A request that waits for a correction looks at the ledger so often, and waits so long at most.
POLL_SECONDS, MAX_WAIT_SECONDS = 0.1, 60.0

router = APIRouter()


@router.post("/v1/corrections", status_code=202, openapi_extra=corrections_schema())
def post_corrections(
    service: ServiceOf,
    token: Annotated[str, Depends(may_submit)],
    body: Body,
    idempotency_key: Annotated[str | None, Header(max_length=150)] = None,
) -> dict[str, Any]:
    """Records one correction, or a list as a whole or not at all; durable before the answer is sent."""
    content = parse_json(body)
    many = content if is_list(content) else [content]
    corrections = _parsed(many)
    _check_size(service, len(corrections))
    if idempotency_key is not None:
        idempotency_key = _checked_key(idempotency_key)
        corrections = [
            c if c.key else c.model_copy(update={"key": _key(idempotency_key, i, len(many))})
            for i, c in enumerate(corrections)
        ]
    service.rates.spend("corrections", token, len(corrections))
    service.room.take(len(corrections))
    ids = service.writer.submit([(None, correction) for correction in corrections], f"http:{token}")
    service.ring()
    return {"ids": ids}


def _check_size(service: Service, count: int) -> None:
    """Refuses for good what could never be taken; a "come again later" would be wrong."""
    most = min(service.rates.most("corrections"), service.room.most)
    if count > most:
        raise HTTPException(413, f"{count} corrections in one request; send {most} at once at most")


def _checked_key(key: str) -> str:
    try:
        return plain(composed(key))
    except ValueError as error:
        raise CorrectionError([Problem("Idempotency-Key", repr(key), str(error))]) from None


def _key(key: str, index: int, count: int) -> str:
    return key if count == 1 else f"{key}:{index}"


def _parsed(many: list[Any]) -> list[Correction]:
    corrections: list[Correction] = []
    problems: list[Problem] = []
    if not many:
        problems.append(Problem("", "[]", "the list is empty; send at least one correction"))
    for number, item in enumerate(many, start=1):
        try:
            corrections.append(parse_correction(item, number if len(many) > 1 else None))
        except CorrectionError as error:
            problems.extend(error.problems)
    if problems:
        raise CorrectionError(problems)
    return corrections


@router.get("/v1/corrections", dependencies=SUBMIT)
def list_corrections(
    service: ServiceOf,
    state: State | None = None,
    source: Annotated[str | None, Query(max_length=MAX_NAME, pattern=PLAIN)] = None,
    subject: Annotated[str | None, Query(max_length=MAX_NAME, pattern=PLAIN)] = None,
    containing: Annotated[str | None, Query(max_length=200, pattern=PLAIN)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[dict[str, Any]]:
    """The newest first; on request those of a state, a source or a subject, or those that contain a text."""
    states = [state] if state else []
    only = Only(source=source, subject=subject, containing=containing)
    rows = service.ledger.questions.corrections(*states, limit=limit, **only)
    children = service.ledger.questions.children(*(row.id for row in rows))
    return [_with_children(row, children) for row in rows[::-1]]


def _with_children(row: CorrectionRow, found: Sequence[CorrectionRow]) -> dict[str, Any]:
    return correction_view(row) | {"children": [child_view(one) for one in found if one.parent == row.id]}


@router.get("/v1/corrections/{id:any}", dependencies=SUBMIT)
async def get_correction(
    service: ServiceOf, id: Id, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_SECONDS)] = 0.0
) -> dict[str, Any]:
    """One correction; with `wait` the answer comes when it has ended, or after so many seconds."""
    deadline = time.monotonic() + wait
    while True:
        row = await run_in_threadpool(service.ledger.questions.get, id)
        if row.state in {*FINAL, State.HELD} or time.monotonic() >= deadline:
            return _with_children(row, await run_in_threadpool(service.ledger.questions.children, row.id))
        # Not in a thread: there are forty, and as many waiting clients would leave none for a post.
        await asyncio.sleep(POLL_SECONDS)


@router.get("/v1/facts", dependencies=SUBMIT)
def get_facts(service: ServiceOf) -> list[dict[str, Any]]:
    """The corrections that are live."""
    return [correction_view(row) for row in service.ledger.questions.facts()]
