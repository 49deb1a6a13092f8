"""The hash chain of the transitions: the hash of a row covers its content and the hash of the row before.

A change to any row breaks every link from there on. The head, the last row's place and hash, is kept in the
ledger's control table as well, so that a missing end is seen too. The form of a link is fixed for ever:
another one would break the chain of every ledger there is.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.core.messages import MAX_ID

#: what a link covers: all of a row but its own hash
CONTENT = ("seq", "kind", "id", "old", "new", "at", "reason", "actor")
#: stands for the hash before the first row
GENESIS = "0" * 64
#: characters of the hash at the end of an id that was too long
HASHED = 16


def _foreign(value: object) -> dict[str, str]:
    # Only a damaged row holds such a value. As an object it differs from any text or number that was written.
    return {type(value).__name__: repr(value)}


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_foreign).encode
#: a NUL cannot be stored by PostgreSQL, half a surrogate pair by neither database
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Head:
    """The end of a chain."""

    seq: int = 0
    hash: str = GENESIS


def storable(text: str) -> str:
    """The text as a database gives it back: a character that it cannot hold becomes U+FFFD."""
    return text if text.isascii() and "\x00" not in text else _UNSTORABLE.sub("\ufffd", text)


def ledger_id(given: str) -> str:
    """The id under which the ledger keeps what came with an id of any length and any characters.

    A Celery task may have any id. The end of a long one becomes its hash: two long ids may begin alike.
    """
    text = storable(given)
    if len(text) <= MAX_ID:
        return text
    return f"{text[: MAX_ID - HASHED - 1]}-{hashlib.sha256(text.encode()).hexdigest()[:HASHED]}"


def link(previous: str, row: Mapping[Any, Any]) -> str:
    """sha256 over the hash of the row before, a newline, and the row's CONTENT as canonical JSON:
    keys sorted, no spaces, ASCII with escapes, floats in their shortest form."""
    content = _canonical({name: row[name] for name in CONTENT})
    return hashlib.sha256(f"{previous}\n{content}".encode()).hexdigest()


def extend(head: Head, contents: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], Head]:
    """Rows ready to be inserted, with `seq` and `hash`, and the new head.

    Args:
        contents: CONTENT without seq, in order; `at` a float.
    """
    rows: list[dict[str, Any]] = []
    seq, last = head.seq, head.hash
    for content in contents:
        seq += 1
        row = {name: storable(value) if isinstance(value, str) else value for name, value in content.items()}
        row["seq"] = seq
        last = row["hash"] = link(last, row)
        rows.append(row)
    return rows, Head(seq, last)
