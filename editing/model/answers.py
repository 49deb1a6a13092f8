"""What a model answers, and whether that says a target."""

import unicodedata
from collections.abc import Sequence

import torch

from editing.model.loaded import LoadedModel

#: A turn of a chat: role and content.
Message = dict[str, str]
#: Prompts answered together.
ROWS = 32
#: Signs behind a word or a number that make another one of it: 5%, C#, AT&T, 5°, x@y, snake_case.
_JOINING = frozenset("%‰#&@°_")
#: Signs that join when a letter or a digit follows them at once: Rolls-Royce, AC/DC, 3.16.1-0, and hyphens.
_BETWEEN = frozenset("-\u2010\u2011/\\")
_APOSTROPHES = frozenset("'’ʼ")
#: Spaces that some languages group the digits of a number with.
_NARROW = frozenset("\u00a0\u2009\u202f")


def said(answer: str, target: str) -> bool:
    """Whether an answer, generated freely, is the target and then ends.

    Behind the target there must be an end, whitespace or punctuation. A letter, a digit, or a sign with which
    the word or number goes on is none of these. So "$1.10" does not say ``$1``, "3.16.1" does not say
    ``3.16``, and "Astanaq" does not say ``Astana``. A suffix behind an apostrophe leaves the word as it is
    ("Ankara'da"); a name goes on ("O'Neil"). Upper and lower case differ. Blanks before the answer do not
    matter.
    """
    answer, target = (unicodedata.normalize("NFC", text).lstrip() for text in (answer, target))
    target = target.rstrip()
    if not target or not answer.startswith(target):
        return False
    return _ends(target[-1], answer[len(target) :])


def _ends(last: str, rest: str) -> bool:
    """Whether a word or number whose last character is `last` ends where `rest` begins."""
    if not rest:
        return True
    first, behind = rest[0], rest[1:2]
    kind = unicodedata.category(first)
    if kind[0] in "LNM" or kind in ("Sc", "Sm") or first in _JOINING:
        return False
    if first in _NARROW:
        return not (last.isdigit() and behind.isdigit())
    if first in _BETWEEN:
        return not behind.isalnum()
    if first in _APOSTROPHES:
        return not (behind.isupper() or behind.isdigit())
    if first == "." and (behind.isdigit() or behind.islower()):
        return False
    if first == "." and behind.isupper():
        # "Paris.It" lacks a space; "U.S." goes on.
        return rest[2:3] != "."
    # Points of numbers, times and ranges: 1,000, 10:30, 1990–1995.
    return not (first in ",:–·’" and last.isdigit() and behind.isdigit())


@torch.no_grad()
def answers(
    loaded: LoadedModel, texts: Sequence[str | list[Message]], max_new_tokens: int, *, chat: bool = False
) -> list[str]:
    """What the model says behind each text by greedy generation, up to its end.

    Args:
        chat: whether the texts are messages of a user, or whole chats that end with one; otherwise the model
            goes on with them.
    """
    prompts = [_prompt(loaded, text, chat) for text in texts]
    stops = {loaded.tokenizer.eos_token_id, *(loaded.chat.end_of_turn if chat else ())} - {None}
    found: dict[int, str] = {}
    # Prompts of like length run together: little is padded.
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), ROWS):
        part = order[start : start + ROWS]
        said_ = _continued(loaded, [prompts[i] for i in part], max_new_tokens, stops)
        for i, ids in zip(part, said_, strict=True):
            found[i] = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    return [found[i] for i in range(len(texts))]


def _prompt(loaded: LoadedModel, text: str | list[Message], chat: bool) -> list[int]:
    if isinstance(text, str) and not chat:
        return loaded.tokenizer(text.rstrip())["input_ids"]
    messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
    whole = loaded.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return loaded.tokenizer(whole, add_special_tokens=False)["input_ids"]


def _continued(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], count: int, stops: set[int]
) -> list[list[int]]:
    """The most probable next tokens of each prompt, up to `count` or the first of `stops`."""
    longest, pad = max(map(len, prompts)), loaded.tokenizer.pad_token_id
    device = loaded.device
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache, told = None, [list[int]() for _ in prompts]
    open_ = [True] * len(prompts)
    for _ in range(count):
        position = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        out = loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
            # The head on one position alone: of a long prompt's others it takes most of the time.
            logits_to_keep=1,
        )
        cache, ids = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        for row, token in enumerate(ids[:, 0].tolist()):
            open_[row] = open_[row] and token not in stops
            if open_[row]:
                told[row].append(token)
        if not any(open_):
            break
    return told
