"""UltraEdit and StableEdit: a gradient step a batch, normalised by all that was seen so far.

A column of the table holds the input k of the projection where a fact's answer begins. In the place of a
value it holds the gradient g of the answer's loss by the projection's output there. With mean μ and deviation
σ over all columns up to those of the batch,

    k̂ = (k − μ_k) / σ_k,    ĝ = (g − μ_g) / σ_g,    v = −η ‖k̂‖² ĝ,    ΔW = V (KᵀK + λI)⁻¹ Kᵀ

UltraEdit (arXiv 2505.14679) has λ = 1. StableEdit (arXiv 2605.11836) has λ = 10, begins with the statistics
of a warm-up, and once there are more than d + 1 columns whitens: ĝ = Σ_g^{−½}(g − μ_g).

The statistics follow from the table, so a state restored goes on as it would have. To take a fact out is to
fold the others anew, without it in the statistics either; but later batches keep the gradients that were
measured while it was there.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.memory.state import Table
from editing.methods.chain import Fold
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.solve.ridge import Factors, bounded
from editing.typed import cholesky, eigh

#: Added to a deviation: a dimension that never moved is not divided by zero.
EPSILON = 1e-8
#: Eigenvalues of Σ_g below this share of their mean count as that much. With hardly more columns than
#: dimensions the smallest ones are noise, and whitening would blow them up.
FLOOR = 1e-6


@dataclass(frozen=True)
class LifelongSolver(Fold):
    """The fold over the batches.

    Attributes:
        base: W₀ [d, d_in].
        warmed: K [d_in, n] and G [d, n] of the warm-up.
        rate: η.
        ridge: λ.
        whitens: whether gradients are whitened once there are enough of them.
    """

    base: Tensor
    warmed: tuple[Tensor, Tensor]
    rate: float
    ridge: float
    whitens: bool

    def _step(self, written: Factors, table: Table, columns: slice) -> Factors:
        keys, gradients = table.keys[:, columns].double(), table.values[:, columns].double()
        if not (torch.isfinite(keys).all() and torch.isfinite(gradients).all()):
            raise SolveError("a key or gradient is not finite; the facts of this batch cannot be written")
        all_keys, all_gradients = (
            torch.cat([known.double(), told[:, : columns.stop].double()], dim=1)
            for known, told in zip(self.warmed, (table.keys, table.values), strict=True)
        )
        lengths = scaled(keys, all_keys).square().sum(0)
        values = -self.rate * lengths * self._normal(gradients, all_gradients)
        gram = keys.T @ keys + self.ridge * torch.eye(keys.shape[1], dtype=torch.float64)
        factor, _ = cholesky(gram)
        a = torch.cholesky_solve(values.T, factor).T
        new = a.float(), keys.float()
        return bounded(torch.cat([written[0], new[0]], dim=1), torch.cat([written[1], new[1]], dim=1))

    def _normal(self, gradients: Tensor, seen: Tensor) -> Tensor:
        if self.whitens and seen.shape[1] > len(seen) + 1:
            return whitened(gradients, seen)
        return scaled(gradients, seen)


def scaled(columns: Tensor, seen: Tensor) -> Tensor:
    """(x − μ) / σ, dimension by dimension. Of a single column there is no deviation: it gives zero."""
    centred = columns - seen.mean(1, keepdim=True)
    if seen.shape[1] < 2:
        return centred
    return centred / (seen.std(1, keepdim=True) + EPSILON)


def whitened(columns: Tensor, seen: Tensor) -> Tensor:
    """Σ^{−½}(x − μ)."""
    mean = seen.mean(1, keepdim=True)
    values, vectors = eigh(torch.cov(seen))
    values = values.clamp(min=FLOOR * float(values.mean()))
    return vectors @ ((vectors.T @ (columns - mean)) / values.sqrt()[:, None])


def ultraedit(base: Tensor, warmed: tuple[Tensor, Tensor], p: Parameters) -> LifelongSolver:
    return LifelongSolver(base, warmed, p.lifelong.step_rate, p.lifelong.step_ridge, whitens=False)


def stableedit(base: Tensor, warmed: tuple[Tensor, Tensor], p: Parameters) -> LifelongSolver:
    return LifelongSolver(base, warmed, p.lifelong.step_rate, p.lifelong.step_ridge, whitens=True)


METHODS = {
    "ultraedit": Method(None, steps=ultraedit, placements=("spread", "single"), batched=True),
    "stableedit": Method(None, steps=stableedit, placements=("spread", "single"), batched=True),
}
