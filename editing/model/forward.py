"""Running a decoder's blocks: what editing needs of a forward pass.

The one place that calls transformers' decoder blocks. Where the model's own pass can be used it is,
so that no family's embedding or rotary variant is copied here. Prompts run as one row of tokens without
padding, their common beginnings once; an attention mask keeps them apart (`editing.model.tree`).
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from editing.model.loaded import LoadedModel
from editing.model.row_attention import Grid
from editing.model.tree import Tree

#: What a block gives back: the residual stream, alone or with what else it tells.
Output = Tensor | tuple[Tensor, ...]
#: Positions, or cosines and sines of positions, as models pass them to their blocks.
Placed: TypeAlias = "Tensor | tuple[Placed, ...] | None"


class KeyValues(Protocol):
    """What attention joins to its own keys and values: a cache of transformers, or what stands in for one."""

    def update(self, *new: Any, **named: Any) -> tuple[Tensor, Tensor]: ...


class Stop(Exception):
    """Ends a forward pass once what was asked for is known."""


@contextmanager
def hooks(handles: list[Any]) -> Generator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def nudged(loaded: LoadedModel, layers: Sequence[int]) -> Generator[dict[int, Tensor]]:
    """Adds zeros to the outputs of projections, so that a backward pass gives the loss's gradient by them.

    The weights ask for no gradients. What is yielded has each layer's zeros once the model has run.
    """
    nudges = dict[int, Tensor]()

    def hook(layer: int) -> Callable[..., Tensor]:
        def on_projection(_module: object, _inputs: object, output: Tensor) -> Tensor:
            nudges[layer] = torch.zeros_like(output).requires_grad_(True)
            return output + nudges[layer]

        return on_projection

    with hooks([loaded.projection(layer).register_forward_hook(hook(layer)) for layer in layers]):
        yield nudges


def stream(output: Output) -> Tensor:
    """The residual stream in a block's output; GPT-J returns its attention weights beside it."""
    return output[0] if isinstance(output, tuple) else output


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite value elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


@dataclass
class Attention:
    """What the blocks of one attention window are called with.

    Attributes:
        mask: [1, 1, t, p + t] additive attention mask, of t positions over a prefix of p and themselves.
        rotary: cosines and sines [1, t, …] as the model itself passed them; None where it passed none.
        grid: the same mask by rows, of positions that are suffixes.
    """

    mask: Tensor
    rotary: tuple[Tensor, ...] | None
    grid: Grid | None = None

    def select(self, positions: Tensor, columns: Tensor, row: Tensor, first: Tensor) -> "Attention":
        """Only some positions and columns; rows as in `Suffixes`."""
        mask = self.mask[:, :, positions[:, None], columns]
        rotary = self.rotary and tuple(x[:, positions] for x in self.rotary)
        return Attention(mask, rotary, Grid.of(mask[0, 0], row, first))


@dataclass
class Entering:
    """Prompts before a block.

    Attributes:
        hidden: [1, t, d] the residual stream.
        position: [1, t] position ids.
        attention: window of a block → mask and rotary embedding.
    """

    hidden: Tensor
    position: Tensor
    attention: dict[int | None, Attention]


def enter(tree: Tree, loaded: LoadedModel, block: int, cache: KeyValues | None = None) -> Entering:
    """Prompts before a block (or behind the last), by the model's own pass.

    Args:
        cache: takes keys and values of the blocks that run.
    """
    device, dtype = loaded.device, loaded.model.dtype
    position = torch.tensor([tree.position], device=device)
    unseen = {loaded.window(index) for index in range(len(loaded.layers))}
    seen = {
        window: Attention(additive(tree.allowed(window).to(device), dtype)[None, None], None)
        for window in unseen
    }
    reached: list[Tensor] = []

    def before_block(index: int) -> Callable[..., tuple[Any, ...]]:
        # From `block` on only what the model itself passes to a block is asked for.
        count = 1 if index >= block else len(tree.ids)

        def hook(_module: object, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
            attention = seen[loaded.window(index)]
            attention.rotary = named.get("position_embeddings")
            unseen.discard(loaded.window(index))
            if index == block:
                reached.append(inputs[0])
            if index >= block and not unseen:
                raise Stop
            cut = {name: _first(value, count) for name, value in named.items() if name.startswith("position")}
            mask = attention.mask[:, :, :count, :count]
            hidden = inputs[0][:, :count]
            if "attention_mask" in named:
                return (hidden, *inputs[1:]), named | cut | {"attention_mask": mask}
            # GPT-2 gives its blocks the mask by position.
            return (hidden, inputs[1], mask, *inputs[3:]), named | cut

        return hook

    handles = [
        layer.register_forward_pre_hook(before_block(index), with_kwargs=True)
        for index, layer in enumerate(loaded.layers)
    ]

    def behind_last(_module: object, _inputs: object, output: Output) -> None:
        reached.append(stream(output))
        raise Stop

    handles += [loaded.layers[-1].register_forward_hook(behind_last)]
    with hooks(handles), suppress(Stop):
        loaded.model.base_model(
            input_ids=torch.tensor([tree.ids], device=device),
            position_ids=position,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return Entering(reached[0], position, seen)


def through(
    loaded: LoadedModel, index: int, entering: Entering, cache: KeyValues | None = None, by_rows: bool = False
) -> Entering:
    """The same prompts behind block `index`.

    Args:
        cache: what its attention joins to its own keys and values.
        by_rows: whether attention runs by rows (`editing.model.row_attention`).
    """
    attention = entering.attention[loaded.window(index)]
    named: dict[str, Any] = {loaded.family.cache: cache}
    if by_rows:
        named["grid"] = attention.grid
    output = loaded.layers[index](
        entering.hidden,
        attention_mask=attention.mask,
        position_ids=entering.position,
        position_embeddings=attention.rotary,
        use_cache=cache is not None,
        **named,
    )
    return replace(entering, hidden=stream(output))


def _first(x: Placed, count: int) -> Placed:
    """The first `count` positions of [1, t, …], or of each of several."""
    if isinstance(x, tuple):
        return tuple(_first(part, count) for part in x)
    return None if x is None else x[:, :count]
