"""What a model answers, freely generated."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from editing.model.chat import ChatTemplate
from editing.model.families import CausalModel, after_head
from editing.model.tokens import fill_token, pad
from editing.typed import entries, whole_numbers

#: A turn of a chat: role and content.
Message = dict[str, str]
#: Prompts answered together.
ROWS = 128


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
) -> list[str]:
    """What the model says behind each text by greedy generation, up to its end.

    Args:
        chat: whether the texts are messages of a user, or whole chats that end with one; otherwise the model
            goes on with them.
        weights: of its body, to be used in the place of its own for this call.
    """
    if not texts:
        return []
    prompts, stops = [_prompt(speaker, text, chat) for text in texts], _stops(speaker, chat)
    found: dict[int, str] = {}
    # Prompts of like length run together: little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        told = _continued(speaker, [prompts[i] for i in part], max_new_tokens, stops, weights)
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


def _continued(
    speaker: Speaker,
    prompts: Sequence[Sequence[int]],
    count: int,
    stops: set[int],
    weights: Mapping[str, Tensor],
) -> list[list[int]]:
    """The most probable next tokens of each prompt, up to `count` or the first of `stops`."""
    ids, mask = pad(prompts, fill_token(speaker.tokenizer), speaker.model.device, left=True)
    mask = mask.long()
    cache, told = None, [list[int]() for _ in prompts]
    open_ = [True] * len(prompts)
    for _ in range(count):
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        given = {"input_ids": ids, "attention_mask": mask, "position_ids": position}
        given |= {"past_key_values": cache, "use_cache": True}
        out = torch.func.functional_call(speaker.model.base_model, dict(weights), (), given)
        # Copied: with a slice of bfloat16 oneDNN multiplies 200 times slower.
        last = out.last_hidden_state[:, -1].contiguous()
        logits = after_head(speaker.model, speaker.model.get_output_embeddings()(last))
        cache, ids = out.past_key_values, logits.argmax(-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        known = entries(logits.isfinite().all(-1))
        for row, token in enumerate(whole_numbers(ids[:, 0])):
            # Of logits that are no numbers there is a largest one too; such a model says nothing.
            open_[row] = open_[row] and token not in stops and known[row]
            if open_[row]:
                told[row].append(token)
        if not any(open_):
            break
    return told
