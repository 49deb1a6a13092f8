"""What is thought of a correction before it may be planned: findings, a score, and whether it is held.

`daemon.intake.trust` judges, the ledger stores. Both know these values and nothing of each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from daemon.core.lifecycle import State
from daemon.core.messages import Correction


class Rule(StrEnum):
    """What a correction can be held for. The names stand in the ledger: they are never renamed."""

    UNTRUSTED = "untrusted"  # its source is to be reviewed
    CONTRADICTION = "contradiction"  # another source's live fact says otherwise
    FLIP_FLOP = "flip_flop"  # its slot has changed too often within the window
    WRONG_KIND = "wrong_kind"  # its target is not what the relation asks for
    TEXT = "text"  # it reads like an instruction, or holds a slur
    SURE = "sure"  # the model is sure of the old answer


@dataclass(frozen=True)
class Finding:
    """One rule that speaks against a correction.

    Attributes:
        strength: how surely, from 0 to 1.
        weight: what the rule counts, as set.
        why: one plain sentence.
    """

    rule: Rule
    strength: float
    weight: float
    why: str

    @property
    def points(self) -> float:
        return self.strength * self.weight

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rule": str(self.rule), "points": round(self.points, 4)}


def score_of(findings: Sequence[Finding]) -> float:
    """The sum of the findings' points: 0 when nothing speaks against the correction."""
    return round(sum(one.points for one in findings), 4)


def reasons(findings: Sequence[Finding]) -> str:
    """The findings as one text, the heaviest first."""
    told = sorted(findings, key=lambda one: -one.points)
    return "; ".join(f"{one.rule}: {one.why}" for one in told if one.points > 0)


@dataclass(frozen=True)
class Ends:
    """A fact that ends when a correction goes live: the old holder's. It is retracted where it is live."""

    subject: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Judgement:
    """A correction as it is recorded.

    Attributes:
        score: None when nobody judged.
        held: why it waits for a review; None when it may be planned.
        children: corrections that follow from it once it is live, with a word for each.
        ends: facts that end then.
    """

    correction: Correction
    score: float | None = None
    findings: tuple[Finding, ...] = ()
    held: str | None = None
    children: tuple[tuple[str, Correction], ...] = ()
    ends: tuple[Ends, ...] = ()

    def consequences(self) -> dict[str, Any] | None:
        """The children and ends as the ledger keeps them; None when there are none."""
        if not self.children and not self.ends:
            return None
        children = [{"name": name, "correction": child.model_dump()} for name, child in self.children]
        return {"children": children, "ends": [asdict(one) for one in self.ends]}


@dataclass(frozen=True)
class Told:
    """An earlier correction about a subject."""

    prompt: str
    target: str
    source: str | None
    state: State
    received_at: float


class Past(Protocol):
    """What the ledger tells of what was there before; asked inside the transaction that records a post."""

    def about(self, subject: str) -> Sequence[Told]:
        """Earlier corrections of the subject, oldest first."""
        ...

    def posted_since(self, source: str | None, at: float) -> int:
        """How many corrections of the source were recorded from a time on."""
        ...

    def held(self) -> int:
        """How many corrections wait for a review."""
        ...

    def last(self) -> int:
        """A number that grows with each correction."""
        ...

    def live(self, most: int) -> Sequence[tuple[str, str]]:
        """(prompt, target) of live facts, the newest `most` of them."""
        ...


#: Raises CorrectionError for what the source may not post.
Judge = Callable[[Correction], Judgement]


class Gate(Protocol):
    """Decides what may be planned."""

    def judging(self, past: Past, actor: str, now: float) -> Judge:
        """A judge for the posts of one transaction, in order."""
        ...


def accept(correction: Correction) -> Judgement:
    """The judge where no policy is set: everything is taken."""
    return Judgement(correction)
