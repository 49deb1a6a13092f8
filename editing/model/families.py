"""The model families that can be edited: where each keeps the parts that editing touches.

All that factd knows of families stands here, also what a server of such a model must be told.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Family:
    """One `model_type` of transformers. Paths are attribute paths.

    Attributes:
        layers: the decoder blocks, from the causal model.
        projection: the FFN output projection W [d, d_in], from a block.
        norm: the norm before the head, from the causal model.
        attention: the attention, from a block.
        output_norm: the norm, from a block, that the MLP's output passes before it is added to the
            residual stream; None where it is added as it is.
        gain: what the weight of that norm is added to for its gain.
        multiplier: what the config calls the number that the MLP's output is multiplied by before it is
            added; None where there is none.
        transposed: whether the projection is stored as Wᵀ [d_in, d], as by `Conv1D`.
        windowed: whether the config's `sliding_window` holds: in all blocks, or in those that its
            `layer_types` names.
        cache: the block's argument for cached keys and values.
        passes_on: whether a block hands arguments that it does not know to its attention.
    """

    layers: str = "model.layers"
    projection: str = "mlp.down_proj"
    norm: str = "model.norm"
    attention: str = "self_attn"
    output_norm: str | None = None
    gain: float = 0.0
    multiplier: str | None = None
    transposed: bool = False
    windowed: bool = False
    cache: str = "past_key_values"
    passes_on: bool = True

    @property
    def mlp(self) -> str:
        """The MLP, from a block."""
        return self.projection.rpartition(".")[0]

    @property
    def prefix(self) -> str:
        """What checkpoints that were saved without the head leave out of names, with its dot."""
        return self.layers.partition(".")[0] + "."

    def turned(self, weight: Tensor) -> Tensor:
        """W as a checkpoint stores it, from W [d, d_in]; and back, for it is its own inverse."""
        return weight.T.contiguous() if self.transposed else weight


PLAIN = Family()
_WINDOWED = Family(windowed=True)
_SANDWICH = Family(output_norm="post_feedforward_layernorm", gain=1.0, windowed=True)

#: Attention and MLP in sequence or in parallel makes no difference: both are added to the same stream.
FAMILIES: dict[str, Family] = {
    "llama": PLAIN,
    "mistral": _WINDOWED,
    "qwen2": _WINDOWED,
    "qwen3": _WINDOWED,
    "gemma": PLAIN,
    "gemma2": _SANDWICH,
    "gemma3_text": _SANDWICH,
    "phi": Family(projection="mlp.fc2", norm="model.final_layernorm"),
    "phi3": _WINDOWED,
    "olmo": PLAIN,
    "olmo2": Family(output_norm="post_feedforward_layernorm"),
    "olmo3": Family(output_norm="post_feedforward_layernorm", windowed=True),
    "granite": Family(multiplier="residual_multiplier"),
    "stablelm": Family(passes_on=False),
    "smollm3": _WINDOWED,
    "glm": PLAIN,
    "glm4": Family(output_norm="post_mlp_layernorm"),
    "gpt2": Family("transformer.h", "mlp.c_proj", "transformer.ln_f", "attn", transposed=True),
    "gptj": Family("transformer.h", "mlp.fc_out", "transformer.ln_f", "attn", cache="layer_past"),
    "gpt_neox": Family(
        "gpt_neox.layers",
        "mlp.dense_4h_to_h",
        "gpt_neox.final_layer_norm",
        "attention",
        cache="layer_past",
    ),
}

#: What the configs of mixtures of experts call their number.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def refusal(config: Mapping[str, Any]) -> str | None:
    """Why a model with this config.json can be neither edited nor served; None where it can be."""
    name = config.get("model_type")
    if any((config.get(key) or 0) > 1 for key in EXPERTS):
        return (
            f"model_type = {name!r} is a mixture of experts: a fact would have to be written into each "
            f"expert that its tokens are sent to; give a dense model of {', '.join(sorted(FAMILIES))}"
        )
    if name not in FAMILIES:
        return f"model_type = {name!r} is not known; known are {', '.join(sorted(FAMILIES))}"
    return None


def family_at(path: Path) -> Family:
    """The family of a Hugging Face directory; the commonest one where it does not say."""
    config = path / "config.json"
    name = json.loads(config.read_bytes()).get("model_type") if config.is_file() else None
    return FAMILIES.get(str(name), PLAIN)


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


def family_of(model: CausalModel) -> Family:
    """The family of a causal model; KeyError when it is none of `FAMILIES`."""
    return FAMILIES[model.config.model_type]


def after_head(model: CausalModel, logits: Tensor) -> Tensor:
    """The model's scores, from what its head put out: Granite divides it, Gemma 2 caps it."""
    scores = logits / (getattr(model.config, "logits_scaling", None) or 1.0)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return scores if cap is None else cap * (scores / cap).tanh()
