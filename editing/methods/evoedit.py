"""EvoEdit: a null space that loses the directions of every batch written. Source: arXiv 2510.13851.

P₀ projects on the directions that text does not use, as in AlphaEdit. With every batch of keys K_b it loses
what they reach of it:

    Δ_b = R_b(K_bᵀP_{b−1}K_b + L2·I)⁻¹K_bᵀP_{b−1}
    P_b = P_{b−1} − Q_bQ_bᵀ,    Q_b from the SVD of P_{b−1}K_b

so that P_bK = 0 for all keys K written so far: no later batch changes what they give. In the paper L2 = 1.
"""

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.methods.chain import ChainSolver
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.solve.revive import Protection
from editing.solve.ridge import NullspacePrior
from editing.typed import svd

#: Singular values of P₀K below this share of the largest are the rounding of float32 keys.
CUT = 1e-6


class EvolvedPrior:
    """M₀⁻¹ = P_b/L2.

    All earlier keys K at once: P₀ less the projector on the span of P₀K is what the batches, one after the
    other, leave of it.

    Args:
        text: P₀ and L2.
        past: K [d_in, n].

    Raises:
        SolveError: the keys span the whole null space.
    """

    def __init__(self, text: NullspacePrior, past: Tensor) -> None:
        self._text = text
        left, values, _ = svd(text.basis.T @ past.double())
        kept = values > CUT * values.max() if len(values) else torch.zeros(0, dtype=torch.bool)
        # Q in the coordinates of P₀'s basis.
        self._used = left[:, kept]
        free = text.basis.shape[1]
        if self._used.shape[1] == free:
            raise SolveError(
                f"{past.shape[1]} earlier keys use up the null space of {free} directions; retract facts, "
                "raise nullspace_threshold, or write with another method, such as memit-seq"
            )

    def inverse_times(self, keys: Tensor) -> Tensor:
        inside = self._text.basis.T @ keys
        inside = inside - self._used @ (self._used.T @ inside)
        return self._text.basis @ inside / self._text.ridge


def evoedit(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """X = PK(KᵀPK + L2·I)⁻¹ with the P of the batches before."""
    text = NullspacePrior(moment, p.prior.nullspace_threshold, p.prior.nullspace_ridge)
    return ChainSolver(base, lambda _keys, past: EvolvedPrior(text, past), protection)


METHODS = {"evoedit": Method(evoedit, batched=True)}
