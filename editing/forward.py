"""Running parts of a decoder: what editing needs of a forward pass, and nothing twice.

The one place that calls transformers' decoder blocks. Where the model's own pass can be used it is,
so that no family's embedding or rotary variant is copied here. Prompts run as one row of tokens without
padding, their common beginnings once; an attention mask keeps them apart (`editing.tree`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from editing.model import LoadedModel
from editing.row_attention import Grid, by_rows
from editing.tokens import Prompt
from editing.tree import Tree


class _Stop(Exception):
    """Ends a forward pass once the deepest layer asked for was reached."""


@dataclass
class Captured:
    """What a pass over prompts recorded at each prompt's subject-last token.

    Attributes:
        keys: layer → [d_in, n] float32, input of the FFN output projection.
        outputs: layer → [d, n] float32, what the MLP adds to the residual stream, bias included.
        hidden: layer → [d, n] float32, the block's output (residual stream).
    """

    keys: dict[int, Tensor]
    outputs: dict[int, Tensor]
    hidden: dict[int, Tensor]


@contextmanager
def _hooks(handles: list) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def capture(
    loaded: LoadedModel, prompts: Sequence[Prompt], layers: Sequence[int], rows: int = 128
) -> Captured:
    """Records keys, MLP outputs and block outputs at the subject's last token, up to the deepest layer."""
    # Nothing behind the subject reaches them; prompts of like length run together.
    read = [replace(prompt, ids=prompt.ids[: prompt.subject_last + 1]) for prompt in prompts]
    order = sorted(range(len(read)), key=lambda i: len(read[i].ids))
    parts: list[Captured] = [
        _capture_batch(loaded, [read[i] for i in order[start : start + rows]], layers)
        for start in range(0, len(order), rows)
    ]
    back = torch.tensor(order, device=loaded.device).argsort()
    return Captured(
        *(
            {
                layer: torch.cat([getattr(part, name)[layer] for part in parts], dim=1)[:, back]
                for layer in layers
            }
            for name in ("keys", "outputs", "hidden")
        )
    )


def _capture_batch(loaded: LoadedModel, prompts: Sequence[Prompt], layers: Sequence[int]) -> Captured:
    tree = Tree.of(prompts)
    at = torch.tensor([path[-1] for path in tree.paths], device=loaded.device)
    found = Captured({}, {}, {})

    def at_subject(x: Tensor) -> Tensor:
        return x[0, at].float().T.contiguous()

    def on_projection(layer: int):
        def hook(_module, inputs):
            found.keys[layer] = at_subject(inputs[0])

        return hook

    def on_mlp_output(layer: int):
        def hook(_module, _inputs, output):
            found.outputs[layer] = at_subject(output)

        return hook

    def on_block(layer: int):
        def hook(_module, _inputs, output):
            found.hidden[layer] = at_subject(_stream(output))
            if layer == max(layers):
                raise _Stop

        return hook

    handles = [loaded.projection(layer).register_forward_pre_hook(on_projection(layer)) for layer in layers]
    handles += [loaded.mlp_output(layer).register_forward_hook(on_mlp_output(layer)) for layer in layers]
    handles += [loaded.layers[layer].register_forward_hook(on_block(layer)) for layer in layers]
    with _hooks(handles):
        _run(tree, loaded)
    return found


@torch.no_grad()
def each_key(
    loaded: LoadedModel, ids: Tensor, layers: Sequence[int], use: Callable[[int, Tensor], None]
) -> None:
    """Calls `use` with each layer and its keys [rows, length, d_in] at all positions of `ids`."""

    def hook(layer: int):
        def on_projection(_module, inputs):
            use(layer, inputs[0])
            if layer == max(layers):
                raise _Stop

        return on_projection

    handles = [loaded.projection(layer).register_forward_pre_hook(hook(layer)) for layer in layers]
    with _hooks(handles):
        with suppress(_Stop):
            loaded.model.base_model(input_ids=ids.to(loaded.device), use_cache=False)


def _stream(output: Any) -> Tensor:
    """The residual stream in a block's output; GPT-J returns its attention weights beside it."""
    return output[0] if isinstance(output, tuple) else output


