"""Running parts of a decoder: what editing needs of a forward pass, and nothing twice.

The one place that calls transformers' decoder blocks. Where the model's own pass can be used it is,
so that no family's embedding or rotary variant is copied here. Prompts are padded on the right; a
position never sees what comes after it, so padding behind a prompt changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from editing.model import LoadedModel
from editing.tokens import Prompt, pad


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
    ids, mask = pad([p.ids for p in prompts], loaded.tokenizer.pad_token_id, loaded.device)
    row = torch.arange(len(prompts), device=loaded.device)
    position = torch.tensor([p.subject_last for p in prompts], device=loaded.device)
    found = Captured({}, {}, {})

    def at_subject(x: Tensor) -> Tensor:
        return x[row, position].float().T.contiguous()

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
        with suppress(_Stop):
            loaded.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
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


class _Prefix:
    """Keys and values of the positions before each row's first recomputed one, joined to new ones.

    Stands in for a transformers cache: `update` returns the joined tensors and stores nothing, so
    that every optimisation step starts from the same prefix.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs):
        kept = self.kept[layer_idx]
        return torch.cat([kept[0], key], dim=2), torch.cat([kept[1], value], dim=2)

    def select(self, rows: Tensor) -> "_Prefix":
        chosen = _Prefix()
        chosen.kept = {layer: (k[rows], v[rows]) for layer, (k, v) in self.kept.items()}
        return chosen


@dataclass
class _Attention:
    """What the blocks of one attention window are called with, for the suffixes' positions.

    Attributes:
        mask: [rows, 1, t, p + t] additive attention mask over prefix and suffix.
        rotary: cosines and sines [rows, t, …] as the model itself passed them; None where it passed none.
    """

    mask: Tensor
    rotary: tuple[Tensor, ...] | None

    def select(self, rows: Tensor) -> "_Attention":
        return _Attention(self.mask[rows], self.rotary and tuple(x[rows] for x in self.rotary))


@dataclass
class Suffixes:
    """Prompts ready to be run again from their subject's last token through the layers above one.

    Attributes:
        hidden: [rows, t, d] output of block `layer` from each prompt's subject-last token on.
        output: [rows, d] float32, what that layer's MLP adds to the stream at the subject-last token.
        attention: window of a block → mask and rotary embedding.
        position: [rows, t] position ids.
        prefix: keys and values before the subject's last token, for the layers above.
        layer: the layer whose output may be changed.
    """

    hidden: Tensor
    output: Tensor
    attention: dict[int | None, _Attention]
    position: Tensor
    prefix: _Prefix
    layer: int

    def select(self, rows: Tensor) -> "Suffixes":
        """Only the rows given, in that order."""
        return Suffixes(
            self.hidden[rows],
            self.output[rows],
            {window: attention.select(rows) for window, attention in self.attention.items()},
            self.position[rows],
            self.prefix.select(rows),
            self.layer,
        )


@torch.no_grad()
def suffixes(loaded: LoadedModel, prompts: Sequence[Prompt], layer: int) -> Suffixes:
    """Runs the prompts once and keeps what no change at (subject-last, `layer`) can alter.

    Exact: a change at position s of block `layer`'s output reaches only positions ≥ s of the blocks
    above (algorithms: prefix cache and position pruning).
    """
    from transformers import DynamicCache

    ids, mask = pad([p.ids for p in prompts], loaded.tokenizer.pad_token_id, loaded.device)
    start = torch.tensor([p.subject_last for p in prompts], device=loaded.device)
    row = torch.arange(len(prompts), device=loaded.device)
    above = range(layer + 1, len(loaded.layers))
    rotary: dict[int | None, tuple[Tensor, ...] | None] = {}
    found: dict[str, Tensor] = {}

    def on_block(_module, _inputs, output):
        found["hidden"] = _stream(output)

    def on_mlp_output(_module, _inputs, output):
        found["output"] = output[row, start].float()

    def before_block(index: int):
        def hook(_module, _inputs, named):
            rotary[loaded.window(index)] = named.get("position_embeddings")

        return hook

    handles = [loaded.layers[layer].register_forward_hook(on_block)]
    handles += [loaded.mlp_output(layer).register_forward_hook(on_mlp_output)]
    handles += [
        loaded.layers[index].register_forward_pre_hook(before_block(index), with_kwargs=True)
        for index in above
    ]
    # Made without the config it keeps all positions, those out of a sliding window too.
    cache = DynamicCache()
    with _hooks(handles):
        loaded.model.base_model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
    before = int(start.max())
    steps = torch.arange(int((mask.sum(1) - start).max()), device=loaded.device)
    # Behind a prompt's end the last position is repeated; nothing reads what comes of it.
    position = (start[:, None] + steps).clamp(max=ids.shape[1] - 1)
    hidden = found["hidden"][row[:, None], position]
    prefix = _Prefix()
    for index in above:
        kept: Any = cache.layers[index]
        prefix.kept[index] = (kept.keys[:, :, :before], kept.values[:, :, :before])
    attention = {
        window: _Attention(
            additive(_allowed(start, before, steps, window), hidden.dtype),
            seen and tuple(x.expand(len(row), -1, -1)[row[:, None], position] for x in seen),
        )
        for window, seen in rotary.items()
    }
    return Suffixes(hidden, found["output"], attention, position, prefix, layer)


def _allowed(start: Tensor, before: int, steps: Tensor, window: int | None) -> Tensor:
    """Which of p prefix and t suffix positions each suffix position attends to: [rows, 1, t, p + t]."""
    read = start[:, None] + steps
    first = torch.arange(before, device=start.device).expand(len(start), -1)
    written = torch.cat([first, read], dim=1)
    # A row's own suffix begins before the longest prefix of the batch ends.
    real = torch.cat([first < start[:, None], torch.ones_like(read, dtype=torch.bool)], dim=1)
    distance = read[:, :, None] - written[:, None, :]
    allowed = real[:, None, :] & (distance >= 0)
    return (allowed if window is None else allowed & (distance < window))[:, None]


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite value elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def finish(loaded: LoadedModel, part: Suffixes, hidden: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """Log-probabilities [k, vocabulary] float32 at (row, step) after the layers above `part.layer`.

    Args:
        hidden: [rows, t, d], `part.hidden` or a changed copy of it.
        row, step: [k] which positions are wanted; the head runs on those only.
    """
    for index in range(part.layer + 1, len(loaded.layers)):
        attention = part.attention[loaded.window(index)]
        cache = {loaded.family.cache: part.prefix}
        hidden = _stream(
            loaded.layers[index](
                hidden,
                attention_mask=attention.mask,
                position_ids=part.position,
                position_embeddings=attention.rotary,
                use_cache=True,
                **cache,
            )
        )
    return loaded.logits(hidden[row, step]).float().log_softmax(dim=-1)
