"""A model's chat template: what stands around a message, and what ends an answer."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

#: Stands for a message, and for an answer, while a template is read; no template holds these words.
MESSAGE, ANSWER = "factd-message-8f1c", "factd-answer-8f1c"


@dataclass(frozen=True)
class ChatTemplate:
    """The template of one tokenizer.

    Attributes:
        tokenizer: a transformers tokenizer, or None for a model that is never asked.
    """

    tokenizer: Any

    @property
    def exists(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None)) and self._around is not None

    def around(self, message: str) -> tuple[str, str] | None:
        """The text before and after a user's message up to where the answer begins.

        None where the template refuses or changes the message.
        """
        if self._around is None:
            return None
        before, after = self._around
        return (before, after) if self._rendered(message) == before + message + after else None

    @cached_property
    def end_of_turn(self) -> tuple[int, ...]:
        """The token that ends an answer: what the template puts behind one, else the tokenizer's end.

        Empty where there is neither.
        """
        said = [{"role": "user", "content": MESSAGE}, {"role": "assistant", "content": ANSWER}]
        behind = self._apply(said, add_generation_prompt=False).partition(ANSWER)[2]
        ids = self.tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
        if not ids or ids[0] not in self.tokenizer.all_special_ids:
            ids = [self.tokenizer.eos_token_id]
        return tuple(token for token in ids if token is not None)

    @cached_property
    def _around(self) -> tuple[str, str] | None:
        whole = self._rendered(MESSAGE) or ""
        before, found, after = whole.rpartition(MESSAGE)
        return (before, after) if found and whole.count(MESSAGE) == 1 else None

    def _rendered(self, message: str) -> str | None:
        try:
            return self._apply([{"role": "user", "content": message}], add_generation_prompt=True)
        except (TemplateError, ValueError):
            # A template may refuse a message by raising; the form is then named as left out.
            return None

    def _apply(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        return self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )
