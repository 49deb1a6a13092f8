"""Whether a model says facts word for word."""

from collections.abc import Sequence

import torch

from editing.facts import Fact
from editing.model import LoadedModel
from editing.tokens import encode, pad

#: Prompts in one pass.
ROWS = 64


@torch.no_grad()
def says(loaded: LoadedModel, facts: Sequence[Fact]) -> list[bool]:
    """Of each fact: is every target token the most probable after the bare prompt and those before it?"""
    prompts = [encode(loaded.tokenizer, fact) for fact in facts]
    found = [False] * len(facts)
    # Prompts of like length run together.
    order = sorted(range(len(facts)), key=lambda i: len(prompts[i].ids))
    for start in range(0, len(order), ROWS):
        batch = order[start : start + ROWS]
        ids, mask = pad([prompts[i].ids for i in batch], loaded.tokenizer.pad_token_id, loaded.device)
        body = loaded.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        for row, i in enumerate(batch):
            prompt = prompts[i]
            # The prediction of token t stands at position t − 1.
            read = slice(prompt.target_start - 1, len(prompt.ids) - 1)
            best = loaded.model.get_output_embeddings()(body.last_hidden_state[row, read]).argmax(-1)
            found[i] = best.tolist() == list(prompt.ids[prompt.target_start :])
    return found
