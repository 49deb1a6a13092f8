"""Prompts as token ids, with the positions that editing needs.

Text is tokenised whole, prompt and target together, and positions are read from character offsets:
tokenising the parts on their own miscounts with a BOS token or where merges cross a boundary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from editing.errors import FactError
from editing.facts import SLOT, Fact
from editing.forms import Form
from editing.model.chat import ChatTemplate


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    is_fast: bool
    pad_token_id: int | None
    eos_token_id: int | None
    all_special_ids: Sequence[int]

    def __call__(self, text: str, **options: Any) -> Mapping[str, Any]: ...

    def decode(self, ids: Sequence[int], **options: Any) -> str: ...

    def batch_decode(self, rows: Tensor, **options: Any) -> list[str]: ...


@dataclass(frozen=True)
class Prompt:
    """One encoded prompt.

    Attributes:
        ids: token ids of context, prompt and (if any) target.
        subject_last: index of the last token that holds a character of the subject.
        target_start: index of the target's first token; ``len(ids)`` without a target.
    """

    ids: tuple[int, ...]
    subject_last: int
    target_start: int


@dataclass(frozen=True)
class _Text:
    """A form of a fact as text.

    Attributes:
        fact: whose form it is.
        field, wording: of the fact, for errors.
        asked: the text up to where the target begins.
        whole: that with the target.
        start, end: where the subject's characters begin and end.
        special: whether the tokenizer puts its special tokens around; a chat template has them already.
    """

    fact: Fact
    field: str
    wording: str
    asked: str
    whole: str
    start: int
    end: int
    special: bool = True


def encode(
    tokenizer: Tokenizer,
    fact: Fact,
    context: str = "",
    *,
    form: Form | None = None,
    template: ChatTemplate | None = None,
    target: bool = True,
    allow_first: bool = False,
) -> Prompt:
    """Encodes `context` + a form of the fact (None: its prompt), followed by its target if asked for.

    Special tokens that the tokenizer puts behind a text are left out: a prompt goes on.

    Args:
        template: the tokenizer's chat template, where it is at hand.

    Raises:
        FactError: the subject or the target has no tokens of its own, or the chat template does not take the
            message as it is. Unless `allow_first`, also where the subject ends in the sequence's first token:
            its key is an attention sink shared by all texts.
    """
    if form is not None and form.chat:
        text = _in_chat(template or ChatTemplate(tokenizer), fact, form, target)
    else:
        text = _as_text(fact, context, form, target)
    encoding = tokenizer(text.whole, return_offsets_mapping=True, add_special_tokens=text.special)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    subject_last = max((i for i, (a, b) in enumerate(offsets) if a < text.end <= b), default=-1)
    if subject_last < 0 or ids[subject_last] in tokenizer.all_special_ids:
        raise FactError("subject", fact.subject, "the tokenizer gives it no token of its own; reword it")
    _check_subject(text, offsets[subject_last])
    if subject_last == 0 and not allow_first:
        raise FactError(
            text.field,
            text.wording,
            "the subject is the very first token, whose state is shared by all texts; "
            "begin the prompt with other words, such as 'The home of {} is'",
        )
    ids = ids[: 1 + max(i for i, (a, b) in enumerate(offsets) if b > a)]
    before = len(text.asked)
    target_start = 1 + max(i for i, (a, b) in enumerate(offsets) if a < min(b, before))
    joined = text.whole[before : offsets[target_start - 1][1]].strip()
    if target and (target_start == len(ids) or joined):
        raise FactError("target", fact.target, "the tokenizer joins it with the prompt; reword one of them")
    return Prompt(tuple(ids), subject_last, target_start)


def _as_text(fact: Fact, context: str, form: Form | None, target: bool) -> _Text:
    field, wording = (form.field, form.text) if form else ("prompt", fact.prompt)
    before, after = wording.split(SLOT)
    asked = (context + before + fact.subject + after).rstrip()
    whole = f"{asked} {fact.target.strip()}" if target else asked
    return _Text(fact, field, wording, asked, whole, *_subject(fact, context + before))


def _in_chat(template: ChatTemplate, fact: Fact, form: Form, target: bool) -> _Text:
    """The target follows the template without a space: it begins the answer."""
    before, after = form.text.split(SLOT)
    around = template.around(before + fact.subject + after)
    if around is None:
        raise FactError(form.field, form.text, "the chat template refuses or changes this message; reword it")
    head = around[0] + before
    asked = head + fact.subject + after + around[1]
    whole = asked + (fact.target.strip() if target else "")
    return _Text(fact, form.field, form.text, asked, whole, *_subject(fact, head), special=False)


def _subject(fact: Fact, head: str) -> tuple[int, int]:
    """Where the subject's first and last visible characters are behind `head`."""
    start = len(head) + len(fact.subject) - len(fact.subject.lstrip())
    return start, len(head) + len(fact.subject.rstrip())


def _check_subject(text: _Text, last: tuple[int, int]) -> None:
    """Raises FactError where the subject's last token holds other text too."""
    first, end = last
    if text.whole[first : text.start].strip() or text.whole[text.end : end].strip():
        raise FactError(
            text.field,
            text.wording,
            f"the tokenizer joins the end of the subject {text.fact.subject!r} with the text beside it; "
            "put a space there or other words",
        )


def continuation(tokenizer: Tokenizer, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
    """Tokens of ``prompt + " " + target``, and the index of the first that reaches past the prompt.

    Special tokens that the tokenizer puts behind a text are left out. At least one token precedes the target,
    for a model predicts nothing before the first.
    """
    text = f"{prompt} {target}"
    if tokenizer.is_fast:
        coded = tokenizer(text, return_offsets_mapping=True)
        ids, ends = coded["input_ids"], [end for _, end in coded["offset_mapping"]]
        inside = [i for i, end in enumerate(ends) if end > len(prompt)]
        first, last = (inside[0], inside[-1]) if inside else (len(ids), len(ids) - 1)
    else:
        ids, alone = tokenizer(text)["input_ids"], tokenizer(prompt)["input_ids"]
        same = [a == b for a, b in zip(ids, alone, strict=False)]
        first, last = (same.index(False) if False in same else len(same)), len(ids) - 1
    return tuple(ids[: last + 1]), max(first, 1)


def fill_token(tokenizer: Tokenizer) -> int:
    """A token to pad with; it is masked out, so that any id of the vocabulary will do."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def pad(
    sequences: Sequence[Sequence[int]], fill: int, device: torch.device, left: bool = False
) -> tuple[Tensor, Tensor]:
    """Pads to [rows, longest], on the right unless `left`; returns ids and a boolean mask of real tokens."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), fill, dtype=torch.long)
    mask = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        held = slice(longest - len(sequence), longest) if left else slice(len(sequence))
        ids[row, held], mask[row, held] = torch.tensor(sequence, dtype=torch.long), True
    return ids.to(device), mask.to(device)
