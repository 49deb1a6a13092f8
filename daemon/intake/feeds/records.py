"""What one record of a feed says, whatever form it came in."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from daemon.core.errors import CorrectionError, Problem
from daemon.core.messages import Correction, parse_correction, shortened


class Change(StrEnum):
    """What happened to the fact of a record, in WikiFactDiff's words."""

    NEW = "new"  # it is so now
    OBSOLETE = "obsolete"  # it is no longer so, and the feed names nothing in its place
    UNCHANGED = "unchanged"  # it is as it was


@dataclass(frozen=True)
class Told:
    """A record that can be used.

    Attributes:
        number: its line or row, from 1; None in a stream.
        correction: for OBSOLETE the target is what is no longer so.
    """

    number: int | None
    change: Change
    correction: Correction

    def keyed(self, key: str) -> "Told":
        """The same with an idempotency key, unless it has its own."""
        if self.correction.key is not None:
            return self
        return replace(self, correction=self.correction.model_copy(update={"key": key}))


#: A record, or what is wrong with it.
Entry = Told | CorrectionError
#: (fraction of the file that is read) → nothing
Advance = Callable[[float], object]
#: A format: the records of a file in its order, bad ones among them.
Read = Callable[[Path, Advance], Iterator[Entry]]


def told(fields: dict[str, Any], number: int | None) -> Entry:
    """A record from the fields of a correction, and the field `change`, which is "new" where it is missing.

    An obsolete fact says in `target` or in `was` what is no longer so.
    """
    fields = dict(fields)
    given = fields.pop("change", Change.NEW)
    if given not in list(Change):
        mend = "is no change; write new, obsolete or unchanged, or leave it out"
        return CorrectionError([Problem("change", shortened(given), mend, number)])
    change = Change(given)
    if change is Change.OBSOLETE and "target" not in fields:
        fields["target"] = fields.pop("was", None)
        if fields["target"] is None:
            mend = "is missing; say what is no longer so"
            return CorrectionError([Problem("was", "(nothing)", mend, number)])
    try:
        return Told(number, change, parse_correction(fields, number))
    except CorrectionError as error:
        return error


def wrong(field: str, value: object, mend: str, number: int | None = None) -> CorrectionError:
    """One thing wrong with a record."""
    return CorrectionError([Problem(field, shortened(value), mend, number)])


def digest(*parts: object) -> str:
    """32 hexadecimal digits that stand for the parts, in keys."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True).encode()).hexdigest()[:32]
