"""Attention of many short rows that lie one behind the other in one sequence.

A mask over the whole sequence keeps rows apart too, but most of its products are then thrown away.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from editing.model.loaded import LoadedModel
from editing.model.pretrained import register_attention
from editing.typed import applied

#: Under which transformers finds `_attend`.
NAME = "factd-rows"


@dataclass(frozen=True)
class Grid:
    """Where the tokens of each row lie, rows padded to p prefix and t suffix tokens.

    Attributes:
        tokens: [rows, p + t] places in the sequence of all prefix and then all suffix tokens.
        suffix: [rows · t] places of the suffix tokens, counted from the first of all suffix tokens.
        back: [n] where in `suffix` each suffix token is.
        mask: [rows, 1, t, p + t] additive.
    """

    tokens: Tensor
    suffix: Tensor
    back: Tensor
    mask: Tensor

    @staticmethod
    def of(mask: Tensor, row: Tensor, first: Tensor) -> "Grid":
        """For n suffix tokens behind b prefix tokens.

        Args:
            mask: [n, b + n] additive: 0 where a token attends to another.
            row: [n] of each suffix token, ascending.
            first: [rows] first suffix token of a row.
        """
        count, device = len(first), mask.device
        before = mask.shape[1] - len(row)
        step = torch.arange(len(row), device=device) - first[row]
        width = int(step.max()) + 1
        steps = torch.arange(width, device=device)
        # Behind a row's end some token is repeated, which the mask hides.
        suffix = (first[:, None] + steps).clamp(max=len(row) - 1)
        own = steps < torch.bincount(row, minlength=count)[:, None]
        none = torch.zeros(count, before, device=device)
        seen = none.index_add_(0, row, (mask[:, :before] == 0).float()) > 0
        prefix = (~seen).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(seen.sum(1).max())]
        tokens = torch.cat([prefix, before + suffix], dim=1)
        real = torch.cat([seen.gather(1, prefix), own], dim=1)
        chosen = mask[suffix[:, :, None], tokens[:, None, :]]
        # The lowest finite value: of a row of them the softmax is a number, which nothing reads.
        chosen = chosen.masked_fill(~real[:, None, :], torch.finfo(mask.dtype).min)
        return Grid(tokens, suffix.flatten(), row * width + step, chosen[:, None])


class _Attend(torch.autograd.Function):
    """softmax(QKᵀ · scale + mask)V within rows; Q [1, H, n, e], K and V [1, h, b + n, e], h dividing H.

    No gradient goes to the prefix.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, grid: Grid, scale: float) -> Tensor:
        rows, heads = len(grid.tokens), key.shape[1]
        q = _rows(query, grid.suffix, rows, heads)
        k = _rows(key, grid.tokens.flatten(), rows, heads)
        v = _rows(value, grid.tokens.flatten(), rows, heads)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
        shape = (rows, -1, *grid.mask.shape[2:])
        p = scores.view(shape).add_(grid.mask).softmax(dim=-1).view(scores.shape)
        ctx.save_for_backward(q, k, v, p)
        ctx.grid, ctx.scale, ctx.before = grid, scale, key.shape[2] - query.shape[2]
        return _sequence(torch.bmm(p, v), grid, query.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        q, k, v, p = ctx.saved_tensors
        grid, before = ctx.grid, ctx.before
        rows, prefix = len(grid.tokens), grid.tokens.shape[1] - len(grid.suffix) // len(grid.tokens)
        heads, all_heads = len(k) // rows, above.shape[2]
        padded = above.new_zeros(len(grid.suffix), *above.shape[2:])
        padded[grid.back] = above[0]
        g = _rows(padded.transpose(0, 1)[None], None, rows, heads)
        scores = torch.bmm(g, v.transpose(1, 2))
        scores = torch.ops.aten._softmax_backward_data(scores, p, -1, p.dtype).mul_(ctx.scale)
        to_query = _sequence(torch.bmm(scores, k), grid, all_heads).transpose(1, 2)
        own, weights = scores[:, :, prefix:], p[:, :, prefix:]
        to_key = _sequence(torch.bmm(own.transpose(1, 2), q), grid, heads)
        to_value = _sequence(torch.bmm(weights.transpose(1, 2), g), grid, heads)
        pad = (0, 0, 0, 0, before, 0)
        to_key, to_value = (torch.nn.functional.pad(x, pad).transpose(1, 2) for x in (to_key, to_value))
        return to_query, to_key, to_value, None, None


def _rows(x: Tensor, places: Tensor | None, rows: int, heads: int) -> Tensor:
    """[1, H, n, e] → [rows · heads, H / heads · t, e], query heads of one key head together."""
    size = x.shape[-1]
    x = x[0].transpose(0, 1)
    if places is not None:
        x = x.reshape(len(x), -1).index_select(0, places)
    x = x.reshape(rows, len(x) // rows, heads, -1, size)
    return x.permute(0, 2, 3, 1, 4).reshape(rows * heads, -1, size)


def _sequence(x: Tensor, grid: Grid, heads: int) -> Tensor:
    """[rows · h, heads / h · t, e] → [1, n, heads, e]: `_rows` undone."""
    rows, size = len(grid.tokens), x.shape[-1]
    x = x.view(rows, heads, -1, size).transpose(1, 2).reshape(-1, heads * size)
    return x.index_select(0, grid.back).view(1, -1, heads, size)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    grid: Grid,
    **named: Any,
) -> tuple[Tensor, None]:
    scale = named.get("scaling") or query.shape[-1] ** -0.5
    return applied(_Attend, query, key, value, grid, scale), None


@contextmanager
def by_rows(loaded: LoadedModel) -> Generator[bool]:
    """Meanwhile a model's blocks, called with a `grid`, use this module's attention.

    Yields:
        whether they do: those of models that do not use torch's own attention, or that would not be handed
        the grid, keep theirs.
    """
    config = loaded.model.config
    used = config._attn_implementation
    if used != "sdpa" or not loaded.family.passes_on:
        yield False
        return
    register_attention(NAME, _attend)
    config._attn_implementation = NAME
    try:
        yield True
    finally:
        config._attn_implementation = used
