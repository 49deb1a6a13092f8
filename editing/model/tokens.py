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


def pad(sequences: Sequence[Sequence[int]], fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pads to [rows, longest]; returns ids and a boolean mask of the real tokens."""
    longest = max(len(s) for s in sequences)
    ids = torch.full((len(sequences), longest), fill, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
    lengths = torch.tensor([len(s) for s in sequences])
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    return ids.to(device), mask.to(device)
