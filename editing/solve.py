"""The linear algebra shared by all closed-form editors: one joint ridge problem per weight.

For recorded keys K [d_in, n] and targets V [d, n] of all live facts,

    W = W₀ + (V − W₀K) G⁻¹ Yᵀ,   Y = M₀⁻¹K,   G = I + KᵀY,

where the prior M₀ [d_in, d_in] says how dear a change of each input direction is. It equals the
sequence of single updates in any order (recursive least squares), so removing a fact is solving
without its column. Source: MEMIT eq. 14 with a key cache; AlphaEdit eq. 14 (M₀⁻¹ = P/L2).
"""

from typing import Protocol

import torch
from torch import Tensor

from editing.errors import SolveError


class Prior(Protocol):
    """What a solver knows of old knowledge."""

    def inverse_times(self, keys: Tensor) -> Tensor:
        """M₀⁻¹ K for K [d_in, n] float64."""
        ...


class RidgePrior:
    """M₀ = λC + λₙI: MEMIT (λₙ = 0) and ENCORE's norm term.

    Args:
        moment: C [d_in, d_in], the uncentred second moment of keys over text.
        weight: λ, how many text tokens an old association is worth.
        norm_weight: λₙ, penalty of total drift ‖W − W₀‖².

    Raises:
        SolveError: M₀ is not positive definite.
    """

    def __init__(self, moment: Tensor, weight: float, norm_weight: float = 0.0) -> None:
        moment = moment.double()
        identity = torch.eye(len(moment), dtype=torch.float64, device=moment.device)
        # A moment of fewer tokens than dimensions is singular; a millionth of its mean eigenvalue is
        # below what any key can feel.
        floor = 1e-6 * float(moment.diagonal().mean()) * weight
        factor, info = torch.linalg.cholesky_ex(weight * moment + (norm_weight + floor) * identity)
        if int(info) or not torch.isfinite(factor).all():
            raise SolveError(
                f"the second moment is not positive definite (leading minor {int(info)}); "
                "estimate it from more tokens"
            )
        self.factor = factor

    def inverse_times(self, keys: Tensor) -> Tensor:
        return torch.cholesky_solve(keys, self.factor)


class NullspacePrior:
    """M₀⁻¹ = P/L2, P the projector on directions that text does not use: AlphaEdit.

    Args:
        moment: C [d_in, d_in].
        threshold: eigenvalues of C below it span the null space.
        ridge: L2.

    Raises:
        SolveError: no eigenvalue lies below the threshold.
    """

    def __init__(self, moment: Tensor, threshold: float, ridge: float) -> None:
        values, vectors = torch.linalg.eigh(moment.double())
        self.basis = vectors[:, values < threshold]
        self.ridge = ridge
        if not self.basis.shape[1]:
            raise SolveError(
                f"no eigenvalue of the second moment lies below {threshold} "
                f"(smallest {float(values[0]):.3g}); raise the threshold"
            )

    def inverse_times(self, keys: Tensor) -> Tensor:
        return self.basis @ (self.basis.T @ keys) / self.ridge


def solve(base: Tensor, keys: Tensor, values: Tensor, prior: Prior) -> tuple[Tensor, Tensor]:
    """Factors of the joint update: A = (V − W₀K)G⁻¹ [d, n] and B = M₀⁻¹K [d_in, n], float32.

    Args:
        base: W₀ [d, d_in].
        keys: K [d_in, n].
        values: V [d, n].
        prior: M₀.

    Raises:
        SolveError: keys or values are not finite.
    """
    if not (torch.isfinite(keys).all() and torch.isfinite(values).all()):
        raise SolveError("a key or value is not finite; the facts of this batch cannot be written")
    keys, values, base = keys.double(), values.double(), base.double()
    b = prior.inverse_times(keys)
    gram = torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device) + keys.T @ b
    factor = torch.linalg.cholesky((gram + gram.T) / 2)
    a = torch.cholesky_solve((values - base @ keys).T, factor).T
    return a.float(), b.float()
