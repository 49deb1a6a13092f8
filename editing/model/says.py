"""Whether a model says facts word for word."""

from collections.abc import Iterator, Sequence

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


def unsaid(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    contexts: Sequence[str],
    kinds: Sequence[Kind],
    lead: float = 0.0,
) -> list[list[int]]:
    """Of each fact the numbers of the forms that the model does not answer with the target."""
    forms = [asked(loaded, fact, contexts, kinds) for fact in facts]
    every = [prompt for each in forms for form in each for prompt in form.prompts]
    found = iter(_answered(loaded, every, lead))
    return [[form.form.number for form in each if not _all(found, form)] for each in forms]


def _all(found: Iterator[bool], form: Asked) -> bool:
    # All are taken from `found`, wherever the first wrong one is.
    return all([next(found) for _ in form.prompts])


@torch.no_grad()
def _answered(loaded: LoadedModel, every: Sequence[Prompt], lead: float) -> list[bool]:
    """Of each prompt: does the greedy answer say its target? Nothing is generated: only where all tokens of
    the target are the most probable ones is the answer the target, and then the next token tells its end."""

    def text(ids: Sequence[int]) -> str:
        return loaded.tokenizer.decode(ids, skip_special_tokens=True)

    found: list[bool] = []
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
            led = answer == [[token] for token in target]
            found.append(led and all(said(text([*target, end]), text(target)) for end in ends))
    return found


def _near(logits: Tensor, lead: float) -> list[list[int]]:
    """In each row of logits [k, vocabulary] the tokens within `lead` of the most probable one, it first."""
    if not lead:
        return [[token] for token in whole_numbers(logits.argmax(-1))]
    scores, tokens = logits.float().topk(CLOSE, -1)
    within = whole_numbers((scores >= scores[:, :1] - lead).sum(-1))
    return [whole_numbers(row[:count]) for row, count in zip(tokens, within, strict=True)]
