"""Prompts as token ids, with the positions that editing needs.

Text is tokenised whole, prompt and target together, and positions are read from character offsets:
tokenising the parts on their own miscounts with a BOS token or where merges cross a boundary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editing.errors import FactError
from editing.facts import SLOT, Fact


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


def encode(
    tokenizer: Any, fact: Fact, context: str = "", *, target: bool = True, allow_first: bool = False
) -> Prompt:
    """Encodes `context` + the fact's prompt, followed by its target if asked for.

    Special tokens that the tokenizer puts behind a text are left out: a prompt goes on.

    Raises:
        FactError: the subject or the target has no tokens of its own, or (unless `allow_first`) the
            subject ends in the sequence's first token, whose key is an attention sink shared by all texts.
    """
    before, after = fact.prompt.split(SLOT)
    head = len(context) + len(before)
    start = head + len(fact.subject) - len(fact.subject.lstrip())
    end = head + len(fact.subject.rstrip())
    text = (context + before + fact.subject + after).rstrip()
    whole = f"{text} {fact.target.strip()}" if target else text
    encoding = tokenizer(whole, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    subject_last = max((i for i, (a, b) in enumerate(offsets) if a < end <= b), default=-1)
    if subject_last < 0 or ids[subject_last] in tokenizer.all_special_ids:
        raise FactError("subject", fact.subject, "the tokenizer gives it no token of its own; reword it")
    first, last = offsets[subject_last]
    if whole[first:start].strip() or whole[end:last].strip():
        raise FactError(
            "prompt",
            fact.prompt,
            f"the tokenizer joins the end of the subject {fact.subject!r} with the text beside it; "
            "put a space there or other words",
        )
    if subject_last == 0 and not allow_first:
        raise FactError(
            "prompt",
            fact.prompt,
            "the subject is the very first token, whose state is shared by all texts; "
            "begin the prompt with other words, such as 'The home of {} is'",
        )
    ids = ids[: 1 + max(i for i, (a, b) in enumerate(offsets) if b > a)]
    target_start = 1 + max(i for i, (a, b) in enumerate(offsets) if a < min(b, len(text)))
    joined = whole[len(text) : offsets[target_start - 1][1]].strip()
    if target and (target_start == len(ids) or joined):
        raise FactError("target", fact.target, "the tokenizer joins it with the prompt; reword one of them")
    return Prompt(tuple(ids), subject_last, target_start)


def continuation(tokenizer: Any, prompt: str, target: str) -> tuple[tuple[int, ...], int]:
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


def fill_token(tokenizer: Any) -> int:
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
