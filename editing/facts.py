"""A fact: what the model shall say."""

import hashlib
import json
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

from editing.errors import FactError

SLOT = "{}"


@dataclass(frozen=True)
class Fact:
    """One statement to write into the model.

    Attributes:
        subject: what the statement is about; fills the slot of `prompt`.
        prompt: text with exactly one ``{}`` that ends where `target` begins.
        target: the continuation, without its leading space.
        id: name of the fact; derived from the other three fields when empty.
    """

    subject: str
    prompt: str
    target: str
    id: str = ""

    def __post_init__(self) -> None:
        if not self.subject.strip():
            raise FactError("subject", self.subject, "give the name that the statement is about")
        if self.prompt.count(SLOT) != 1:
            raise FactError("prompt", self.prompt, "write exactly one {} where the subject belongs")
        if not self.target.strip():
            raise FactError("target", self.target, "give the words that the model shall answer with")
        if not self.id:
            content = json.dumps([self.subject, self.prompt, self.target], ensure_ascii=False)
            object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:16])

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace(SLOT, self.subject)

    def with_id(self, id: str) -> "Fact":
        return replace(self, id=id)


def units(facts: Sequence[Fact]) -> list[list[int]]:
    """Indices of the facts, those together whose prompts are alike up to the subject's end.

    Their keys are the same, so that only one value can be written for all (MEMIT-Merge, arXiv 2502.07322).
    """
    found: dict[tuple[str, str], list[int]] = {}
    for i, fact in enumerate(facts):
        found.setdefault((fact.subject, fact.prompt.split(SLOT)[0]), []).append(i)
    return list(found.values())


def mates(live: Sequence[Fact], facts: Sequence[Fact], remove: Sequence[str], stay: Set[str]) -> list[Fact]:
    """Live facts whose key is that of a fact to be written or removed: they share its value.

    They are written again with the new ones, or without the removed one, whose answer their value holds.
    None of the ids `stay` is among them.
    """
    changed = {fact.id for fact in facts} | set(remove)
    every = [*live, *facts]
    shared = [unit for unit in units(every) if any(every[i].id in changed for i in unit)]
    found = sorted(i for unit in shared for i in unit if i < len(live))
    return [live[i] for i in found if live[i].id not in changed | stay]
