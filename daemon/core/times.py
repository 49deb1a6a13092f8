"""Moments on the wire: ISO 8601 with a zone, kept in UTC, so that two spellings of a moment are one text.

And how rates are written.
"""

import re
from datetime import UTC, datetime
from typing import Annotated

from annotated_types import MaxLen
from pydantic import AfterValidator

from daemon.core.text import plain

#: Shown to whoever sends a moment that cannot be used.
EXAMPLE = "2027-01-01T09:00:00+01:00"
#: characters; the longest form has some forty
MAX_MOMENT = 60


def moment(text: str) -> str:
    """The same moment in UTC, such as 2027-01-01T08:00:00Z.

    Raises:
        ValueError: no time in ISO 8601, one without a zone, or a character that is not taken.
    """
    plain(text)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(f"is no time in ISO 8601; write it as {EXAMPLE}") from None
    if found.tzinfo is None:
        # Whose nine o'clock? The sender, the server and the reader may live in three zones.
        raise ValueError(f"has no zone; add Z for UTC or an offset, as in {EXAMPLE}")
    try:
        return shown(found.timestamp())
    except (OverflowError, ValueError):
        raise ValueError("is outside the years 1 to 9999") from None


def seconds_of(text: str) -> float:
    """Unix seconds of what `moment` has returned."""
    return datetime.fromisoformat(text).timestamp()


def shown(seconds: float) -> str:
    """Unix seconds as `moment` writes them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


#: A moment in a message.
Moment = Annotated[str, MaxLen(MAX_MOMENT), AfterValidator(moment)]

#: A rate as the package `limits` takes it. vLLM's image reads settings too, and does not have that package.
_RATE = re.compile(
    r"\s*\d+\s*(/|per)\s*\d*\s*(second|minute|hour|day|month|year)s?\s*([,;|].*)?", re.IGNORECASE | re.ASCII
)


def _rate(text: str) -> str:
    if text and not _RATE.fullmatch(text):
        raise ValueError("is not a rate; write a count and a time, such as 100/10 seconds")
    return text


#: Such as "2000/second"; "" for none.
Rate = Annotated[str, AfterValidator(_rate)]
