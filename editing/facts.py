"""A fact: what the model shall say."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from editing.errors import FactError

SLOT = "{}"
#: Questions and paraphrases together. Each is asked in two ways, and a column names the ways that it holds by
#: the bits of a 64-bit number.
MOST_WORDINGS = 30


@dataclass(frozen=True)
class Fact:
    """One statement to write into the model.

    Attributes:
        subject: what the statement is about; fills the slot of `prompt`.
        prompt: text with exactly one ``{}`` that ends where `target` begins.
        target: the continuation, without its leading space.
        id: name of the fact; derived from the first three fields when empty.
        questions: ways to ask for it, each with exactly one ``{}`` for the subject.
        paraphrases: other prompts that the target continues, each with exactly one ``{}``.
    """

    subject: str
    prompt: str
    target: str
    id: str = ""
    questions: tuple[str, ...] = ()
    paraphrases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A list would leave the fact without a hash.
        object.__setattr__(self, "questions", tuple(self.questions))
        object.__setattr__(self, "paraphrases", tuple(self.paraphrases))
        if not self.subject.strip():
            raise FactError("subject", self.subject, "give the name that the statement is about")
        if not self.target.strip():
            raise FactError("target", self.target, "give the words that the model shall answer with")
        wordings = [("questions", text) for text in self.questions]
        wordings += [("paraphrases", text) for text in self.paraphrases]
        for field, text in [("prompt", self.prompt), *wordings]:
            if text.count(SLOT) != 1:
                raise FactError(field, text, "write exactly one {} where the subject belongs")
        if len(wordings) > MOST_WORDINGS:
            raise FactError("questions", len(wordings), f"give at most {MOST_WORDINGS}, paraphrases included")
        if not self.id:
            content = json.dumps([self.subject, self.prompt, self.target], ensure_ascii=False)
            object.__setattr__(self, "id", hashlib.sha256(content.encode()).hexdigest()[:16])

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace(SLOT, self.subject)

    def with_id(self, id: str) -> "Fact":
        return replace(self, id=id)


def in_order(facts: Iterable[Fact]) -> list[Fact]:
    """The facts in an order that follows from what they say, however they came."""
    return sorted(facts, key=lambda fact: (fact.subject, fact.prompt, fact.target))
