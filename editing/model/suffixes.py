"""Prompts run again and again from their subject's last token, and nothing of them twice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from editing.model.forward import Attention, Entering, enter, hooks, through
from editing.model.loaded import LoadedModel
from editing.model.row_attention import by_rows
from editing.model.tokens import Prompt
from editing.model.tree import Tree


class _Prefix:
    """Keys and values of the tokens before the subjects' last ones, joined to new ones.

    Stands in for a transformers cache: `update` returns the joined tensors and stores nothing, so
    that every optimisation step starts from the same prefix.
    """

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.kept = kept

    def update(
        self, key: Tensor, value: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        kept = self.kept[layer_idx]
        return torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)

    def select(self, tokens: Tensor) -> "_Prefix":
        return _Prefix({layer: (k[:, :, tokens], v[:, :, tokens]) for layer, (k, v) in self.kept.items()})


@dataclass
class Suffixes:
    """Prompts ready to be run again from their subject's last token through the layers above one.

    Attributes:
        hidden: [t, d] output of block `layer` from each prompt's subject-last token on, prompt by prompt.
        row: [t] which prompt a position belongs to, ascending.
        first: [rows] where a prompt's subject-last token is.
        output: [rows, d] float32, what that layer's MLP adds to the stream at the subject-last token.
        attention: window of a block → mask and rotary embedding.
        position: [1, t] position ids.
        prefix: keys and values before the subjects' last tokens, for the layers above.
        layer: the layer whose output may be changed.
    """

    hidden: Tensor
    row: Tensor
    first: Tensor
    output: Tensor
    attention: dict[int | None, Attention]
    position: Tensor
    prefix: _Prefix
    layer: int

    def select(self, rows: Tensor) -> "Suffixes":
        """Only the rows given (ascending), and of the prefix what they see."""
        new = torch.full_like(self.first, -1)
        new[rows] = torch.arange(len(rows), device=rows.device)
        kept = (new[self.row] >= 0).nonzero()[:, 0]
        seen = torch.stack([(a.mask[0, 0, kept] == 0).any(0) for a in self.attention.values()]).any(0)
        columns = seen.nonzero()[:, 0]
        before = len(seen) - len(self.row)
        row = new[self.row[kept]]
        first = _starts(row, len(rows))
        return Suffixes(
            self.hidden[kept],
            row,
            first,
            self.output[rows],
            {w: attention.select(kept, columns, row, first) for w, attention in self.attention.items()},
            self.position[:, kept],
            self.prefix.select(columns[columns < before]),
            self.layer,
        )


def _starts(row: Tensor, count: int) -> Tensor:
    return torch.searchsorted(row, torch.arange(count, device=row.device))


@torch.no_grad()
def suffixes(loaded: LoadedModel, prompts: Sequence[Prompt], layer: int) -> Suffixes:
    """Runs the prompts once and keeps what no change at (subject-last, `layer`) can alter.

    Exact: a change at position s of block `layer`'s output reaches only positions ≥ s of the blocks
    above (algorithms: prefix cache and position pruning).
    """
    tree = Tree.of(prompts, lambda prompt: prompt.subject_last)
    before, device = tree.shared, loaded.device
    # Made without the config it keeps all positions, those out of a sliding window too.
    cache: Any = DynamicCache()
    enter(tree.trunk(), loaded, len(loaded.layers), cache)
    prefix = _Prefix(
        {i: (x.keys[:, :, :before], x.values[:, :, :before]) for i, x in enumerate(cache.layers)}
    )
    lengths = torch.tensor([len(p.ids) - p.subject_last for p in prompts], device=device)
    row = torch.arange(len(prompts), device=device).repeat_interleave(lengths)
    first = _starts(row, len(prompts))
    read = torch.arange(before, len(tree.ids), device=device)
    every = torch.arange(len(tree.ids), device=device)
    entering = enter(tree, loaded, 0)
    attention = {w: x.select(read, every, row, first) for w, x in entering.attention.items()}
    part = Entering(entering.hidden[:, before:], entering.position[:, before:], attention)
    written: list[Tensor] = []

    def on_mlp_output(_module: object, _inputs: object, output: Tensor) -> None:
        written.append(output[0, first])

    with (
        hooks([loaded.mlp_output(layer).register_forward_hook(on_mlp_output)]),
        by_rows(loaded) as rows,
    ):
        for index in range(layer + 1):
            part = through(loaded, index, part, prefix, rows)
    above = {index: kept for index, kept in prefix.kept.items() if index > layer}
    return Suffixes(
        part.hidden[0],
        row,
        first,
        loaded.multiplier * written[0].float(),
        attention,
        part.position,
        _Prefix(above),
        layer,
    )


def finish(loaded: LoadedModel, part: Suffixes, hidden: Tensor, at: Tensor) -> Tensor:
    """Logits [k, vocabulary] after the layers above `part.layer`.

    Args:
        hidden: [t, d], `part.hidden` or a changed copy of it.
        at: [k] which of the t positions are wanted; the head runs on those only.
    """
    entering = Entering(hidden[None], part.position, part.attention)
    with by_rows(loaded) as rows:
        for index in range(part.layer + 1, len(loaded.layers)):
            entering = through(loaded, index, entering, part.prefix, rows)
    return loaded.logits(entering.hidden[0, at])
