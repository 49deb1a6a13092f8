"""CrispEdit: a change of a weight moves only directions that ability hardly uses. Source: arXiv 2602.15823.

On ordinary text let a be the inputs of a projection and g the gradients of the text's negative log-likelihood
by its outputs. With A = E[a aᵀ] = U_A Λ_A U_Aᵀ and S = E[g gᵀ] = U_S Λ_S U_Sᵀ the loss curves by some
tr(S Δ A Δᵀ) under a change Δ of the weight (K-FAC). A change is projected on what curves it little:

    Δ ← U_S ((U_SᵀΔU_A) ⊙ M) U_Aᵀ,     M_ij = 1 where λˢ_i λᴬ_j ≤ λ_γ, else 0
"""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.model.forward import nudged
from editing.model.loaded import LoadedModel
from editing.solve.second_moment import MOMENT_ROWS
from editing.typed import backward, eigh


class LowCurvature:
    """The projector.

    Args:
        inputs: A [d_in, d_in].
        outputs: S [d, d].
        energy: γ: the directions of largest λˢ_i λᴬ_j that together hold this share of the sum of all do
            not move. The largest product that stays below them is λ_γ.

    Raises:
        SolveError: no direction is left.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor, energy: float) -> None:
        of_inputs, self._right = eigh(inputs.double())
        of_outputs, self._left = eigh(outputs.double())
        # Rounding makes an eigenvalue of zero negative.
        curvature = of_outputs.clamp(min=0)[:, None] * of_inputs.clamp(min=0)
        ordered = curvature.flatten().sort(descending=True).values
        barred = int((ordered.cumsum(0) < energy * ordered.sum()).sum()) + int(energy > 0)
        if barred >= len(ordered):
            raise SolveError(f"curvature_energy = {energy} bars every direction; lower it")
        self.limit = float(ordered[barred])
        self._mask = curvature <= self.limit

    def projected(self, change: Tensor) -> Tensor:
        """Of Δ [d, d_in] what moves only directions left, in its dtype and on its device."""
        left, right, mask = (x.to(change.device) for x in (self._left, self._right, self._mask))
        inside = (left.T @ change.double() @ right) * mask
        return (left @ inside @ right.T).to(change.dtype)

    def single(self, change: Tensor) -> Tensor:
        """The same in float32, for steps of which there are many."""
        left, right, mask = (x.to(change.device) for x in self._singles)
        return left @ ((left.T @ change.float() @ right) * mask) @ right.T

    @cached_property
    def _singles(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._left.float(), self._right.float(), self._mask.float()


def output_moments(
    loaded: LoadedModel, text: Tensor, layers: Sequence[int], done: Callable[[float], None]
) -> dict[int, Tensor]:
    """S [d, d] float64 of each layer over a text, [rows, length] ids.

    The first position is left out, as in second moments, and the last, after which nothing is predicted.
    """
    size, device = loaded.model.config.hidden_size, loaded.device
    totals = {layer: torch.zeros(size, size, dtype=torch.float64, device=device) for layer in layers}
    for start in range(0, len(text), MOMENT_ROWS):
        ids = text[start : start + MOMENT_ROWS].to(device)
        with nudged(loaded, layers) as nudges:
            logits = loaded.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        backward(-logits.log_softmax(-1).gather(2, ids[:, 1:, None]).sum())
        for layer, nudge in nudges.items():
            assert nudge.grad is not None
            gradients = nudge.grad[:, 1:-1].flatten(0, 1).float()
            totals[layer].add_(gradients.T @ gradients)
        done(min(1.0, (start + MOMENT_ROWS) / len(text)))
    tokens = text.shape[0] * (text.shape[1] - 2)
    return {layer: total.cpu() / tokens for layer, total in totals.items()}
