"""What is asked in a consolidation: the facts in all their forms, and ordinary texts whose answers stay."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editing.consolidation.numbers import ConsolidationNumbers
from editing.errors import FactError
from editing.facts import SLOT, Fact, in_order
from editing.forms import Form, chosen_forms
from editing.install import Installation
from editing.model.answers import answers
from editing.model.asked import asked
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.typed import whole_numbers
from editing.values.anchor import pilot_facts
from editing.values.endings import ending

#: Tokens of the unedited model's answers to questions about others.
ANSWER_TOKENS = 16


#: A fact in one form, with its target and what must follow: alone, and behind each context.
Lesson = tuple[Prompt, ...]


def lessons(
    loaded: LoadedModel, facts: Sequence[Fact], contexts: Sequence[str], numbers: ConsolidationNumbers
) -> list[Lesson]:
    """All facts in all their forms, in an order that follows from the set of facts."""
    found: list[Lesson] = []
    for fact in in_order(facts):
        for form in asked(loaded, fact, contexts, numbers.forms):
            ends = [ending(loaded, prompt, form.form.chat, numbers.ends) for prompt in form.prompts]
            prompts = (replace(p, ids=p.ids + end) for p, end in zip(form.prompts, ends, strict=True))
            found.append(tuple(prompts))
    return found


@dataclass(frozen=True)
class Ordinary:
    """Texts on which a model shall stay what it was; the divergence counts from each one's `target_start` on.

    Attributes:
        weight: of their mean divergence in the loss.
        rows: how many of them are in a step.
    """

    texts: tuple[Prompt, ...]
    weight: float
    rows: int

    def drawn(self, step: int, seed: int) -> list[Prompt]:
        """Those of a step: all in turn, in an order of each round's own."""
        count = min(self.rows, len(self.texts))
        if not count or not self.weight:
            return []
        rounds, first = divmod(step * count, len(self.texts))
        order = drawn_order(len(self.texts), seed, rounds) + drawn_order(len(self.texts), seed, rounds + 1)
        return [self.texts[i] for i in order[first : first + count]]


def drawn_order(count: int, seed: int, turn: int) -> list[int]:
    """An order of so many things, another one each turn."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + turn)
    return whole_numbers(torch.randperm(count, generator=generator))


def ordinary_texts(
    install: Installation, facts: Sequence[Fact], numbers: ConsolidationNumbers
) -> tuple[Ordinary, ...]:
    """Text and chats that second moments are estimated on, and the facts' own questions about others.

    Must be called on the unedited weights.
    """
    chats = install.loaded.chats(numbers.forms)
    text = _rows(install.text("text"))
    chat = _rows(install.text("chat")) if chats and numbers.chat_rows else ()
    others = tuple(about_others(install.loaded, facts, numbers)) if numbers.other_rows else ()
    return (
        Ordinary(text, numbers.text_weight, numbers.text_rows),
        Ordinary(chat, numbers.chat_weight, numbers.chat_rows),
        Ordinary(others, numbers.other_weight, numbers.other_rows),
    )


def _rows(ids: Tensor) -> tuple[Prompt, ...]:
    """Whole documents: what follows the first token counts."""
    return tuple(Prompt(tuple(whole_numbers(row)), 0, 1) for row in ids)


def about_others(loaded: LoadedModel, facts: Sequence[Fact], numbers: ConsolidationNumbers) -> list[Prompt]:
    """The facts' forms with subjects of pilot facts in the place of their own, and what the model answers.

    A model that has learnt facts says their targets of others too. Must be called on the unedited weights.
    """
    own = {fact.subject for fact in facts}
    subjects = sorted({pilot.subject for pilot in pilot_facts(10**6)} - own)
    generator = torch.Generator().manual_seed(numbers.seed)
    seen = set[tuple[str, str, bool]]()
    for fact in in_order(facts):
        for form in chosen_forms(fact, numbers.forms, loaded.chats(numbers.forms)):
            drawn = int(torch.randint(len(subjects), (1,), generator=generator))
            seen.add((subjects[drawn], form.text, form.chat))
    found: list[Prompt] = []
    for chat in (False, True):
        every = sorted((subject, text) for subject, text, in_chat in seen if in_chat == chat)
        filled = [text.replace(SLOT, subject) for subject, text in every]
        told = answers(loaded.speaker, filled, ANSWER_TOKENS, chat=chat)
        for (subject, text), answer in zip(every, told, strict=True):
            found += _answered(loaded, subject, text, answer, chat)
    return found


def _answered(loaded: LoadedModel, subject: str, text: str, answer: str, chat: bool) -> list[Prompt]:
    """The question with its answer; none where it cannot be encoded."""
    form = Form("other", "chat" if chat else "prompt", -1, text, chat)
    try:
        fact = Fact(subject, text, answer)
        return [loaded.encode(fact, form=form, allow_first=True)]
    except FactError:
        # An empty answer, or one that the tokenizer joins with the question, is not needed.
        return []
