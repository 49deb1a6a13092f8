"""Prompts as one row of tokens: common beginnings once, without padding."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.model.tokens import Prompt


@dataclass(frozen=True)
class Tree:
    """Prompts as one row of tokens in which a token sees its own prompt's earlier ones alone.

    Up to the subject's last token, which a change makes a prompt's own, prompts share their common
    beginnings: contexts and what is put between them and the subject run once for all.

    Attributes:
        ids: tokens; the shared ones, of which there are `shared`, first.
        position: of each token in its prompts.
        paths: of each prompt, where its tokens stand in the row.
    """

    ids: list[int]
    position: list[int]
    paths: list[list[int]]
    shared: int

    @staticmethod
    def of(
        prompts: Sequence[Prompt], shared: Callable[[Prompt], int] = lambda prompt: len(prompt.ids)
    ) -> "Tree":
        """`shared` says how many of a prompt's first tokens it may share."""
        ids: list[int] = []
        position: list[int] = []
        paths: list[list[int]] = []
        known: dict[tuple[int, int], int] = {}
        for prompt in prompts:
            path: list[int] = []
            for token in prompt.ids[: shared(prompt)]:
                branch = (path[-1] if path else -1, token)
                if branch not in known:
                    known[branch] = len(ids)
                    ids.append(token)
                    position.append(len(path))
                path.append(known[branch])
            paths.append(path)
        count = len(ids)
        for prompt, path in zip(prompts, paths, strict=True):
            own = range(len(path), len(prompt.ids))
            path += range(len(ids), len(ids) + len(own))
            ids += prompt.ids[own.start :]
            position += own
        return Tree(ids, position, paths, count)

    def trunk(self) -> "Tree":
        """The shared tokens alone; one token of none, since not every model runs an empty sequence."""
        count = max(1, self.shared)
        paths = [[place for place in path if place < self.shared] for path in self.paths]
        return Tree(self.ids[:count], self.position[:count], paths, count)

    def allowed(self, window: int | None) -> Tensor:
        """Whether a token (row) attends to another (column), [t, t]."""
        found = torch.zeros(len(self.ids), len(self.ids), dtype=torch.bool)
        for path in (torch.tensor(path, dtype=torch.long) for path in self.paths):
            found[path[:, None], path] = torch.ones(len(path), len(path), dtype=torch.bool).tril()
        if window is not None:
            position = torch.tensor(self.position)
            found &= position[:, None] - position < window
        return found
