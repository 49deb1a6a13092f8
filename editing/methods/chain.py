"""Methods that write batch after batch: W_b = W_{b−1} + (V_b − W_{b−1}K_b) X_bᵀ, from the base weights on.

X_b is the method's. The table records each fact's batch, so the weights are a pure fold over it. Taking a
fact out folds the others anew: deterministic, but not what would have come of never writing the fact,
since the values of later batches were found on weights that held it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from editing.memory.state import Table
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.methods.regularise import conditioned, sparse
from editing.solve.revive import Protection
from editing.solve.ridge import Factors, NeuronPrior, Prior, RidgePrior, bounded, solve
from editing.typed import largest_singular_value


class Fold(ABC):
    """Writes batch after batch: `Solver` of the methods whose weights are a fold over the table.

    Attributes:
        base: W₀ [d, d_in].
    """

    base: Tensor

    def factors(self, table: Table, written: Factors | None = None, earlier: int = 0) -> Factors:
        if written is None:
            d, d_in = self.base.shape
            written, earlier = (self.base.new_zeros(d, 0), self.base.new_zeros(d_in, 0)), 0
        for columns in (batch for batch in table.by_batch() if batch.start >= earlier):
            for part in self._parts(columns):
                written = self._step(written, table, part)
        return written

    def _parts(self, columns: slice) -> Iterator[slice]:
        """The columns of a batch in the pieces that are written one after the other."""
        yield columns

    @abstractmethod
    def _step(self, written: Factors, table: Table, columns: slice) -> Factors:
        """The factors of the whole update, with those columns, from the factors of the one without."""


@dataclass(frozen=True)
class ChainSolver(Fold):
    """The fold of small solves.

    Attributes:
        base: W₀ [d, d_in].
        prior: (keys of the batch, keys of all earlier batches) → M₀.
        protection: filters every batch's update.
        slack: number of facts in a batch → ε of `solve`.
        singly: whether every fact is a batch of its own.
        of_batch: (W_{b−1}, a batch's factors) → the factors written in their stead.
        of_total: (W₀, the whole update's factors) → the factors kept in their stead.
        carried: M₀ of the solve of all facts so far, where what a projection took is made up for later.
    """

    base: Tensor
    prior: Callable[[Tensor, Tensor], Prior]
    protection: Protection
    slack: Callable[[int], float] = lambda _facts: 1.0
    singly: bool = False
    of_batch: Callable[[Tensor, Factors], Factors] | None = None
    of_total: Callable[[Tensor, Factors], Factors] | None = None
    carried: Prior | None = None

    def _parts(self, columns: slice) -> Iterator[slice]:
        step = 1 if self.singly else columns.stop - columns.start
        for start in range(columns.start, columns.stop, step):
            yield slice(start, start + step)

    def _step(self, written: Factors, table: Table, columns: slice) -> Factors:
        new = self._solved(written, table, columns)
        if self.of_batch is not None:
            a, b = (factor.double() for factor in written)
            new = self.of_batch(self.base.double() + a @ b.T, new)
        new = self.protection.filtered(*new)
        total = torch.cat([written[0], new[0]], dim=1), torch.cat([written[1], new[1]], dim=1)
        if self.of_total is not None:
            total = self.of_total(self.base, total)
        return bounded(*total)

    def _solved(self, written: Factors, table: Table, columns: slice) -> Factors:
        if self.carried is not None:
            joint = self.protection.prior(self.carried)
            return self._missing(written, table, columns.stop, joint)
        keys = table.keys[:, columns].double()
        prior = self.protection.prior(self.prior(keys, table.keys[:, : columns.start]))
        return solve(self.base, keys, table.values[:, columns], prior, self.slack(keys.shape[1]), written)

    def _missing(self, written: Factors, table: Table, stop: int, prior: Prior) -> Factors:
        """What the update D_{b−1} lacks of the joint solution of the first `stop` columns.

        That is the compensated update of arXiv 2605.26670. With C_b = λC + KKᵀ over all keys so far,

            E_b = (R(Δ_b) − Δ_b)C_b,   Δ_b = (R_bK_bᵀ − E_{b−1})C_b⁻¹   ⇒   (D_{b−1} + Δ_b)C_b = Σ (V − W₀K)Kᵀ

        so that of all projections R only the last is felt.
        """
        a, b = solve(self.base, table.keys[:, :stop], table.values[:, :stop], prior)
        return torch.cat([a, -written[0]], dim=1), torch.cat([b, written[1]], dim=1)


def memit(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """X = (λC + KKᵀ)⁻¹K: MEMIT (arXiv 2210.07229 eq. 14); nothing is remembered but the weights."""
    ridge = RidgePrior(moment, p.prior.moment_weight)
    return ChainSolver(base, lambda _keys, _past: ridge, protection)


def emmet(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """X = (λC)⁻¹K(Kᵀ(λC)⁻¹K + εI)⁻¹: EMMET (arXiv 2403.14236), the batch's values all but exact.

    ε is zero for a single fact. Equals MEMIT with ελ in the place of λ.
    """
    ridge = RidgePrior(moment, p.prior.moment_weight)
    return ChainSolver(
        base, lambda _keys, _past: ridge, protection, lambda n: p.batch.slack if n > 1 else 0.0
    )


def rome(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """X = C⁻¹k / kᵀC⁻¹k, one fact at a time: ROME (arXiv 2202.05262), so that Wk = v exactly.

    The averaged key stands everywhere (R-ROME, arXiv 2403.07175): with the bare prompt's in one place
    the denominator can all but vanish.
    """
    ridge = RidgePrior(moment, 1.0)
    return ChainSolver(base, lambda _keys, _past: ridge, protection, slack=lambda _facts: 0.0, singly=True)


def nse(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """X = (λC + K_pK_pᵀ + KKᵀ)⁻¹K on the batch's most active neurons: NSE (arXiv 2410.04045).

    Values come from the unedited model. One pass over the layers; the published code makes a second for
    facts whose residual is still large.
    """

    def neurons(keys: Tensor, past: Tensor) -> Prior:
        return NeuronPrior(moment, p.prior.moment_weight, past, keys, p.batch.neuron_share)

    return ChainSolver(base, neurons, protection)


def rect(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """MEMIT, of each batch's update only the relatively largest entries: RECT (arXiv 2401.04700)."""
    ridge = RidgePrior(moment, p.prior.moment_weight)
    return ChainSolver(
        base,
        lambda _keys, _past: ridge,
        protection,
        of_batch=lambda weight, update: sparse(weight, update, p.batch.kept_share),
        carried=ridge if p.batch.compensated else None,
    )


def prune(base: Tensor, moment: Tensor, protection: Protection, p: Parameters) -> ChainSolver:
    """MEMIT, the whole update's large singular values compressed: PRUNE (arXiv 2405.16821).

    After every batch, since every batch is served; published, once after the last.
    """
    ridge = RidgePrior(moment, p.prior.moment_weight)
    limit = largest_singular_value(base.double())
    return ChainSolver(
        base,
        lambda _keys, _past: ridge,
        protection,
        of_total=lambda _base, update: conditioned(update, limit, p.batch.log_base),
        carried=ridge if p.batch.compensated else None,
    )


METHODS = {
    "memit": Method(memit, batched=True),
    # PMET (arXiv 2308.08742): a second change beside the attention's output, which is not written, and
    # more of the residual in the lower layers.
    "pmet": Method(
        memit,
        variant={"finish": "preserved", "attention": True},
        target="outputs",
        share=math.sqrt,
        batched=True,
    ),
    "emmet": Method(emmet, batched=True),
    # Its target is an MLP output itself, and its clamp wider: so is what counts as an outlier.
    "rome": Method(rome, target="averaged", placements=("single",), outlier=5.0, batched=True),
    "nse": Method(nse, variant={"unedited": True}, batched=True),
    # EAC (arXiv 2503.00035): MEMIT with values that move few dimensions.
    "eac": Method(memit, variant={"compressed": True}, batched=True),
    "rect": Method(rect, batched=True, projects=True),
    "prune": Method(prune, batched=True, projects=True),
}