def _run(
    tree: Tree, loaded: LoadedModel, cache: Any = None, whole: int | None = None
) -> dict[int | None, "_Attention"]:
    """Runs the model's own pass; returns what the blocks of each attention window are called with.

    Args:
        cache: takes keys and values.
        whole: above this layer the shared tokens run alone; None: nowhere.
    """
    device, dtype = loaded.device, loaded.model.dtype
    windows = {loaded.window(index) for index in range(len(loaded.layers))}
    seen = {
        window: _Attention(additive(tree.allowed(window).to(device), dtype)[None, None], None)
        for window in windows
    }

    def before_block(index: int):
        # A sequence of no tokens is not for every model.
        count = max(1, tree.shared) if whole is not None and index > whole else len(tree.ids)

        def hook(_module, inputs, named):
            attention = seen[loaded.window(index)]
            attention.rotary = named.get("position_embeddings")
            cut = {name: _first(value, count) for name, value in named.items() if name.startswith("position")}
            mask = attention.mask[:, :, :count, :count]
            hidden = inputs[0][:, :count]
            if "attention_mask" in named:
                return (hidden, *inputs[1:]), named | cut | {"attention_mask": mask}
            # GPT-2 gives its blocks the mask by position.
            return (hidden, inputs[1], mask, *inputs[3:]), named | cut

        return hook

    handles = [
        block.register_forward_pre_hook(before_block(index), with_kwargs=True)
        for index, block in enumerate(loaded.layers)
    ]

    def on_last_block(_module, _inputs, _output):
        raise _Stop

    handles += [loaded.layers[-1].register_forward_hook(on_last_block)]
    with _hooks(handles), suppress(_Stop):
        loaded.model.base_model(
            input_ids=torch.tensor([tree.ids], device=device),
            position_ids=torch.tensor([tree.position], device=device),
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return seen


def _first(x: Any, count: int) -> Any:
    """The first `count` positions of [1, t, …], or of each of several."""
    if isinstance(x, tuple):
        return tuple(_first(part, count) for part in x)
    return None if x is None else x[:, :count]


class _Prefix:
    """Keys and values of the tokens before the subjects' last ones, joined to new ones.

    Stands in for a transformers cache: `update` returns the joined tensors and stores nothing, so
    that every optimisation step starts from the same prefix.
    """

    def __init__(self, kept: dict[int, tuple[Tensor, Tensor]]) -> None:
        self.kept = kept

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs):
        kept = self.kept[layer_idx]
        return torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)

    def select(self, tokens: Tensor) -> "_Prefix":
        return _Prefix({layer: (k[:, :, tokens], v[:, :, tokens]) for layer, (k, v) in self.kept.items()})


@dataclass
class _Attention:
    """What the blocks of one attention window are called with.

    Attributes:
        mask: [1, 1, t, p + t] additive attention mask, of t positions over a prefix of p and themselves.
        rotary: cosines and sines [1, t, …] as the model itself passed them; None where it passed none.
        grid: the same mask by rows, of positions that are suffixes.
    """

    mask: Tensor
    rotary: tuple[Tensor, ...] | None
    grid: Grid | None = None

    def select(self, positions: Tensor, columns: Tensor, row: Tensor, first: Tensor) -> "_Attention":
        """Only some positions and columns; rows as in `Suffixes`."""
        mask = self.mask[:, :, positions[:, None], columns]
        rotary = self.rotary and tuple(x[:, positions] for x in self.rotary)
        return _Attention(mask, rotary, Grid.of(mask[0, 0], row, first))


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
    attention: dict[int | None, _Attention]
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
    from transformers import DynamicCache

    tree = Tree.of(prompts, lambda prompt: prompt.subject_last)
    before = tree.shared
    found: dict[str, Tensor] = {}

    def on_block(_module, _inputs, output):
        found["hidden"] = _stream(output)[0, before:]

    def on_mlp_output(_module, _inputs, output):
        found["output"] = output[0, before:]

    handles = [loaded.layers[layer].register_forward_hook(on_block)]
    handles += [loaded.mlp_output(layer).register_forward_hook(on_mlp_output)]
    # Made without the config it keeps all positions, those out of a sliding window too.
    cache = DynamicCache()
    with _hooks(handles):
        seen = _run(tree, loaded, cache, layer)
    device = loaded.device
    lengths = torch.tensor([len(p.ids) - p.subject_last for p in prompts], device=device)
    row = torch.arange(len(prompts), device=device).repeat_interleave(lengths)
    first = _starts(row, len(prompts))
    kept: dict[int, Any] = {index: cache.layers[index] for index in range(layer + 1, len(loaded.layers))}
    prefix = {index: (x.keys[:, :, :before], x.values[:, :, :before]) for index, x in kept.items()}
    read = torch.arange(before, len(tree.ids), device=device)
    every = torch.arange(len(tree.ids), device=device)
    return Suffixes(
        found["hidden"],
        row,
        first,
        found["output"][first].float(),
        {window: attention.select(read, every, row, first) for window, attention in seen.items()},
        torch.tensor([tree.position[before:]], device=device),
        _Prefix(prefix),
        layer,
    )


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite value elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def finish(loaded: LoadedModel, part: Suffixes, hidden: Tensor, at: Tensor) -> Tensor:
    """Log-probabilities [k, vocabulary] float32 after the layers above `part.layer`.

    Args:
        hidden: [t, d], `part.hidden` or a changed copy of it.
        at: [k] which of the t positions are wanted; the head runs on those only.
    """
    hidden = hidden[None]
    with by_rows(loaded.model.config) as rows:
        for index in range(part.layer + 1, len(loaded.layers)):
            attention = part.attention[loaded.window(index)]
            named: dict[str, Any] = {loaded.family.cache: part.prefix}
            if rows:
                named["grid"] = attention.grid
            hidden = _stream(
                loaded.layers[index](
                    hidden,
                    attention_mask=attention.mask,
                    position_ids=part.position,
                    position_embeddings=attention.rotary,
                    use_cache=True,
                    **named,
                )
            )
    return loaded.logits(hidden[0, at]).float().log_softmax(dim=-1)


def mean_keys(keys: Tensor, contexts: int) -> Tensor:
    """[d_in, n · contexts] → [d_in, n]: half the bare prompt's key, half the others' mean (MEMIT)."""
    grouped = keys.reshape(len(keys), -1, contexts).cpu()
    if contexts == 1:
        return grouped[:, :, 0].contiguous()
    return (grouped[:, :, 0] / 2 + grouped[:, :, 1:].mean(dim=2) / 2).contiguous()
