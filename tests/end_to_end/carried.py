"""What an answer computes that spans an exchange of weights: two models of transformers, one cache."""

import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from editing.memory.delta import materialise

TOKENS = 200


class Spoken(NamedTuple):
    """Token ids of prompt and answer, the log-probability of each of the answer, and the prompt's length."""

    ids: list[int]
    log_probs: list[float]
    prompt: int


class Nearest(NamedTuple):
    """So many positions were in the cache at the exchange, and the mean difference of log-probabilities."""

    at: int
    nats: float


def spoken(url: str, prompt: str, begun: threading.Event) -> Spoken:
    """A streamed answer; `begun` is set at its first token."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    body |= {"stream": True, "logprobs": 1, "return_token_ids": True}
    said, log_probs, asked = list[int](), list[float](), list[int]()
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                asked = choice.get("prompt_token_ids") or asked
                said += choice["token_ids"]
                log_probs += choice["logprobs"]["token_logprobs"]
                begun.set()
    assert len(said) == len(log_probs) == TOKENS
    return Spoken(asked + said, log_probs, len(asked))


def models(store: Any, version: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The base and a version of it."""
    old, new = (
        AutoModelForCausalLM.from_pretrained(store.root.parent / "model", dtype=torch.float32).eval()
        for _ in range(2)
    )
    factors = load_file(store.root / "versions" / version / "factors.safetensors")
    for name in {key.rpartition("/")[0] for key in factors}:
        weight = materialise(store.base[name], factors[f"{name}/A"], factors[f"{name}/B"])
        new.get_parameter(name).data.copy_(weight)
    return old, new


def _after(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token after the first, from the logits before it."""
    return logits[:-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]


def _all(model: PreTrainedModel, ids: Tensor) -> Any:
    with torch.no_grad():
        return model(ids[None], use_cache=True)


def carried(old: PreTrainedModel, new: PreTrainedModel, ids: list[int], at: int) -> Tensor:
    """`at` positions computed with the old weights; the new ones read their keys and values."""
    told = torch.tensor(ids)
    before = _all(old, told[:at])
    with torch.no_grad():
        after = new(told[None, at:], past_key_values=before.past_key_values)
    return _after(torch.cat([before.logits[0], after.logits[0]]), told)


def recomputed(old: PreTrainedModel, new: PreTrainedModel, ids: list[int], at: int) -> Tensor:
    """`at` positions computed with the old weights, and then all anew with the new ones."""
    told = torch.tensor(ids)
    return _after(torch.cat([_all(old, told[:at]).logits[0], _all(new, told).logits[0, at:]]), told)


def nearest(compute: Callable[[int], Tensor], log_probs: list[float], prompt: int) -> Nearest:
    """The exchange that explains best what was said: tried everywhere, coarsely and then one by one."""
    told = torch.tensor(log_probs)

    def difference(at: int) -> float:
        return float((compute(at)[prompt - 1 :] - told).abs().mean())

    last = prompt + len(log_probs) - 1
    coarse = min(range(prompt, last, 50), key=difference)
    at = min(range(max(prompt, coarse - 50), min(last, coarse + 51)), key=difference)
    return Nearest(at, difference(at))
