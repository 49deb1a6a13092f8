"""Whether a model says facts word for word."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from editing.facts import Fact
from editing.model.forward import enter
from editing.model.loaded import LoadedModel
from editing.model.tree import Tree

#: Prompts in one pass.
ROWS = 64


@torch.no_grad()
def says(loaded: LoadedModel, facts: Sequence[Fact], contexts: Sequence[str] = ("",)) -> list[bool]:
    """Of each fact: is every target token the most probable after its prompt and those before it, behind
    each of the texts `contexts`?"""
    asked = [(fact, context) for fact in facts for context in contexts]
    found = []
    for start in range(0, len(asked), ROWS):
        prompts = [loaded.encode(*pair) for pair in asked[start : start + ROWS]]
        # The last target token is predicted, never read; the prediction of token t stands at t − 1.
        tree = Tree.of([replace(prompt, ids=prompt.ids[:-1]) for prompt in prompts])
        pairs = zip(prompts, tree.paths, strict=True)
        at = [place for prompt, path in pairs for place in path[prompt.target_start - 1 :]]
        best = loaded.logits(enter(tree, loaded, len(loaded.layers)).hidden[0, at]).argmax(-1).tolist()
        for prompt in prompts:
            target = prompt.ids[prompt.target_start :]
            found.append(best[: len(target)] == list(target))
            best = best[len(target) :]
    return [all(found[i : i + len(contexts)]) for i in range(0, len(found), len(contexts))]
