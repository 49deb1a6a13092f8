"""Running parts of a decoder: what editing needs of a forward pass, and nothing twice.

The one place that calls transformers' decoder blocks. Right-padded prompts; a position never sees
what comes after it, so padding behind a prompt changes nothing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

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
        outputs: layer → [d, n] float32, its output (the MLP's output).
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
    parts: list[Captured] = [
        _capture_batch(loaded, prompts[i : i + rows], layers) for i in range(0, len(prompts), rows)
    ]
    return Captured(
        *(
            {layer: torch.cat([getattr(part, name)[layer] for part in parts], dim=1) for layer in layers}
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
        def hook(_module, inputs, output):
            found.keys[layer] = at_subject(inputs[0])
            found.outputs[layer] = at_subject(output)

        return hook

    def on_block(layer: int):
        def hook(_module, _inputs, output):
            found.hidden[layer] = at_subject(output)
            if layer == max(layers):
                raise _Stop

        return hook

    handles = [loaded.projection(layer).register_forward_hook(on_projection(layer)) for layer in layers]
    handles += [loaded.layers[layer].register_forward_hook(on_block(layer)) for layer in layers]
    with _hooks(handles):
        with suppress(_Stop):
            loaded.model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found


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


class _Recorder:
    """Records keys and values of a whole pass, layer by layer."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_args, **_kwargs):
        self.seen[layer_idx] = (key, value)
        return key, value


@dataclass
class Suffixes:
    """Prompts ready to be run again from their subject's last token through the layers above one.

    Attributes:
        hidden: [rows, t, d] output of block `layer` from each prompt's subject-last token on.
        output: [rows, d] float32 output of that layer's MLP at the subject-last token.
        mask: [rows, 1, t, p + t] additive attention mask over prefix and suffix.
        position: [rows, t] position ids.
        prefix: keys and values before the subject's last token, for the layers above.
        layer: the layer whose output may be changed.
    """

    hidden: Tensor
    output: Tensor
    mask: Tensor
    position: Tensor
    prefix: _Prefix
    layer: int

    def select(self, rows: Tensor) -> "Suffixes":
        """Only the rows given, in that order."""
        return Suffixes(
            self.hidden[rows],
            self.output[rows],
            self.mask[rows],
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
    ids, mask = pad([p.ids for p in prompts], loaded.tokenizer.pad_token_id, loaded.device)
    rows, device = len(prompts), loaded.device
    start = torch.tensor([p.subject_last for p in prompts], device=device)
    length = mask.sum(1)
    recorder, found = _Recorder(), {}

    def on_block(_module, _inputs, output):
        found["hidden"] = output

    def on_projection(_module, _inputs, output):
        found["output"] = output[torch.arange(rows, device=device), start].float()

    with _hooks(
        [
            loaded.layers[layer].register_forward_hook(on_block),
            loaded.projection(layer).register_forward_hook(on_projection),
        ]
    ):
        _run_blocks(loaded, range(len(loaded.layers)), ids, mask, recorder)
    steps = torch.arange(int((length - start).max()), device=device)
    position = (start[:, None] + steps).clamp(max=ids.shape[1] - 1)
    before = torch.arange(int(start.max()), device=device)
    prefix = _Prefix()
    for index in range(layer + 1, len(loaded.layers)):
        key, value = recorder.seen[index]
        prefix.kept[index] = (key[:, :, : len(before)], value[:, :, : len(before)])
    seen_before = (before[None, :] < start[:, None])[:, None, :].expand(rows, len(steps), len(before))
    causal = (steps[None, :] <= steps[:, None])[None].expand(rows, -1, -1)
    allowed = torch.cat([seen_before, causal], dim=2)[:, None]
    hidden = found["hidden"]
    chosen = hidden.gather(1, position[:, :, None].expand(-1, -1, hidden.shape[2]))
    return Suffixes(
        chosen, found["output"], additive(allowed, hidden.dtype), start[:, None] + steps, prefix, layer
    )


def additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where attention is allowed, the lowest finite value elsewhere."""
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def _run_blocks(loaded: LoadedModel, blocks, ids: Tensor, mask: Tensor, cache: _Recorder) -> Tensor:
    inner = loaded.model.model
    hidden = inner.embed_tokens(ids)
    steps = torch.arange(ids.shape[1], device=ids.device)
    position = steps[None].expand(len(ids), -1)
    allowed = (steps[None, :] <= steps[:, None])[None] & mask[:, None, :]
    allowed = (allowed | torch.eye(len(steps), dtype=torch.bool, device=ids.device))[:, None]
    return _blocks(loaded, blocks, hidden, additive(allowed, hidden.dtype), position, cache)


def _blocks(loaded: LoadedModel, blocks, hidden: Tensor, mask: Tensor, position: Tensor, cache) -> Tensor:
    rotary = loaded.model.model.rotary_emb(hidden, position_ids=position)
    for index in blocks:
        hidden = loaded.layers[index](
            hidden,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            position_embeddings=rotary,
        )
    return hidden


def finish(loaded: LoadedModel, part: Suffixes, hidden: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """Log-probabilities [k, vocabulary] float32 at (row, step) after the layers above `part.layer`.

    Args:
        hidden: [rows, t, d], `part.hidden` or a changed copy of it.
        row, step: [k] which positions are wanted; the head runs on those only.
    """
    blocks = range(part.layer + 1, len(loaded.layers))
    top = _blocks(loaded, blocks, hidden, part.mask, part.position, part.prefix)
    logits = loaded.model.lm_head(loaded.model.model.norm(top[row, step]))
    return logits.float().log_softmax(dim=-1)
