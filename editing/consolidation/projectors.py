"""What the steps of a consolidation are kept out of."""

from functools import partial

from torch import Tensor

from editing.consolidation.numbers import ConsolidationNumbers
from editing.consolidation.weights import Projector
from editing.install import Installation
from editing.model.loaded import LoadedModel
from editing.solve.crisp import LowCurvature
from editing.solve.revive import dominant


def projectors(install: Installation, numbers: ConsolidationNumbers) -> dict[int, Projector]:
    """Layer → what its steps are projected on."""
    loaded, layers = install.loaded, numbers.layers
    if numbers.protect == "none" or not numbers.epochs:
        return {}
    if numbers.protect == "revive":
        bases = loaded.base_weights(layers)
        return {
            layer: partial(_outside, *_sides(bases[loaded.tensor_name(layer)], numbers, loaded))
            for layer in layers
        }
    inputs = install.moments(layers, loaded.chats(numbers.forms))
    outputs = install.output_moments(layers)
    return {
        layer: LowCurvature(inputs[layer], outputs[layer], numbers.curvature_energy).single
        for layer in layers
    }


def _sides(base: Tensor, numbers: ConsolidationNumbers, loaded: LoadedModel) -> tuple[Tensor, Tensor]:
    found = dominant(base, numbers.protected_share, within=False)
    return found.left.float().to(loaded.device), found.right.float().to(loaded.device)


def _outside(left: Tensor, right: Tensor, change: Tensor) -> Tensor:
    """(I − UUᵀ) Δ (I − VVᵀ)."""
    change = change - left @ (left.T @ change)
    return change - (change @ right) @ right.T
