"""Second moments C = E[k kᵀ] of the edited projections' inputs over text, summed in float64."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from editing.errors import ModelError
from editing.model import LoadedModel

#: Tokens for each input dimension of the projection; the estimate's noise falls with its root.
TOKENS_PER_DIMENSION = 10
#: Tokens a sampled document has, and a corpus is cut into.
DOCUMENT_TOKENS = 64
SAMPLE_ROWS = 240
Progress = Callable[[str, float], None]


def token_budget(loaded: LoadedModel) -> int:
    """How many tokens the moments are estimated from: 10 times the FFN's width."""
    return TOKENS_PER_DIMENSION * loaded.ffn_width


@torch.no_grad()
def sample_text(loaded: LoadedModel, tokens: int, seed: int, progress: Progress) -> Tensor:
    """Text that the model writes itself, from its document separator on: [rows, DOCUMENT_TOKENS] ids."""
    from transformers import DynamicCache

    generator = torch.Generator(loaded.device).manual_seed(seed)
    rows = min(SAMPLE_ROWS, -(-tokens // DOCUMENT_TOKENS))
    documents: list[Tensor] = []
    while len(documents) * rows * DOCUMENT_TOKENS < tokens:
        ids = torch.full((rows, 1), _separator(loaded), device=loaded.device)
        cache, text = DynamicCache(), [ids]
        for step in range(DOCUMENT_TOKENS - 1):
            logits = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]
            ids = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)
            text.append(ids)
            done = len(documents) * rows * DOCUMENT_TOKENS + rows * (step + 2)
            progress("sampling text", min(1.0, done / tokens))
        documents.append(torch.cat(text, dim=1))
    return torch.cat(documents)[: -(-tokens // DOCUMENT_TOKENS)].cpu()


def _separator(loaded: LoadedModel) -> int:
    known = loaded.tokenizer.get_vocab()
    for token in ("<|endoftext|>", loaded.tokenizer.bos_token, loaded.tokenizer.eos_token):
        if token in known:
            return known[token]
    return 0


def corpus_text(loaded: LoadedModel, corpus: Path, tokens: int) -> Tensor:
    """The first `tokens` tokens of a text file, [rows, DOCUMENT_TOKENS] ids.

    Raises:
        ModelError: the file holds too little text.
    """
    text = Path(corpus).read_text(encoding="utf-8")[: 12 * tokens]
    ids = torch.tensor(loaded.tokenizer(text)["input_ids"][:tokens])
    rows = len(ids) // DOCUMENT_TOKENS
    needed = loaded.ffn_width
    if rows * DOCUMENT_TOKENS < needed:
        raise ModelError(f"corpus = {corpus}: {len(ids)} tokens are too few; give at least {needed}")
    return ids[: rows * DOCUMENT_TOKENS].reshape(rows, DOCUMENT_TOKENS)


class _Deepest(Exception):
    """Ends a pass above the deepest layer wanted."""


@torch.no_grad()
def second_moments(
    loaded: LoadedModel, text: Tensor, layers: Sequence[int], progress: Progress, rows: int = 16
) -> dict[int, Tensor]:
    """C [d_in, d_in] float64 of each layer over all positions of `text` [rows, length].

    The first position is left out: its state is an attention sink, alike for all texts and many
    times larger than any other.
    """
    sums: dict[int, Tensor] = {}
    count = 0

    def hook(layer: int):
        def record(_module, inputs):
            keys = inputs[0][:, 1:].flatten(0, 1).float()
            # Products of a few thousand float32 keys lose nothing that matters; their sum is float64.
            sums[layer] = sums.get(layer, 0) + (keys.T @ keys).double()
            if layer == max(layers):
                raise _Deepest

        return record

    handles = [loaded.projection(layer).register_forward_pre_hook(hook(layer)) for layer in layers]
    try:
        for start in range(0, len(text), rows):
            batch = text[start : start + rows].to(loaded.device)
            with suppress(_Deepest):
                loaded.model.base_model(input_ids=batch, use_cache=False)
            count += batch.shape[0] * (batch.shape[1] - 1)
            progress("second moments", min(1.0, (start + rows) / len(text)))
    finally:
        for handle in handles:
            handle.remove()
    return {layer: total.cpu() / count for layer, total in sums.items()}
