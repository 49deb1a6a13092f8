"""Reading checkpoints with transformers, whose loaders ship without types: they are called here alone."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)


def read_config(path: Path) -> Any:
    return AutoConfig.from_pretrained(path)


def read_tokenizer(path: Path) -> Any:
    return AutoTokenizer.from_pretrained(path)


def read_model(path: Path, dtype: torch.dtype, attention: str | None) -> Any:
    """A causal language model.

    Args:
        attention: transformers' name of an implementation; None: the one that it prefers.
    """
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, attn_implementation=attention)


def outline(path: Path) -> Any:
    """A causal language model with shapes but no numbers."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))


def register_attention(name: str, attend: Callable[..., tuple[Tensor, None]]) -> None:
    """Makes an implementation of attention known to transformers' models."""
    AttentionInterface.register(name, attend)


def dequantise(source: str, gguf: str, folder: Path) -> None:
    """Writes a Llama model and its tokenizer, read from a GGUF file, as a plain float32 checkpoint."""
    quantised: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf, dtype=torch.float32)
    # A model that carries a GGUF quantisation config refuses save_pretrained: rebuild a plain one.
    settings = {k: v for k, v in quantised.config.to_dict().items() if k != "quantization_config"}
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source, gguf_file=gguf)
    tokenizer.save_pretrained(folder)
