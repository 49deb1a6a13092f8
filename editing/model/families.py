"""The model families that can be edited: where each keeps the parts that editing touches."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers. Paths are attribute paths.

    Attributes:
        layers: the decoder blocks, from the causal model.
        projection: the FFN output projection W, from a block; `nn.Linear` stores W [d, d_in], `Conv1D`
            (GPT-2) Wᵀ.
        norm: the norm before the head, from the causal model.
        attention: the attention, from a block.
        output_norm: the norm, from a block, that the MLP's output passes before it is added to the
            residual stream; None where it is added as it is.
        windowed: whether the config's `sliding_window` holds: in all blocks, or in those that its
            `layer_types` names.
        cache: the block's argument for cached keys and values.
    """

    layers: str = "model.layers"
    projection: str = "mlp.down_proj"
    norm: str = "model.norm"
    attention: str = "self_attn"
    output_norm: str | None = None
    windowed: bool = False
    cache: str = "past_key_values"

    @property
    def mlp(self) -> str:
        """The MLP, from a block."""
        return self.projection.rpartition(".")[0]


_PLAIN = Family()
_WINDOWED = Family(windowed=True)
_SANDWICH = Family(output_norm="post_feedforward_layernorm", windowed=True)

#: Attention and MLP in sequence or in parallel makes no difference: both are added to the same stream.
FAMILIES: dict[str, Family] = {
    "llama": _PLAIN,
    "mistral": _WINDOWED,
    "qwen2": _WINDOWED,
    "qwen3": _WINDOWED,
    "gemma": _PLAIN,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "phi": Family(projection="mlp.fc2", norm="model.final_layernorm"),
    "gpt2": Family("transformer.h", "mlp.c_proj", "transformer.ln_f", "attn"),
    "gptj": Family("transformer.h", "mlp.fc_out", "transformer.ln_f", "attn", cache="layer_past"),
    "gpt_neox": Family(
        "gpt_neox.layers",
        "mlp.dense_4h_to_h",
        "gpt_neox.final_layer_norm",
        "attention",
        cache="layer_past",
    ),
}


class CausalModel(Protocol):
    """What is asked of a causal language model of transformers, which types little of it."""

    config: Any
    generation_config: Any
    base_model: Any
    base_model_prefix: str
    device: Any
    training: bool

    def get_output_embeddings(self) -> Any: ...

    def get_parameter(self, target: str) -> Tensor: ...

    def get_submodule(self, target: str) -> Any: ...

    def generate(self, **options: Any) -> Tensor: ...


def family_of(model: CausalModel) -> Family:
    """The family of a causal model; KeyError when it is none of `FAMILIES`."""
    return FAMILIES[model.config.model_type]


def soft_capped(model: CausalModel, logits: Tensor) -> Tensor:
    """What the head put out, with the soft cap that Gemma 2 applies after it."""
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * (logits / cap).tanh()
