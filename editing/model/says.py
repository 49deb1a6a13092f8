"""Whether a model says facts word for word."""

from collections.abc import Sequence
from enum import IntEnum

import torch
from torch import Tensor

from editing.facts import Fact
from editing.forms import PROMPT_ONLY, Kind
from editing.model.asked import Asked, asked
from editing.model.forward import enter
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.model.tree import Tree
from editing.said import said
from editing.typed import whole_numbers

#: Prompts in one pass.
ROWS = 64
#: Tokens looked at, at most, that a lead may not leave behind.
CLOSE = 8


class Sureness(IntEnum):
    """How surely a target is said: not; as the greedy answer; or nothing else is nearly as probable."""

    UNSAID = 0
    SAID = 1
    LED = 2


def says(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    contexts: Sequence[str] = ("",),
    kinds: Sequence[Kind] = PROMPT_ONLY,
    lead: float = 0.0,
) -> list[bool]:
    """Of each fact: does the greedy answer say the target, behind each of the texts `contexts`, and in each
    other form of the given kinds?

    One token is looked at behind the target, to see whether the word or number ends there.

    Args:
        lead: nats within which of the most probable token every other one must say the target as well.
    """
    return [not missing for missing in unsaid(loaded, facts, contexts, kinds, lead)]


def sureness(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    kinds: Sequence[Kind],
    lead: float,
) -> list[Sureness]:
    """How surely each fact is said; arguments as of `says`. A fact is as sure as its least sure prompt."""
    forms = [asked(loaded, fact, contexts, kinds) for fact in facts]
    return [min(min(levels) for levels in told) for told in _levels(loaded, forms, lead)]


def unsaid(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    kinds: Sequence[Kind],
    lead: float = 0.0,
) -> list[list[int]]:
    """Of each fact the numbers of the forms that the model does not answer with the target."""
    forms = [asked(loaded, fact, contexts, kinds) for fact in facts]
    found = _levels(loaded, forms, lead)
    return [
        [form.form.number for form, levels in zip(each, told, strict=True) if min(levels) < Sureness.LED]
        for each, told in zip(forms, found, strict=True)
    ]


def _levels(loaded: LoadedModel, forms: Sequence[Sequence[Asked]], lead: float) -> list[list[list[Sureness]]]:
    """Of each fact, in each of its forms, how surely each prompt is answered."""
    every = [prompt for each in forms for form in each for prompt in form.prompts]
    found = iter(_answered(loaded, every, lead))
    return [[[next(found) for _ in form.prompts] for form in each] for each in forms]


@torch.no_grad()
def _answered(loaded: LoadedModel, every: Sequence[Prompt], lead: float) -> list[Sureness]:
    """How surely each prompt is answered with its target. Nothing is generated: only where all tokens of the
    target are the most probable ones is the answer the target, and then the next token tells its end."""

    def text(ids: Sequence[int]) -> str:
        return loaded.tokenizer.decode(ids, skip_special_tokens=True)

    found: list[Sureness] = []
    for start in range(0, len(every), ROWS):
        prompts = every[start : start + ROWS]
        # The prediction of token t stands at t − 1, that of the token behind the target at its last one.
        tree = Tree.of(prompts)
        pairs = zip(prompts, tree.paths, strict=True)
        at = [place for prompt, path in pairs for place in path[prompt.target_start - 1 :]]
        near = iter(_near(loaded.logits(enter(tree, loaded, len(loaded.layers)).hidden[0, at]), lead))
        for prompt in prompts:
            target = prompt.ids[prompt.target_start :]
            answer, ends = [next(near) for _ in target], next(near)
            ending = [said(text([*target, end]), text(target)) for end in ends]
            if [tokens[0] for tokens in answer] != list(target) or not ending[0]:
                found.append(Sureness.UNSAID)
            else:
                alone = all(len(tokens) == 1 for tokens in answer)
                found.append(Sureness.LED if alone and all(ending) else Sureness.SAID)
    return found


def _near(logits: Tensor, lead: float) -> list[list[int]]:
    """In each row of logits [k, vocabulary] the tokens within `lead` of the most probable one, it first."""
    if not lead:
        return [[token] for token in whole_numbers(logits.argmax(-1))]
    scores, tokens = logits.float().topk(CLOSE, -1)
    within = whole_numbers((scores >= scores[:, :1] - lead).sum(-1))
    return [whole_numbers(row[:count]) for row, count in zip(tokens, within, strict=True)]
