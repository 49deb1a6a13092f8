"""Whether a model says facts word for word."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from editing.facts import Fact
from editing.forms import PROMPT_ONLY, Kind
from editing.model.asked import Asked, asked
from editing.model.forward import enter
from editing.model.loaded import LoadedModel
from editing.model.tokens import Prompt
from editing.model.tree import Tree
from editing.typed import entries

#: Prompts in one pass.
ROWS = 64


def says(
    loaded: LoadedModel,
    facts: Sequence[Fact],
    contexts: Sequence[str] = ("",),
    kinds: Sequence[Kind] = PROMPT_ONLY,
) -> list[bool]:
    """Of each fact: is every target token the most probable after its prompt and those before it, behind
    each of the texts `contexts`, and in each other form of the given kinds?"""
    return [not missing for missing in unsaid(loaded, facts, contexts, kinds)]


def unsaid(
    loaded: LoadedModel, facts: Sequence[Fact], contexts: Sequence[str], kinds: Sequence[Kind]
) -> list[list[int]]:
    """Of each fact the numbers of the forms that the model does not answer with the target."""
    forms = [asked(loaded, fact, contexts, kinds) for fact in facts]
    found = iter(_answered(loaded, [prompt for each in forms for form in each for prompt in form.prompts]))
    return [[form.form.number for form in each if not _all(found, form)] for each in forms]


def _all(found: Iterator[bool], form: Asked) -> bool:
    # All are taken from `found`, wherever the first wrong one is.
    return all([next(found) for _ in form.prompts])


@torch.no_grad()
def _answered(loaded: LoadedModel, every: Sequence[Prompt]) -> list[bool]:
    """Of each prompt: is every target token the most probable after what is before it?"""
    found: list[bool] = []
    for start in range(0, len(every), ROWS):
        prompts = every[start : start + ROWS]
        # The last target token is predicted, never read; the prediction of token t stands at t − 1.
        tree = Tree.of([replace(prompt, ids=prompt.ids[:-1]) for prompt in prompts])
        pairs = zip(prompts, tree.paths, strict=True)
        at = [place for prompt, path in pairs for place in path[prompt.target_start - 1 :]]
        best = entries(loaded.logits(enter(tree, loaded, len(loaded.layers)).hidden[0, at]).argmax(-1))
        for prompt in prompts:
            target = prompt.ids[prompt.target_start :]
            found.append(best[: len(target)] == list(target))
            best = best[len(target) :]
    return found
