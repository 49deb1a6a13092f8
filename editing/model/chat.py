"""A model's chat template: what stands around a message, and what ends an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

#: Stands for a message, and for an answer, while a template is read; no template holds these words.
MESSAGE, ANSWER = "factd-message-8f1c", "factd-answer-8f1c"
#: How a chat begins whose second message asks for a fact.
GREETING = "Hi there."


@dataclass(frozen=True)
class ChatTemplate:
    """The template of one tokenizer.

    Attributes:
        tokenizer: a transformers tokenizer, or None for a model that is never asked.
    """

    tokenizer: Any

    @property
    def exists(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None)) and self._around("") is not None

    def around(self, message: str, earlier: str = "") -> tuple[str, str] | None:
        """The text before and after a user's message up to where the answer begins.

        None where the template refuses or changes the message.

        Args:
            earlier: what the assistant said in the turn before; empty where there was none.
        """
        around = self._around(earlier)
        if around is None:
            return None
        before, after = around
        return around if self._rendered(message, earlier) == before + message + after else None

    def contexts(self, contexts: Sequence[str]) -> tuple[str, ...]:
        """The first of the texts, and those others that the assistant may have said before a message."""
        first, *others = contexts
        return (first, *(text for text in others if self._around(text) is not None))

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """The token that ends an answer: what the template puts behind one, else the tokenizer's end.

        Empty where there is neither.
        """
        said = [_turn("user", MESSAGE), _turn("assistant", ANSWER)]
        behind = self._apply(said, add_generation_prompt=False).partition(ANSWER)[2]
        ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
        if not ids or ids[0] not in self.tokenizer.all_special_ids:
            ids = [self.tokenizer.eos_token_id]
        return tuple(token for token in ids if token is not None)

    @cached_property
    def _known(self) -> dict[str, tuple[str, str] | None]:
        return {}

    def _around(self, earlier: str) -> tuple[str, str] | None:
        if earlier not in self._known:
            whole = self._rendered(MESSAGE, earlier) or ""
            before, found, after = whole.rpartition(MESSAGE)
            self._known[earlier] = (before, after) if found and whole.count(MESSAGE) == 1 else None
        return self._known[earlier]

    def _rendered(self, message: str, earlier: str) -> str | None:
        before = [_turn("user", GREETING), _turn("assistant", earlier.strip())] if earlier else []
        try:
            return self._apply([*before, _turn("user", message)], add_generation_prompt=True)
        except (TemplateError, ValueError):
            # A template may refuse a message by raising; the form is then named as left out.
            return None

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
