"""Prefix blocks are shared between requests that came under the same weights, and with no others.

vLLM finds a request's prefix by the tokens and the request's `cache_salt`. Each exchange of weights begins a
new salt, so no request meets keys and values of earlier weights. Nothing needs to be cleared for that, and
running requests may keep theirs.
"""

import secrets
from typing import Protocol

#: Random, not counted: a prefix store outside vLLM outlives the process, and a version can come back.
SALT_BYTES = 16


class Salted(Protocol):
    """A request as vLLM hands it to its engine."""

    cache_salt: str | None


class Core(Protocol):
    """vLLM's client of its engine process. Whatever route a request came by, it goes in here."""

    async def add_request_async(self, request: Salted) -> None: ...


class Salts:
    """The salt of the weights in place, written into every request on its way to the engine."""

    def __init__(self) -> None:
        self.turn()

    def turn(self) -> None:
        """Begins a new salt. Call it while generation is paused.

        Sooner, a request with the new salt could be computed with the old weights. Later, a request that
        waits for the end of the pause would go on from old blocks.
        """
        self.current = secrets.token_hex(SALT_BYTES)

    def of(self, own: str | None) -> str:
        """The salt of a request; one that the caller gave keeps apart whom the caller keeps apart."""
        return f"{self.current}:{own}" if own else self.current

    def write_into(self, core: Core) -> None:
        """Has every request salted that `core` takes from now on.

        Not in the bodies of requests: those come in many shapes, and a route without `cache_salt` uses the
        prefix cache too.
        """
        add = core.add_request_async

        async def salted(request: Salted) -> None:
            request.cache_salt = self.of(request.cache_salt)
            await add(request)

        core.add_request_async = salted
