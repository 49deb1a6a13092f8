"""What edits did to one weight: measures of E = W − W₀ that need no forward pass.

E is kept as its factors A Bᵀ while they are thinner than the matrix, else as the matrix. A product E X costs
2 (d_out + d_in) r n flops by factors and 2 d_out d_in n by the matrix; the cheaper of the two is taken.
Numbers for Llama-3-8B (4096 × 14336) are given with n = k = 64 columns.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from editing.typed import norms
from monitoring.measuring.spectral import Spectrum, frobenius_norm


@dataclass(frozen=True)
class Change:
    """E = left · rightᵀ; a dense E has `right` None.

    Attributes:
        left: A [d_out, r], or E itself [d_out, d_in].
        right: B [d_in, r] or None.
    """

    left: Tensor
    right: Tensor | None = None

    @classmethod
    def between(cls, base: Tensor, now: Tensor, factors: tuple[Tensor, Tensor] | None = None) -> "Change":
        """The change from `base` to `now` ([d_out, d_in]), by its `factors` (A, B) where they are thin.

        Factors leave out the rounding of W₀ + A Bᵀ to float32: some 1e-7 of ‖W₀‖.
        """
        d_out, d_in = base.shape
        if factors is not None and factors[0].shape[1] * (d_out + d_in) < d_out * d_in:
            return cls(factors[0].to(base.device), factors[1].to(base.device))
        return cls(now - base)

    def times(self, x: Tensor) -> Tensor:
        """E X [d_out, n] for X [d_in, n], in float64 unless E is dense."""
        if self.right is None:
            return self.left @ x.to(self.left)
        return self.left.double() @ (self.right.double().T @ x.double())

    def transposed_times(self, x: Tensor) -> Tensor:
        """Eᵀ X [d_in, n] for X [d_out, n]."""
        if self.right is None:
            return self.left.T @ x.to(self.left)
        return self.right.double() @ (self.left.double().T @ x.double())

    def norm(self) -> float:
        """‖E‖_F; of factors √tr((AᵀA)(BᵀB)), 2 (d_out + d_in) r² flops."""
        if self.right is None:
            return frobenius_norm(self.left)
        a, b = self.left.double(), self.right.double()
        square = float(((a.T @ a) * (b.T @ b)).sum())
        return 0.0 if square < 0 else math.sqrt(square)  # rounding can go below zero; NaN stays NaN


def drift_ratio(change: Change, base: Tensor | float) -> float:
    """‖W − W₀‖_F / ‖W₀‖_F, with W₀ or its norm given."""
    norm = frobenius_norm(base) if isinstance(base, Tensor) else base
    return change.norm() / norm if norm else math.nan


def contact_ratio(change: Change, protected: Spectrum) -> float:
    """‖S(E)‖_F / ‖E‖_F, S(E) = E − (I − UUᵀ) E (I − VVᵀ): what share of a change lies in the dominant
    subspace of the base weight. 0: none of it; 1: all. Can be asked before anything is written.

    ‖S(E)‖² = ‖E V‖² + ‖Uᵀ E (I − VVᵀ)‖²; 4 (d_out + d_in) r k flops by factors, 4 d_out d_in k (15 GFLOP)
    dense. 0 where nothing changed. Source: REVIVE (arXiv 2601.11042), algorithms §3.
    """
    whole = change.norm()
    if not whole:
        return whole
    u, v = protected.left.double(), protected.right.double()
    right = change.times(v).double()  # E V [d_out, k]
    left = change.transposed_times(u).double()  # Eᵀ U [d_in, k]
    left = left - v @ (v.T @ left)
    touched = math.sqrt(float((right**2).sum() + (left**2).sum()))
    return 1.0 if touched > whole else touched / whole


@dataclass(frozen=True)
class HeldKeys:
    """Keys of ordinary text that an edited weight must go on mapping as before.

    Attributes:
        keys: X [d_in, N] float32.
        outputs: W₀ X [d_out, N] float32.
    """

    keys: Tensor
    outputs: Tensor


def held_key_measures(change: Change, held: HeldKeys) -> tuple[float, float]:
    """(protected-key drift, corpus energy ratio), both from the one product E X.

    Drift ‖E X‖_F² / ‖W₀X‖_F². Energy tr(W C Wᵀ) / tr(W₀ C W₀ᵀ) with C = X Xᵀ / N, the mean squared
    output norm over text: ‖W₀X + E X‖_F² / ‖W₀X‖_F². 2 d_out d_in N flops dense (N = 128: 15 GFLOP).
    """
    base, moved = held.outputs.double(), change.times(held.keys).double()
    whole = float((base**2).sum())
    if not whole:
        return math.nan, math.nan
    return float((moved**2).sum()) / whole, float(((base + moved) ** 2).sum()) / whole


def key_errors(weight: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """‖W k_i − v_i‖ / ‖v_i‖ for each column of keys [d_in, n] and wanted values [d_out, n]: float64 [n].

    Says whether facts are still in the weight, without a forward pass: 2 d_out d_in n flops. The keys are
    those recorded when the facts were written. Edits of lower layers may have moved a key since; only
    `retention_ratio` sees that.
    """
    wanted = values.double()
    missed = (weight @ keys.to(weight)).double() - wanted
    return norms(missed, 0) / norms(wanted, 0)
