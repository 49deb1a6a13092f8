"""Teacher-forced scores and greedy answers of a causal language model.

Prompt and target are tokenised together, so that scored tokens are those the model would see in
running text; decoded text is never encoded again.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from editing.model.answers import Speaker, answers
from editing.model.chat import ChatTemplate
from editing.model.families import CausalModel, after_head, family_of
from editing.model.tokens import Tokenizer, continuation, fill_token, pad
from editing.typed import parts

#: Padded tokens in one forward pass; keeps activations of the bundled model below 100 MB.
BATCH_TOKENS = 1024

#: Rows of logits held at once (vocabulary 49,152 in float32: 50 MB).
HEAD_ROWS = 256

#: Length of a greedy answer; names and short phrases end well before.
ANSWER_TOKENS = 12


@dataclass(frozen=True)
class Encoded:
    """Token ids of a text; those from index `first` on are scored."""

    ids: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class TargetScore:
    """Teacher-forced score of a target.

    Attributes:
        nll: mean negative log-likelihood of its tokens, in nats.
        tokens: number of scored tokens.
        exact: every token is the most probable one.
        hits: how many are.
    """

    nll: float
    tokens: int
    exact: bool
    hits: int = 0


class Scorer:
    """Scores with `model` as it is now, or with some of its weights replaced for the call only.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        weights: parameter name → float tensor [d_out, d_in] used in place of the model's own. The
            model is not touched: this is how the base model is asked while an edited one is loaded.
    """

    def __init__(
        self, model: CausalModel, tokenizer: Tokenizer, weights: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._replaced = {name: _as_parameter(model, name, w) for name, w in (weights or {}).items()}

    @cached_property
    def _speaker(self) -> Speaker:
        return Speaker(self.model, self.tokenizer, ChatTemplate(self.tokenizer))

    def answers(
        self, texts: Sequence[str], tokens: int, *, chat: bool = False, targets: Sequence[str] = ()
    ) -> list[str]:
        """The greedy answer behind each text, or to each chat message, up to its end; see
        `editing.model.answers`."""
        return answers(self._speaker, texts, tokens, chat=chat, weights=self._of_the_body, targets=targets)

    def chatted(self, messages: Sequence[str], tokens: int) -> list[str]:
        """The greedy answer to each chat message, on one line; none from a model without a chat template."""
        if not self._speaker.chat.exists:
            return []
        return [" ".join(text.split()) for text in self.answers(messages, tokens, chat=True)]

    def encode(self, prompt: str, target: str) -> Encoded:
        """Tokens of ``prompt + " " + target``; those that reach past the prompt are the target's."""
        return Encoded(*continuation(self.tokenizer, prompt, target))

    def encode_text(self, text: str, tokens: int | None = None) -> Encoded:
        """A running text: all tokens but the first are scored, or the first `tokens` of those."""
        ids = self.tokenizer(text)["input_ids"]
        return Encoded(tuple(ids if tokens is None else ids[: tokens + 1]), 1)

    def score(self, encoded: Sequence[Encoded]) -> list[TargetScore]:
        """Scores in the order given; an item without scored tokens has NaN and is not exact.

        If the tokens of one item begin those of another, both are read in one row. So two targets of one
        prompt mostly share a pass.
        """
        scores = [TargetScore(math.nan, 0, False)] * len(encoded)
        for i, loss, hit in self._scored(encoded):
            scores[i] = TargetScore(float(loss.mean()), len(loss), bool(hit.all()), int(hit.sum()))
        return scores

    def log_probs(self, encoded: Sequence[Encoded]) -> list[list[float]]:
        """Log-probability of each scored token, in the order given; none for an item without one."""
        found: list[list[float]] = [[] for _ in encoded]
        for i, loss, _ in self._scored(encoded):
            found[i] = [-float(each) for each in loss]
        return found

    def _scored(self, encoded: Sequence[Encoded]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(index, loss of each scored token in nats, whether it is the most probable one)."""
        shared = _shared([i for i, item in enumerate(encoded) if len(item.ids) > item.first], encoded)
        for batch in _batches(list(shared), encoded):
            # Nothing follows the last token, so the model need not read it.
            hidden = self._hidden([encoded[i].ids[:-1] for i in batch])
            read = [(row, i, encoded[i]) for row, longest in enumerate(batch) for i in shared[longest]]
            rows = torch.cat([hidden[row, item.first - 1 : len(item.ids) - 1] for row, _, item in read])
            wanted = torch.tensor([token for _, _, item in read for token in item.ids[item.first :]])
            losses, hits = self._losses(rows, wanted)
            counts = [len(item.ids) - item.first for _, _, item in read]
            found = zip(read, parts(losses, counts), parts(hits, counts), strict=True)
            yield from ((i, loss, hit) for (_, i, _), loss, hit in found)

    def exact(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """For each (prompt, target): is every token of the target the most probable one?"""
        return [score.exact for score in self.score([self.encode(p, t) for p, t in pairs])]

    @torch.inference_mode()
    def next_log_probs(self, prompts: Sequence[str]) -> Tensor:
        """Log-probabilities of the token after each prompt, float32 [prompts, vocabulary]."""
        encoded = [Encoded(tuple(self.tokenizer(p)["input_ids"]), 1) for p in prompts]
        found: dict[int, Tensor] = {}
        for batch in _batches(range(len(encoded)), encoded):
            hidden = self._hidden([encoded[i].ids for i in batch])
            ends = torch.tensor([len(encoded[i].ids) - 1 for i in batch])
            logits = self._head(hidden[torch.arange(len(batch)), ends])
            found.update(zip(batch, torch.log_softmax(logits, -1), strict=True))
        return torch.stack([found[i] for i in range(len(encoded))]).cpu()

    def greedy(self, prompts: Sequence[str], tokens: int = ANSWER_TOKENS) -> list[str]:
        """First line of the greedy continuation of each prompt, stripped."""
        return [(text.strip().splitlines() or [""])[0].strip() for text in self.answers(prompts, tokens)]

    @torch.inference_mode()
    def _hidden(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Final hidden states [rows, longest, d]; right padding never reaches a causal model's past."""
        ids, mask = pad(rows, fill_token(self.tokenizer), self.model.device)
        body, replaced = self.model.base_model, self._of_the_body
        arguments = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": False}
        return torch.func.functional_call(body, replaced, (), arguments).last_hidden_state

    @property
    def _of_the_body(self) -> dict[str, Tensor]:
        """The weights replaced, by their names in the model without its head."""
        prefix = f"{self.model.base_model_prefix}."
        return {name.removeprefix(prefix): weight for name, weight in self._replaced.items()}

    @torch.inference_mode()
    def _head(self, rows: Tensor) -> Tensor:
        """Logits in float32."""
        return after_head(self.model, self.model.get_output_embeddings()(rows).float())

    @torch.inference_mode()
    def _losses(self, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """(loss in nats, token is the most probable one) for each row of hidden states."""
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        asked = parts(wanted.to(rows.device), HEAD_ROWS)
        for part, tokens in zip(parts(rows, HEAD_ROWS), asked, strict=True):
            logits = self._head(part)
            loss = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
            losses.append(loss.double().cpu())
            # With NaN in the row argmax still names a token; such a hit counts for nothing.
            hits.append(((logits.argmax(-1) == tokens) & torch.isfinite(loss)).cpu())
        return torch.cat(losses), torch.cat(hits)


def perplexity(scores: Sequence[TargetScore]) -> float:
    """exp of the mean loss over all scored tokens; infinite when it overflows, NaN without a token."""
    counted = [s for s in scores if s.tokens]
    total = math.fsum(s.nll * s.tokens for s in counted) if counted else math.nan
    try:
        return math.exp(total / max(1, sum(s.tokens for s in counted)))
    except OverflowError:
        return math.inf


def kl_rows(base: Tensor, now: Tensor) -> Tensor:
    """KL(p₀ ‖ p) = Σ p₀ (ln p₀ − ln p) of each row, from log-probabilities, in nats: float64 [rows]."""
    before, after = base.double(), now.double()
    return (before.exp() * (before - after)).sum(-1)


def kl_nats(base: Tensor, now: Tensor) -> float:
    """Mean of `kl_rows`."""
    value = float(kl_rows(base, now).mean())
    return 0.0 if value < 0 else value  # rounding can go below zero; NaN stays NaN


def _as_parameter(model: CausalModel, name: str, weight: Tensor) -> Tensor:
    """`weight` ([d_out, d_in]) in the dtype, device and orientation that the model keeps it in."""
    parameter = model.get_parameter(name)
    return family_of(model).turned(weight).to(parameter.device, parameter.dtype)


def _shared(indices: Sequence[int], encoded: Sequence[Encoded]) -> dict[int, list[int]]:
    """Item to be read → all items whose tokens, without the last, begin its own. Each item appears once.

    Items are sorted by their tokens, so that an item stands right before those that continue it.
    """
    shared: dict[int, list[int]] = {}
    longest: int | None = None
    for i in sorted(indices, key=lambda i: encoded[i].ids[:-1], reverse=True):
        read = encoded[i].ids[:-1]
        if longest is None or encoded[longest].ids[: len(read)] != read:
            longest = i
        shared.setdefault(longest, []).append(i)
    return shared


def _batches(indices: Sequence[int], encoded: Sequence[Encoded]) -> Iterator[list[int]]:
    """Indices in groups of like length whose padded size stays below `BATCH_TOKENS`."""
    batch: list[int] = []
    for i in sorted(indices, key=lambda i: (len(encoded[i].ids), i)):
        if batch and len(encoded[i].ids) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
