"""What the routes share: ledger, replicas and rates, who may do what, and the body of a request."""

import hmac
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.concurrency import run_in_threadpool
from prometheus_client import CollectorRegistry
from starlette.convertors import StringConvertor, register_url_convertor

from daemon.core.errors import SettingsError
from daemon.core.messages import MAX_ID, Correction
from daemon.core.ruling import guard_policy
from daemon.core.settings import Settings
from daemon.core.text import PLAIN
from daemon.http.alerts import AlertDesk
from daemon.intake.intake import Rates, Room, Writer
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.reading.reader import LexiconReader
from daemon.intake.trust.gate import gate_of
from daemon.ledger.ledger import Ledger
from daemon.publish.serving import Reports
from monitoring.metrics import Metrics

#: Longest body of a request, bytes; some 10,000 corrections.
MAX_BODY = 8 * 2**20


class Service:
    """Made once by `create_app`, which gives the ring of the doorbell."""

    def __init__(
        self, settings: Settings, ledger: Ledger, replicas: Sequence[Reports], ring: Callable[[], None]
    ) -> None:
        self.settings, self.ledger, self.replicas, self.ring = settings, ledger, replicas, ring
        gate = ledger.intake.gate = gate_of(settings)
        self.sources = gate.sources if gate is not None else None
        submit, admin = settings.submit_token, settings.admin_token
        if admin is None:
            raise SettingsError("the API needs FACTD_ADMIN_TOKEN (and FACTD_SUBMIT_TOKEN for clients)")
        self.admin = admin.get_secret_value().encode()
        self.submit = submit.get_secret_value().encode() if submit else self.admin
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.alert_desk = AlertDesk(ledger, guard_policy(settings), settings.name)
        self.room, self.rates = Room(ledger, settings.max_pending), Rates(settings)
        self.writer = Writer(ledger)
        self.reader = LexiconReader(load_lexicon(settings.relations))

    def close(self) -> None:
        self.writer.close()
        self.ledger.close()

    def signed(self, token: str, correction: Correction) -> Correction:
        """An event's correction, as that of the source that the token is bound to: events name addresses."""
        bound = self.sources is not None and token in self.sources.by_name
        return correction.model_copy(update={"source": None}) if bound else correction

    def caller(self, authorization: str | None) -> "Caller":
        """Whose token it is, and what that token may."""
        token = (authorization or "").removeprefix("Bearer ").encode()
        scopes = self._scopes(token)
        source = self.sources.of_token(token) if self.sources is not None else None
        if scopes or source is None:
            name = next((known for known in ("admin", "submit") if known in scopes), "")
            return Caller(name, scopes | ({"review"} if "admin" in scopes else set[str]()))
        return Caller(source.name, {"submit", "review"} if source.reviews else {"submit"})

    def scopes(self, authorization: str | None) -> set[str]:
        return self.caller(authorization).scopes

    def _scopes(self, token: bytes) -> set[str]:
        # Always both comparisons, each in constant time: the time of an answer tells nothing of the tokens.
        is_admin = hmac.compare_digest(token, self.admin)
        is_submit = hmac.compare_digest(token, self.submit)
        return {"admin", "submit"} if is_admin else {"submit"} if is_submit else set()


@dataclass(frozen=True)
class Caller:
    """Who asks.

    Attributes:
        name: of the token: admin, submit, or the source that it is bound to; "" for nobody.
        scopes: submit, review, admin.
    """

    name: str
    scopes: set[str]


class AnyText(StringConvertor):
    """`{id:any}`: a part of a path, also with "/" and line breaks in it, where starlette's `path` ends."""

    regex = "(?s:.+)"


register_url_convertor("any", AnyText())


async def service_of(request: Request) -> Service:
    return request.app.state.service


ServiceOf = Annotated[Service, Depends(service_of)]
#: Names of versions and reasons hold no control characters; PostgreSQL cannot store NUL.
Version = Annotated[str, PathParameter(max_length=MAX_ID, pattern=PLAIN)]
#: Of a correction. Whoever posts with Celery chooses it: a quoted "/" belongs to it, and whatever else.
Id = Annotated[str, PathParameter(min_length=1)]
Why = Annotated[str | None, Query(max_length=1000, pattern=PLAIN)]


#: What whoever lacks a scope is told.
NEEDS = {
    "submit": "this needs the submit token",
    "admin": "this needs the admin token",
    "review": "this needs the admin token, or the token of a source with `reviews = true`",
}


def scope(wanted: str) -> Callable[..., Awaitable[str]]:
    """A dependency that gives the name of the token, and counts the request against the token's rate."""

    # `check` and `service_of` are async: FastAPI would run plain functions in threads, three for each post.
    async def check(service: ServiceOf, authorization: Annotated[str | None, Header()] = None) -> str:
        caller = service.caller(authorization)
        if not caller.scopes:
            raise HTTPException(401, "send 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})
        if wanted not in caller.scopes:
            raise HTTPException(403, NEEDS[wanted])
        token = caller.name
        if service.rates.in_memory:
            service.rates.spend("requests", token)
        else:
            await run_in_threadpool(service.rates.spend, "requests", token)
        return token

    return check


may_submit = scope("submit")
may_review = scope("review")
SUBMIT = [Depends(may_submit)]
ADMIN = [Depends(scope("admin"))]


async def body_of(request: Request) -> bytes:
    """The body; reading stops at MAX_BODY."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes; send fewer corrections")
    return bytes(body)


Body = Annotated[bytes, Depends(body_of)]
