"""A fact: what the model shall say."""

import hashlib
import json
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
