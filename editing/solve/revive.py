"""REVIVE: updates stay out of the directions that the unedited weight itself lives in.

For W₀ = Σ σᵢuᵢvᵢᵀ, every part of an update that touches one of its k leading uᵢ or vᵢ is deleted:

    Δ ← (I − UUᵀ) Δ (I − VVᵀ),   so that UᵀΔ = 0 and ΔV = 0.

Source: arXiv 2601.11042. "revive-after" filters the finished update, as published. "revive" solves
within the constraint, so that what the filter would lose on the right is fitted by the directions left.
"""

from dataclasses import dataclass

from torch import Tensor

from editing.solve.ridge import Factors, Prior
from editing.typed import eigh, norms, orthonormal

#: Eigenvalues of VᵀM₀⁻¹V below this share of their vector's length under M₀⁻¹ are rounding: the prior
#: allows no change there anyway.
CUT = 1e-12


@dataclass(frozen=True)
class Protection:
    """Directions of a weight that updates leave alone.

    Attributes:
        left: U [d, k] float64, orthonormal.
        right: V [d_in, k] float64, orthonormal.
        within: whether the solve knows of them, or its result is filtered only.
    """

    left: Tensor
    right: Tensor
    within: bool = False

    @property
    def after(self) -> bool:
        """Whether the solve reckons with directions that `filtered` then takes away."""
        return not self.within and self.right.shape[1] > 0

    def prior(self, prior: Prior) -> Prior:
        return ProtectedPrior(prior, self.right) if self.within else prior

    def filtered(self, a: Tensor, b: Tensor) -> Factors:
        """Factors of (I − UUᵀ) A Bᵀ (I − VVᵀ), in the dtype given."""
        left, right = a.double(), b.double()
        left, right = left - self.left @ (self.left.T @ left), right - self.right @ (self.right.T @ right)
        return left.to(a.dtype), right.to(b.dtype)


def protection(protect: str, base: Tensor, share: float) -> Protection:
    """What `protect` says for W₀: "revive", "revive-after", or "none"."""
    return unprotected(base) if protect == "none" else dominant(base, share, protect == "revive")


def unprotected(base: Tensor) -> Protection:
    """Nothing is protected: `filtered` gives back the bits it got."""
    d, d_in = base.shape
    return Protection(base.new_zeros(d, 0).double(), base.new_zeros(d_in, 0).double())


def dominant(base: Tensor, share: float, within: bool) -> Protection:
    """The k = share · min(d, d_in) leading singular directions of W₀ (one at least)."""
    weight = base.double()
    if len(weight) > weight.shape[1]:
        turned = dominant(weight.T, share, within)
        return Protection(turned.right, turned.left, within)
    count = max(1, round(share * len(weight)))
    # Leading directions only: the smaller Gram matrix gives them as well as an SVD does, and sooner.
    squares, vectors = eigh(weight @ weight.T)
    left = vectors[:, -count:].flip(1)
    right = orthonormal(weight.T @ left / squares[-count:].flip(0).sqrt())
    return Protection(left, right, within)


class ProtectedPrior:
    """M₀⁻¹ − M₀⁻¹V (VᵀM₀⁻¹V)⁺ VᵀM₀⁻¹: the prior's inverse within V's orthogonal complement.

    Equals N(NᵀM₀N)⁻¹Nᵀ for N a basis of that complement; for AlphaEdit's singular M₀⁻¹ = P/L2 it is
    the projector on what is both in P's range and orthogonal to V, over L2.
    """

    def __init__(self, prior: Prior, directions: Tensor) -> None:
        self._prior = prior
        dear = prior.inverse_times(directions)
        values, vectors = eigh(directions.T @ dear)
        reach = dear @ vectors
        kept = values > CUT * norms(reach, 0)
        # reach · (values)⁻½ gives the correction as a symmetric product.
        self._removed = reach[:, kept] / values[kept].sqrt()
        self._basis = directions @ vectors[:, kept] * values[kept].rsqrt()

    def inverse_times(self, keys: Tensor) -> Tensor:
        plain = self._prior.inverse_times(keys)
        return plain - self._removed @ (self._basis.T @ plain)
