"""Methods that solve for all live facts at once, from the base weights.

The result depends on the set of facts, not on their order; taking one out is solving without its
column, as if it had never been written.
"""

import torch
from torch import Tensor

from editing.memory.state import Table
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.solve.revive import Protection
from editing.solve.ridge import Factors, NullspacePrior, Prior, RidgePrior, bounded, solve


class JointSolver:
    """W = W₀ + (V − W₀K)(I + KᵀM₀⁻¹K)⁻¹(M₀⁻¹K)ᵀ over all live facts.

    New facts add columns to the factors of the earlier ones: recursive least squares, the solve of all at
    once to the rounding of the factors.
    """

    def __init__(self, base: Tensor, prior: Prior, protection: Protection) -> None:
        self._base, self._prior, self._protection = base, protection.prior(prior), protection

    def factors(self, table: Table, written: Factors | None = None, earlier: int = 0) -> Factors:
        if written is None or self._protection.after:
            # A filter after the solve takes from earlier facts what the solve of all counts on.
            written, earlier = None, 0
        new = solve(self._base, table.keys, table.values, self._prior, written=written, earlier=earlier)
        new = self._protection.filtered(*new)
        if written is not None:
            new = torch.cat([written[0], new[0]], dim=1), torch.cat([written[1], new[1]], dim=1)
        return bounded(*new)


def memit_seq(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> JointSolver:
    """M₀ = λC: MEMIT (arXiv 2210.07229) with a cache of earlier keys."""
    return JointSolver(base, RidgePrior(moment, p.prior.moment_weight), protection)


def encore(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> JointSolver:
    """M₀ = λC + λₙI: ENCORE (arXiv 2502.01636); λₙ is the price of total drift ‖W − W₀‖²."""
    return JointSolver(base, RidgePrior(moment, p.prior.moment_weight, p.prior.norm_weight), protection)


def alphaedit(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> JointSolver:
    """M₀⁻¹ = P/L2: AlphaEdit (arXiv 2410.02355) writes only where text has no keys."""
    return JointSolver(
        base, NullspacePrior(moment, p.prior.nullspace_threshold, p.prior.nullspace_ridge), protection
    )


METHODS = {
    "memit-seq": Method(memit_seq, anchors=("nas-cap", "nas", "none")),
    "encore": Method(encore, variant={"finish": "argmax"}),
    "alphaedit": Method(alphaedit),
    # AlphaEdit, with values kept out of the directions of updates that disturb the fact.
    "deltaedit": Method(alphaedit, variant={"finish": "probable"}, bars=True),
}
