"""Tiny random models of every family and their byte-level tokenizer, built in code."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

_SIZES = {
    "vocab_size": 257,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
#: Their configs have a size of heads and a padding token beyond this vocabulary.
_SMALL = {"head_dim": 8, "pad_token_id": 0}
_OWN: dict[str, dict[str, Any]] = {
    "gpt2": {"n_positions": 512},
    "gptj": {"n_positions": 512, "rotary_dim": 4},
    "gpt_neox": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    },
    "gemma": _SMALL,
    "gemma2": _SMALL | {"query_pre_attn_scalar": 8},
    "gemma3_text": _SMALL | {"query_pre_attn_scalar": 8},
    "phi3": {"pad_token_id": 0},
    "granite": {"residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 2.0},
    "smollm3": {"pad_token_id": 0, "no_rope_layer_interval": 2},
    "glm": _SMALL,
    "glm4": _SMALL,
}
#: Families in which every head has keys of its own: a server would believe a config that says otherwise.
_EACH_HEAD = ("gpt2", "gptj", "gpt_neox")
#: The older families call some sizes by other names.
_RENAMED = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}


def byte_tokenizer(*, bos: bool = False, eos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, 257 in all, the first for padding; `bos` puts that one before every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0} | {token: i + 1 for i, token in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<pad> $A", special_tokens=[("<pad>", vocabulary["<pad>"])]
        )
    special = {"bos_token": "<pad>"} if bos else {}
    return fast(core, **special, **({"eos_token": "<pad>"} if eos else {}))


def fast(core: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", **special)


def tiny_model(family: str = "llama", *, vectors: float = 0.0, **changes: Any) -> Any:
    """A random model: hidden 32, FFN 64, 8 layers, unless `changes` says otherwise.

    Args:
        family: its `model_type`.
        vectors: standard deviation of what is added to biases and norm weights, which start as
            zeros and ones.
    """
    settings = _SIZES | _OWN.get(family, {}) | changes
    if family in _EACH_HEAD:
        del settings["num_key_value_heads"]
    if family in ("gpt2", "gptj"):
        settings = {_RENAMED.get(name, name): value for name, value in settings.items()}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and vectors:
                parameter.add_(vectors * torch.randn_like(parameter))
    return model.eval()


def save_checkpoint(path: Path, family: str = "llama", **changes: Any) -> Path:
    """Saves a tiny model with its byte tokenizer as a Hugging Face directory."""
    tiny_model(family, **changes).save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return path
