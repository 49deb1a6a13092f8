"""A served model and the parts of it that editing touches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.errors import ModelError
from editing.facts import Fact
from editing.forms import PROMPT, Form, Kind
from editing.model.answers import Speaker
from editing.model.chat import ChatTemplate
from editing.model.checkpoint import checkpoint_hash, editable_checkpoint
from editing.model.dtype import compute_dtype
from editing.model.families import Family, after_head, family_of
from editing.model.output_norm import nearest_input
from editing.model.pretrained import outline, read_config, read_model, read_tokenizer
from editing.model.tokens import Prompt, encode
from editing.typed import opened

#: Prompts kept encoded: more than a batch of a hundred facts has, a few megabytes.
PROMPTS = 16384


@dataclass
class LoadedModel:
    """A causal language model ready to be edited.

    Attributes:
        model: the transformers model in its compute dtype, gradients off.
        tokenizer: its fast tokenizer, padding on the right.
        path: Hugging Face directory of the unedited model, the one that a server loads.
        base_hash: SHA-256 over the checkpoint's files; names everything derived from it.
    """

    model: Any
    tokenizer: Any
    path: Path
    base_hash: str

    @cached_property
    def _encoded(self) -> Callable[[Fact, str, Form | None, bool, bool], Prompt]:
        def encoded(fact: Fact, context: str, form: Form | None, target: bool, allow_first: bool) -> Prompt:
            template = self.chat if form and form.chat else None
            return encode(
                self.tokenizer,
                fact,
                context,
                form=form,
                template=template,
                target=target,
                allow_first=allow_first,
            )

        return lru_cache(PROMPTS)(encoded)

    def encode(
        self,
        fact: Fact,
        context: str = "",
        *,
        form: Form | None = None,
        target: bool = True,
        allow_first: bool = False,
    ) -> Prompt:
        """`editing.model.tokens.encode` with this tokenizer; each prompt is encoded once."""
        # The bare prompt is one form: it is not encoded again under its number.
        form = None if form is not None and form.number == PROMPT else form
        return self._encoded(fact, context, form, target, allow_first)

    @cached_property
    def chat(self) -> ChatTemplate:
        return ChatTemplate(self.tokenizer)

    @property
    def speaker(self) -> Speaker:
        return Speaker(self.model, self.tokenizer, self.chat)

    def chats(self, kinds: Sequence[Kind]) -> bool:
        """Whether forms of these kinds can be asked in chat. Of the bare prompt alone nothing is read."""
        return set(kinds) != {"prompt"} and self.chat.exists

    @property
    def family(self) -> Family:
        return family_of(self.model)

    @property
    def layers(self) -> Any:
        return self.model.get_submodule(self.family.layers)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def projection(self, layer: int) -> Any:
        """The FFN output projection of `layer`: `nn.Linear`, or `Conv1D`."""
        return self.layers[layer].get_submodule(self.family.projection)

    def mlp_output(self, layer: int) -> Any:
        """The module whose output, bias included and times `multiplier`, the MLP adds to the stream."""
        norm = self.family.output_norm
        return self.projection(layer) if norm is None else self.layers[layer].get_submodule(norm)

    @property
    def multiplier(self) -> float:
        """What the MLP's output is multiplied by before it is added to the residual stream."""
        named = self.family.multiplier
        return 1.0 if named is None else float(getattr(self.model.config, named))

    @property
    def ffn_width(self) -> int:
        """d_in, the length of a key."""
        weight = self.projection(0).weight
        return weight.shape[0] if self.family.transposed else weight.shape[1]

    def window(self, layer: int) -> int | None:
        """How many positions, its own included, a position of `layer` attends to; None: all before it."""
        config = self.model.config
        kinds = getattr(config, "layer_types", None)
        if not self.family.windowed or (kinds is not None and kinds[layer] != "sliding_attention"):
            return None
        return config.sliding_window

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [k, vocabulary] of the next token after residual streams [k, d] of the last block."""
        return after_head(self.model, self.model.lm_head(self.model.get_submodule(self.family.norm)(hidden)))

    def tensor_name(self, layer: int) -> str:
        """Name of the FFN output projection of `layer` in the model and its checkpoint."""
        return f"{self.family.layers}.{layer}.{self.family.projection}.weight"

    def stored(self, layers: Sequence[int]) -> dict[str, tuple[Path, str]]:
        """Name of a layer's tensor → the file of the checkpoint that has it, and its name there.

        Raises:
            ModelError: the checkpoint has no such tensor.
        """
        files: dict[str, Path] = {}
        for file in sorted(self.path.glob("*.safetensors")):
            with opened(file) as tensors:
                files |= dict.fromkeys(tensors.keys(), file)
        found: dict[str, tuple[Path, str]] = {}
        for name in map(self.tensor_name, layers):
            # Checkpoints saved without the head, such as the published GPT-2's, leave the prefix out.
            known = name if name in files else name.removeprefix(self.family.prefix)
            if known not in files:
                raise ModelError(f"the checkpoint {self.path.name} has no tensor {name!r}")
            found[name] = files[known], known
        return found

    def base_weights(self, layers: Sequence[int]) -> dict[str, Tensor]:
        """Name → W [d, d_in] float32 of `layers` as the checkpoint has them.

        Raises:
            ModelError: the checkpoint has no such tensor.
        """
        found: dict[str, Tensor] = {}
        for name, (file, known) in self.stored(layers).items():
            with opened(file) as tensors:
                found[name] = self.family.turned(tensors.get_tensor(known).float())
        return found

    @torch.no_grad()
    def set_weight(self, layer: int, weight: Tensor) -> None:
        """Puts W [d, d_in] in place, cast to the compute dtype."""
        parameter = self.projection(layer).weight
        parameter.copy_(self.family.turned(weight).to(parameter.device, parameter.dtype))

    def projected(self, layer: int, output: Tensor, residual: Tensor) -> Tensor:
        """What W k must become for the residual stream to change by `residual`; all are [d, n].

        Args:
            output: W k as it is now.
        """
        norm, wanted = self.family.output_norm, residual / self.multiplier
        if norm is None:
            return output + wanted
        gain = self.family.gain + self.layers[layer].get_submodule(norm).weight.float().cpu()
        return nearest_input(gain, output, wanted)


def outlined_model(name_or_path: str, state_dir: Path) -> LoadedModel:
    """A model with shapes but neither numbers nor tokenizer: enough to find weights in its checkpoint.

    Raises:
        ModelError: unknown family, a quantised checkpoint, or missing files.
    """
    path = editable_checkpoint(name_or_path, state_dir)
    return LoadedModel(outline(path), None, path, checkpoint_hash(path))


def load_model(name_or_path: str, state_dir: Path, dtype: str = "auto") -> LoadedModel:
    """Loads a model of a known family with its gradients off.

    Raises:
        ModelError: unknown family, a quantised checkpoint, missing files, or a tokenizer without character
            offsets.
    """
    path = editable_checkpoint(name_or_path, state_dir)
    config = read_config(path)
    if getattr(config, "use_bidirectional_attention", False):
        raise ModelError(f"{path.name} attends to later tokens; give a causal language model")
    tokenizer = read_tokenizer(path)
    if not tokenizer.is_fast:
        raise ModelError(f"the tokenizer of {path.name} gives no character offsets; save a fast tokenizer")
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Fused attention leaves the capping of attention scores (Gemma 2) out; the served model does not.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    model = read_model(path, compute_dtype(dtype), "eager" if capped else None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(torch.device(device)).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, path, checkpoint_hash(path))
