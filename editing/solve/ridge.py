"""The linear algebra shared by all closed-form editors: one ridge problem per weight.

For keys K [d_in, n] and targets V [d, n],

    W = W₀ + (V − W₀K) G⁻¹ Yᵀ,   Y = M₀⁻¹K,   G = εI + KᵀY,

where the prior M₀ [d_in, d_in] says how dear a change of each input direction is. ε = 1 is MEMIT
(eq. 14) and, with M₀⁻¹ = P/L2, AlphaEdit (eq. 14); ε → 0 demands WK = V exactly, which is EMMET and
ROME. With ε = 1 and the keys of all live facts it equals the sequence of single updates in any order
(recursive least squares), so removing a fact is solving without its column.
"""

from typing import Protocol

import torch
from torch import Tensor

from editing.errors import SolveError
from editing.typed import cholesky, eigh, solve_lower

#: A [d, n] and B [d_in, n] of an update A Bᵀ.
Factors = tuple[Tensor, Tensor]


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
        factor, minor = cholesky(weight * moment + (norm_weight + floor) * identity)
        if minor or not torch.isfinite(factor).all():
            raise SolveError(
                f"the second moment is not positive definite (leading minor {minor}); "
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
        values, vectors = eigh(moment.double())
        self.basis = vectors[:, values < threshold]
        self.ridge = ridge
        if not self.basis.shape[1]:
            raise SolveError(
                f"no eigenvalue of the second moment lies below {threshold} "
                f"(smallest {float(values[0]):.3g}); raise the threshold"
            )

    def inverse_times(self, keys: Tensor) -> Tensor:
        return self.basis @ (self.basis.T @ keys) / self.ridge


class NeuronPrior:
    """M₀ = λC + K_pK_pᵀ on some neurons alone, M₀⁻¹ being zero on the others: NSE (arXiv 2410.04045).

    The neurons are those with the largest Σⱼ|Kᵢⱼ|, taken while their share of the whole stays within
    `share` (one at least).

    Args:
        moment: C [d_in, d_in].
        weight: λ.
        past: K_p [d_in, m], keys of earlier facts.
        keys: K [d_in, n], keys about to be written.
        share: of the summed key magnitudes.

    Raises:
        SolveError: M₀ is not positive definite on the neurons chosen.
    """

    def __init__(self, moment: Tensor, weight: float, past: Tensor, keys: Tensor, share: float) -> None:
        size, order = keys.double().abs().sum(dim=1).sort(descending=True, stable=True)
        # Rounding of the cumulative sum must not cost the last neuron when all are wanted.
        within = size.cumsum(0) <= share * size.sum() * (1 + 1e-12)
        self.neurons = order[: max(1, int(within.sum()))].sort().values
        chosen = past.double()[self.neurons]
        system = weight * moment.double()[self.neurons][:, self.neurons] + chosen @ chosen.T
        self._prior = RidgePrior(system, 1.0)

    def inverse_times(self, keys: Tensor) -> Tensor:
        found = torch.zeros_like(keys)
        found[self.neurons] = self._prior.inverse_times(keys[self.neurons])
        return found


def solve(
    base: Tensor,
    keys: Tensor,
    values: Tensor,
    prior: Prior,
    slack: float = 1.0,
    written: Factors | None = None,
    earlier: int = 0,
) -> Factors:
    """Factors of the update: with G = LLᵀ, A = (V − W₀K)L⁻ᵀ [d, n] and B = M₀⁻¹K L⁻ᵀ [d_in, n], float32.

    Column i depends on the first i keys and values alone, so an update grows by columns: those of new
    facts are A = (V − WK)L⁻ᵀ for the weight W that is there, with the new facts' rows and columns of L.

    Args:
        base: W₀ [d, d_in].
        keys: K [d_in, n].
        values: V [d, n].
        prior: M₀.
        slack: ε, how far WK may stay from V.
        written: factors of W − W₀; None: nothing was written.
        earlier: how many of the columns `written` holds; the factors of the others are returned.

    Raises:
        SolveError: keys or values are not finite, or cannot all be given their values.
    """
    if not (torch.isfinite(keys).all() and torch.isfinite(values).all()):
        raise SolveError("a key or value is not finite; the facts of this batch cannot be written")
    keys, values, base = keys.double(), values.double(), base.double()
    b = prior.inverse_times(keys)
    gram = slack * torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device) + keys.T @ b
    factor, minor = cholesky((gram + gram.T) / 2)
    if minor:
        raise SolveError("the prior leaves a key no free direction; write the fact with another method")
    b = solve_lower(factor, b.T)[earlier:].T
    keys, factor = keys[:, earlier:], factor[earlier:, earlier:]
    residual = values[:, earlier:] - base @ keys
    if written is not None:
        residual -= written[0].double() @ (written[1].double().T @ keys)
    a = solve_lower(factor, residual.T).T
    return a.float(), b.float()


def bounded(a: Tensor, b: Tensor) -> Factors:
    """The same update with rank at most 2 · min(d, d_in).

    Beyond it the columns become the dense update, of half that rank: what comes after can again be added
    in columns of its own.
    """
    limit = min(len(a), len(b))
    if a.shape[1] <= 2 * limit:
        return a, b
    identity = torch.eye(limit, dtype=a.dtype, device=a.device)
    if len(a) == limit:
        return identity, (b.double() @ a.double().T).to(b.dtype)
    return (a.double() @ b.double().T).to(a.dtype), identity
