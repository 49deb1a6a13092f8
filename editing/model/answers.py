"""What a model answers, freely generated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from editing.model.chat import ChatTemplate
from editing.model.families import CausalModel, after_head
from editing.model.tokens import fill_token, pad
from editing.said import settled
from editing.typed import entries, whole_numbers

#: A turn of a chat: role and content.
Message = dict[str, str]
#: Prompts answered together.
ROWS = 128
#: A common beginning of so many tokens is read once for all prompts: a chat template has some twenty.
SHARED = 8


@dataclass(frozen=True)
class Speaker:
    """A causal language model that can be asked: the model, its tokenizer and its chat template."""

    model: CausalModel
    tokenizer: Any
    chat: ChatTemplate


@torch.no_grad()
def answers(
    speaker: Speaker,
    texts: Sequence[str | list[Message]],
    max_new_tokens: int,
    *,
    chat: bool = False,
    weights: Mapping[str, Tensor] = MappingProxyType({}),
    targets: Sequence[str] = (),
) -> list[str]:
    """What the model says behind each text by greedy generation, up to its end.

    Args:
        chat: whether the texts are messages of a user, or whole chats that end with one; otherwise the model
            goes on with them.
        weights: of its body, to be used in the place of its own for this call.
        targets: of each text; an answer ends too where nothing can change any more that it says the target.
    """
    if not texts:
        return []
    prompts, stops = [_prompt(speaker, text, chat) for text in texts], _stops(speaker, chat)
    found: dict[int, str] = {}
    # Prompts of like length run together: little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        wanted = [targets[i] for i in part] if targets else []
        reader = _Reader.of(speaker, [prompts[i] for i in part], max_new_tokens, weights)
        told = _continued(reader, max_new_tokens, stops, wanted)
        for i, ids in zip(part, told, strict=True):
            found[i] = speaker.tokenizer.decode(ids, skip_special_tokens=True)
    return [found[i] for i in range(len(texts))]


def _prompt(speaker: Speaker, text: str | list[Message], chat: bool) -> list[int]:
    if isinstance(text, str) and not chat:
        return speaker.tokenizer(text.rstrip())["input_ids"]
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    whole = speaker.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return speaker.tokenizer(whole, add_special_tokens=False)["input_ids"]


def _stops(speaker: Speaker, chat: bool) -> set[int]:
    """Tokens that end an answer; servers take those of the generation config too."""
    told: int | list[int] | None = getattr(speaker.model.generation_config, "eos_token_id", None)
    configured = told if isinstance(told, list) else [told]
    behind = speaker.chat.end_of_turn if chat else ()
    return {token for token in (speaker.tokenizer.eos_token_id, *configured, *behind) if token is not None}


@dataclass
class _Reader:
    """Prompts on their way through the model, with what it has read of them.

    Attributes:
        ids: [rows, t] the tokens that are read next, padded on the left.
        mask: [rows, p + t] which of the tokens read and to be read are real.
        cache: of what was read.
    """

    speaker: Speaker
    weights: Mapping[str, Tensor]
    ids: Tensor
    mask: Tensor
    cache: DynamicCache

    @staticmethod
    def of(
        speaker: Speaker, prompts: Sequence[Sequence[int]], count: int, weights: Mapping[str, Tensor]
    ) -> "_Reader":
        """Before the prompts, which will get `count` more tokens; behind their common beginning, if it is
        long."""
        device, fill = speaker.model.device, fill_token(speaker.tokenizer)
        shared, cache = _common(prompts), DynamicCache()
        window: int | None = getattr(speaker.model.config, "sliding_window", None)
        # A window counts the padding behind the common beginning too.
        if shared < SHARED or (window is not None and max(map(len, prompts)) + count > window):
            shared = 0
        ids, mask = pad([prompt[shared:] for prompt in prompts], fill, device, left=True)
        if shared:
            first = torch.tensor([list(prompts[0][:shared])], device=device)
            _Reader(speaker, weights, first, torch.ones_like(first), cache).read()
            cache.batch_repeat_interleave(len(prompts))
        read = torch.ones(len(prompts), shared, dtype=torch.long, device=device)
        return _Reader(speaker, weights, ids, torch.cat([read, mask.long()], dim=1), cache)

    def read(self) -> Tensor:
        """Logits [rows, vocabulary] behind the tokens that stood next."""
        position = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -self.ids.shape[1] :]
        given = {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": position}
        given |= {"past_key_values": self.cache, "use_cache": True}
        model = self.speaker.model
        out = torch.func.functional_call(model.base_model, dict(self.weights), (), given)
        # Copied: with a slice of bfloat16 oneDNN multiplies 200 times slower.
        last = out.last_hidden_state[:, -1].contiguous()
        return after_head(model, model.get_output_embeddings()(last))

    def go_on(self, ids: Tensor) -> None:
        """Reads `ids` [rows, 1] next."""
        self.ids, self.mask = ids, torch.cat([self.mask, torch.ones_like(ids)], dim=1)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """How many first tokens all prompts share; each keeps one of its own, and one prompt shares none."""
    if len(prompts) < 2:
        return 0
    rows = [list(prompt) for prompt in prompts]
    first, last, shared = min(rows), max(rows), 0
    longest = min(map(len, rows)) - 1
    while shared < longest and first[shared] == last[shared]:
        shared += 1
    return shared


def _continued(reader: _Reader, count: int, stops: set[int], targets: Sequence[str] = ()) -> list[list[int]]:
    """The most probable next tokens of each prompt, up to `count`, the first of `stops`, or where it says
    its target."""
    rows, decode = len(reader.ids), reader.speaker.tokenizer.decode
    told, open_ = [list[int]() for _ in range(rows)], [True] * rows
    for _ in range(count):
        logits = reader.read()
        ids = logits.argmax(-1, keepdim=True)
        reader.go_on(ids)
        known = entries(logits.isfinite().all(-1))
        for row, token in enumerate(whole_numbers(ids[:, 0])):
            # Of logits that are no numbers there is a largest one too; such a model says nothing.
            open_[row] = open_[row] and token not in stops and known[row]
            if open_[row]:
                told[row].append(token)
                if targets:
                    open_[row] = not settled(decode(told[row], skip_special_tokens=True), targets[row])
        if not any(open_):
            break
    return told
