"""What clients heard while processes were killed, summed up."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from daemon.core.publication import UNPUBLISHED


class Heard(NamedTuple):
    """One request: when it was asked and answered, and what came back; status 0 where nothing answered."""

    asked: float
    answered: float
    status: int
    version: str
    text: str

    def says(self, version: str, text: str) -> bool:
        """Whether it was answered from this version, with this text."""
        return self.status == 200 and self.version == version and self.text.startswith(text)


def outcome(
    heard: Sequence[Heard], began: float, back: Mapping[str, float], version: str, text: str
) -> dict[str, Any]:
    """A row of the table.

    Args:
        began: when the parts were killed.
        back: part → when it answered again.
        version: what is live, and `text` what it answers.
    """
    after = sorted((one for one in heard if one.answered >= began), key=lambda one: one.answered)
    answered = [one for one in after if one.status == 200]
    wrong = [one for one in after if not one.says(version, text)]
    right = [one.answered for one in after if one.says(version, text)]
    last = max(back.values())
    # Answers that never ceased were back at once.
    since = max((one.answered for one in wrong), default=began)
    first = min((at for at in right if at >= since), default=None)
    return {
        "answers": len(answered),
        "default_answers": sum(UNPUBLISHED in one.version for one in answered),
        "other_answers": sum(not one.says(version, text) for one in answered),
        "refused": sum(one.status not in (0, 200) for one in after),
        "unreachable": sum(one.status == 0 for one in after),
        "longest_wait_seconds": round(max((one.answered - one.asked for one in answered), default=0.0), 2),
        "back_seconds": {part: round(at - began, 1) for part, at in back.items()},
        "live_after_seconds": None if first is None else round(max(0.0, first - last), 1),
    }
