"""Matrices as int8 codes in the format of compressed-tensors, which vLLM serves: W8A8, a scale an output.

Round to nearest: code = round(w / s) with s = max |w| / 127 over a row of W [d, d_in]. The activations are
quantised by the server, token by token.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from daemon.core.errors import ExportError
from editing.model.loaded import LoadedModel

#: The largest code of eight bits: symmetric, so that zero stays zero and -128 is not used.
LARGEST = 127


class Quantising:
    """Which matrices of a checkpoint become codes, and what its config then says.

    Args:
        floating: names of weights that stay as they are, those that are edited live.

    Raises:
        ExportError: the model has no matrices that vLLM takes as codes.
    """

    def __init__(self, model: LoadedModel, floating: Collection[str]) -> None:
        found = [
            name
            for name, module in model.model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not model.model.get_output_embeddings()
        ]
        if model.family.transposed or not found:
            kind = model.model.config.model_type
            raise ExportError(f"a {kind} model stores its matrices transposed; serve it in float")
        self._floating = {name.removesuffix(".weight") for name in floating}
        self._coded = {f"{name}.weight" for name in found if name not in self._floating}
        self._prefix = model.family.prefix

    def rewritten(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file, with codes and scales in the place of what is quantised."""
        made: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            if name in self._coded or f"{self._prefix}{name}" in self._coded:
                made[name], made[f"{name}_scale"] = codes(tensor)
            else:
                made[name] = tensor
        return made

    def config(self) -> dict[str, Any]:
        """What config.json says as `quantization_config`."""
        eight_bits = {"num_bits": 8, "type": "int", "symmetric": True}
        group = {
            "targets": ["Linear"],
            "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
            "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "int-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head", *sorted(self._floating)],
        }


def codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 [d, d_in] and scales [d, 1] of a matrix, in the dtype that it has."""
    wide = weight.float()
    scale = wide.abs().amax(dim=1, keepdim=True) / LARGEST
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    # Rounded first: the server multiplies with the scale as it is stored.
    stored = scale.to(weight.dtype)
    return (wide / stored.float()).round().clamp(-LARGEST, LARGEST).to(torch.int8), stored
