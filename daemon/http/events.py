"""Route of CloudEvents: one event, a batch, or an event whose attributes are headers."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request

from daemon.core.errors import ConflictError, CorrectionError, Problem
from daemon.core.messages import shortened
from daemon.http.schemas import events_schema
from daemon.http.service import Body, Service, ServiceOf, may_submit
from daemon.intake.feeds.cloudevents import events
from daemon.intake.feeds.records import Change, Entry, Told
from daemon.intake.feeds.taking import Report, Taker

router = APIRouter()


@router.post("/v1/events", status_code=202, openapi_extra=events_schema())
def post_events(
    request: Request, service: ServiceOf, token: Annotated[str, Depends(may_submit)], body: Body
) -> dict[str, Any]:
    """Records the corrections of CloudEvents 1.0, as a whole or not at all; `id` and `source` are the key."""
    found = _usable(events(request.headers.get("Content-Type", ""), dict(request.headers), body))
    taker = Taker(service.ledger, service.room, f"http:{token}", no_answer=service.settings.no_answer)
    posts = [taker.answered(told) for told in found]
    ended = [told for told in posts if told.change is Change.OBSOLETE]
    _check_ended(service, ended, token)
    ids = _record(service, token, [told for told in posts if told.change is Change.NEW])
    taker.take(ended, report := Report())
    service.ring()
    recorded = iter(ids)
    return {
        "ids": [next(recorded) if told.change is Change.NEW else None for told in posts],
        "retracted": report.counts["retracted"],
    }


def _usable(entries: list[Entry]) -> list[Told]:
    problems = [one for entry in entries if isinstance(entry, CorrectionError) for one in entry.problems]
    if not entries:
        problems.append(Problem("", "[]", "the batch is empty; send at least one event"))
    if problems:
        raise CorrectionError(problems)
    return [entry for entry in entries if isinstance(entry, Told)]


def _check_ended(service: Service, ended: list[Told], token: str) -> None:
    """Before anything is recorded: facts that are no longer so can be taken out, by whoever may."""
    if ended and token != "admin":
        mend = "takes a fact out, which needs the admin token; or have FACTD_NO_ANSWER set"
        raise CorrectionError(
            [Problem("data.change", shortened(str(Change.OBSOLETE)), mend, told.number) for told in ended]
        )
    Taker(service.ledger, service.room, "http", dry=True).take(ended, report := Report())
    if report.problems:
        raise CorrectionError(report.problems)


def _record(service: Service, token: str, posts: list[Told]) -> list[str]:
    if not posts:
        return []
    most = min(service.rates.most("corrections"), service.room.most)
    if len(posts) > most:
        raise HTTPException(413, f"{len(posts)} events in one request; send {most} at once at most")
    service.rates.spend("corrections", token, len(posts))
    service.room.take(len(posts))
    try:
        signed = [(None, service.signed(token, told.correction)) for told in posts]
        return list(service.writer.submit(signed, f"http:{token}"))
    except ConflictError as error:
        # The key is made of these two; the sender knows no other.
        raise ConflictError("id", error.value, error.existing) from None
