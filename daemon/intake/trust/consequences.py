"""What follows from a correction: children for its subject's aliases, the inverse, the old holder."""

from collections.abc import Iterator, Sequence

from daemon.core.messages import MAX_NAME, Correction
from daemon.core.trust import Ends
from daemon.intake.reading.lexicon import Relation


def children_of(
    correction: Correction, relation: Relation | None, wanted: Sequence[str], ended_says: str | None
) -> Iterator[tuple[str, Correction]]:
    """Corrections that are posted once this one is live, each with a word for what it is.

    Args:
        wanted: which consequences the policy asks for.
        ended_says: what the old holder is said to be; None leaves it to the base model.
    """
    if "aliases" in wanted:
        for number, alias in enumerate(correction.aliases, start=1):
            yield f"alias{number}", _child(correction, subject=alias, prompt=correction.prompt)
    inverse = relation.inverse if relation is not None else None
    if inverse is None or len(correction.subject) > MAX_NAME:
        return
    if "inverse" in wanted:
        yield "inverse", _turned(correction, correction.target, inverse, correction.subject)
    if "ended" in wanted and ended_says is not None and correction.was not in (None, correction.target):
        yield "ended", _turned(correction, correction.was or "", inverse, ended_says)


def ends_of(correction: Correction, relation: Relation | None, wanted: Sequence[str]) -> Iterator[Ends]:
    """Live facts that end: what the ledger says of the old holder."""
    was = correction.was
    if "ended" in wanted and was not in (None, correction.target) and relation and relation.inverse:
        yield Ends(was or "", relation.inverse, correction.subject)


def _child(parent: Correction, *, subject: str, prompt: str) -> Correction:
    # Without `valid_from`: it is posted once the parent is live.
    blank: dict[str, object] = {"key": None, "aliases": [], "neighbours": [], "valid_from": None}
    changed = {"subject": subject, "prompt": prompt, **blank}
    return parent.model_copy(update=changed)


def _turned(parent: Correction, subject: str, prompt: str, target: str) -> Correction:
    return Correction(
        subject=subject,
        prompt=prompt,
        target=target,
        source=parent.source,
        priority=parent.priority,
        valid_until=parent.valid_until,
    )
