"""Route of plain sentences: read, shown back, and posted when they are confirmed."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from daemon.core.errors import CorrectionError, Problem
from daemon.core.lifecycle import State
from daemon.core.messages import parse_json, problem
from daemon.http.schemas import body_schema
from daemon.http.service import Body, Service, ServiceOf, may_submit
from daemon.intake.reading.reader import Read
from daemon.intake.reading.served import unconfirmed, with_model

#: Statements of one request. A statement takes some milliseconds to read; a feed of more is `factd import`'s.
MOST_STATEMENTS = 200

#: What confirms a reading of the served model over HTTP.
HOW = 'send the reading itself to /v1/corrections, or confirm with "reader": "served"'

router = APIRouter()


class Statements(BaseModel):
    """What is sent: one statement or many, and whether what is understood shall be posted.

    `reader`: who reads them; FACTD_READER when None. With `confirm`, "served" also posts the model's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    statement: str | Annotated[list[str], Field(min_length=1, max_length=MOST_STATEMENTS)]
    confirm: bool = False
    reader: Literal["lexicon", "served"] | None = None


@router.post("/v1/statements", openapi_extra=body_schema(Statements.model_json_schema()))
def post_statements(
    service: ServiceOf, token: Annotated[str, Depends(may_submit)], body: Body
) -> dict[str, Any]:
    """Reads statements into corrections. With `confirm`, those that are not refused are recorded.

    `held`: the ids of those that wait for a review.
    """
    sent = _sent(parse_json(body))
    many = sent.statement if isinstance(sent.statement, list) else [sent.statement]
    if sent.reader == "served" and service.settings.reader != "served":
        mend = (
            "the served model reads nothing here; leave it out, or have the operator set FACTD_READER=served"
        )
        raise CorrectionError([Problem("reader", "'served'", mend)])
    reader = with_model(service.reader, service.settings, sent.reader)
    found = [reader.read(statement) for statement in many]
    if sent.confirm and sent.reader != "served":
        found = [unconfirmed(read, HOW) for read in found]
    answer: dict[str, Any] = {"statements": [read.view() for read in found]}
    if not sent.confirm:
        return answer
    ids = _record(service, token, found)
    held = [row.id for row in service.ledger.questions.rows(ids) if row.state is State.HELD]
    return answer | {"ids": ids, "held": held}


def _sent(content: object) -> Statements:
    try:
        return Statements.model_validate(content)
    except ValidationError as error:
        raise CorrectionError([problem(item) for item in error.errors()]) from None


def _record(service: Service, token: str, found: list[Read]) -> list[str]:
    corrections = [correction for read in found for correction in read.corrections()]
    if not corrections:
        return []
    most = min(service.rates.most("corrections"), service.room.most)
    if len(corrections) > most:
        raise HTTPException(
            413, f"{len(corrections)} corrections in one request; send {most} at once at most"
        )
    service.rates.spend("corrections", token, len(corrections))
    service.room.take(len(corrections))
    ids = service.writer.submit([(None, correction) for correction in corrections], f"http:{token}")
    service.ring()
    return list(ids)
