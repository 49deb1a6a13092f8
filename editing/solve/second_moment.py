"""Second moments C = E[k kᵀ] of the edited projections' inputs over text, summed in float64."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DynamicCache

from editing.errors import ModelError, OptionError
from editing.model.capture import each_key
from editing.model.loaded import LoadedModel

#: Tokens for each input dimension of the projection; the estimate's noise falls with its root.
TOKENS_PER_DIMENSION = 10
#: Tokens a sampled document has, and a corpus is cut into.
DOCUMENT_TOKENS = 64
#: Tokens that a sampled chat has behind the beginning of its message: the rest of it, and of the answer as
#: many as there is room for.
CHAT_TOKENS = 32
#: Documents sampled together, and documents whose keys are summed together: bounds of memory.
SAMPLE_ROWS = 240
MOMENT_ROWS = 16
Progress = Callable[[str, float], None]


def token_budget(loaded: LoadedModel, tokens: object = None) -> int:
    """How many tokens the moments are estimated from: `tokens`, or 10 times the FFN's width.

    Raises:
        OptionError: fewer tokens than a key has dimensions.
    """
    if tokens is None:
        return TOKENS_PER_DIMENSION * loaded.ffn_width
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < loaded.ffn_width:
        raise OptionError(
            f"tokens = {tokens!r}: give a whole number of at least {loaded.ffn_width}, the FFN's width; "
            f"{TOKENS_PER_DIMENSION} times that is the default"
        )
    return tokens


def block_rows(tokens: int) -> list[int]:
    """Rows of the blocks that a sampled text of so many tokens is made of."""
    rows = -(-tokens // DOCUMENT_TOKENS)
    return [min(SAMPLE_ROWS, rows - start) for start in range(0, rows, SAMPLE_ROWS)]


@torch.no_grad()
def sample_text(
    loaded: LoadedModel,
    rows: int,
    seed: int,
    done: Callable[[float], None],
    opening: Sequence[int],
    length: int,
) -> Tensor:
    """Text that the model writes itself behind the tokens `opening`: [rows, length] ids."""
    generator = torch.Generator(loaded.device).manual_seed(seed)
    whole = torch.tensor([list(opening)] * rows, device=loaded.device)
    cache, text, ids = DynamicCache(), [whole], whole[:, -1:]
    if len(opening) > 1:
        # Without the head, whose logits of all these positions would fill gigabytes.
        loaded.model.base_model(input_ids=whole[:, :-1], past_key_values=cache, use_cache=True)
    for step in range(len(opening), length):
        logits = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1]
        ids = draw(logits, generator)
        text.append(ids)
        done((step + 1) / length)
    return torch.cat(text, dim=1).cpu()


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row, [rows, 1], by inverting the distribution function.

    `torch.multinomial` draws a number for every token of the vocabulary: on a CPU five times dearer.
    """
    total = logits.float().softmax(-1).cumsum(-1)
    level = torch.rand(len(logits), 1, generator=generator, device=logits.device) * total[:, -1:]
    return torch.searchsorted(total, level, right=True).clamp(max=total.shape[1] - 1)


def separator(loaded: LoadedModel) -> int:
    known = loaded.tokenizer.get_vocab()
    for token in ("<|endoftext|>", loaded.tokenizer.bos_token, loaded.tokenizer.eos_token):
        if token in known:
            return known[token]
    return 0


def corpus_text(loaded: LoadedModel, corpus: Path, tokens: int) -> Tensor:
    """The first `tokens` tokens of a text file, [rows, DOCUMENT_TOKENS] ids.

    Raises:
        ModelError: the file is not UTF-8 text or holds too little of it.
    """
    try:
        with open(corpus, encoding="utf-8") as file:
            text = file.read(12 * tokens)
    except UnicodeDecodeError as error:
        raise ModelError(f"corpus = {corpus}: not UTF-8 text (byte {error.start}); convert it") from error
    ids = torch.tensor(loaded.tokenizer(text)["input_ids"][:tokens])
    rows = len(ids) // DOCUMENT_TOKENS
    if rows * DOCUMENT_TOKENS < loaded.ffn_width:
        raise ModelError(
            f"corpus = {corpus}: {len(ids)} tokens are too few; give at least {loaded.ffn_width}"
        )
    return ids[: rows * DOCUMENT_TOKENS].reshape(rows, DOCUMENT_TOKENS)


@dataclass(frozen=True)
class Sums:
    """Σ k kᵀ over the first rows of a text.

    Attributes:
        totals: layer → [d_in, d_in] float64.
        rows: how many rows are in.
        tokens: how many keys that were.
    """

    totals: dict[int, Tensor]
    rows: int = 0
    tokens: int = 0

    @staticmethod
    def none(loaded: LoadedModel, layers: Sequence[int]) -> "Sums":
        shape, device = (loaded.ffn_width, loaded.ffn_width), loaded.device
        return Sums({layer: torch.zeros(shape, dtype=torch.float64, device=device) for layer in layers})

    def moment(self, layer: int) -> Tensor:
        """C [d_in, d_in] float64."""
        return self.totals[layer].cpu() / self.tokens


def second_moments(loaded: LoadedModel, text: Tensor, sums: Sums) -> Iterator[Sums]:
    """Adds the rows of `text` [rows, length] that `sums` has not, and gives the sums after each batch.

    The same rows are added in the same order wherever it begins, so the bits of the result do not
    depend on interruptions. The totals are added to in place.

    The first position is left out: its state is an attention sink, alike for all texts and many
    times larger than any other.
    """

    def add(layer: int, keys: Tensor) -> None:
        keys = keys[:, 1:].flatten(0, 1).float()
        # Products of a thousand float32 keys lose nothing that matters; their sum is float64.
        sums.totals[layer].add_(keys.T @ keys)

    while sums.rows < len(text):
        batch = text[sums.rows : sums.rows + MOMENT_ROWS]
        each_key(loaded, batch, list(sums.totals), add)
        tokens = batch.shape[0] * (batch.shape[1] - 1)
        sums = Sums(sums.totals, sums.rows + len(batch), sums.tokens + tokens)
        yield sums
