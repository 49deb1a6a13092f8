"""An editor that may use only some of the key directions of a layer, as if the layer were narrower.

For a set D of the key's dimensions the method solves for W₀[:, D], with C and K restricted to D. What the
other dimensions add to an output is taken as given, and their columns of W stay as they were. A means of the
capacity benchmark; the product has no such option.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.configuration import Configuration
from benchmarks.errors import ChoiceError
from editing.editor import Editor
from editing.install import Installation
from editing.memory.state import Table
from editing.methods.method import Solver
from editing.model.loaded import LoadedModel
from editing.solve.revive import unprotected
from editing.solve.ridge import Factors, RidgePrior

#: Of the choice of dimensions.
SEED = 0


def dimensions(width: int, share: float, seed: int = SEED) -> list[int]:
    """A seeded choice of `share` of the dimensions, ascending; that of a smaller share is part of it."""
    order = list(range(width))
    random.Random(seed).shuffle(order)
    return sorted(order[: max(1, round(share * width))])


class MaskedSolver:
    """A solver of W₀[:, D] as one of W₀.

    Args:
        inner: made of W₀[:, D] and C[D, D].
        base: W₀ [d, d_in].
        used: D.
    """

    def __init__(self, inner: Solver, base: Tensor, used: Sequence[int]) -> None:
        self._inner, self._base, self._used = inner, base, torch.tensor(used)
        free = torch.ones(base.shape[1], dtype=torch.bool)
        free[self._used] = False
        self._others = free.nonzero()[:, 0]

    def factors(self, table: Table, written: Factors | None = None, earlier: int = 0) -> Factors:
        given = self._base[:, self._others].double() @ table.keys[self._others].double()
        values = (table.values.double() - given).float()
        narrow = Table(table.keys[self._used], values, table.batches)
        before = written and (written[0], written[1][self._used])
        a, b = self._inner.factors(narrow, before, earlier)
        whole = b.new_zeros(self._base.shape[1], b.shape[1])
        whole[self._used] = b
        return a, whole


class MaskedEditor(Editor):
    """An editor that uses a share of each layer's key dimensions; with all of them the usual one.

    Attributes:
        used: the dimensions.
    """

    def __init__(self, loaded: LoadedModel, install: Installation, share: float, **choices: Any) -> None:
        # The constructor below makes the solvers, which need it.
        self.used = dimensions(loaded.ffn_width, share)
        super().__init__(loaded, install, **choices)

    def _made_solvers(self, protect: str) -> dict[int, Solver]:
        if len(self.used) == self.loaded.ffn_width:
            return super()._made_solvers(protect)
        make, moments, solvers = self.method.solver, self._moments(), dict[int, Solver]()
        if make is None or protect != "none":
            raise ChoiceError("a share of the keys needs a method that solves, and protect none")
        for layer in self.layers:
            base = self._base[self.loaded.tensor_name(layer)]
            narrow, moment = base[:, self.used], moments[layer][self.used][:, self.used]
            solvers[layer] = MaskedSolver(
                make(narrow, moment, unprotected(narrow), self.numbers), base, self.used
            )
        return solvers

    def filled(self) -> float:
        """The share of the directions used, of all layers, that the keys written have taken up.

        Per layer tr(KᵀM⁻¹K (I + KᵀM⁻¹K)⁻¹) = Σ s / (1 + s) for the eigenvalues s of KᵀM⁻¹K, M = λC: a key
        that text does not use counts as one, one that text defends as less.
        """
        moments, taken = self._moments(), 0.0
        for layer in self.layers:
            keys = self.state.columns[f"{self.loaded.tensor_name(layer)}/keys"][self.used].double()
            prior = RidgePrior(moments[layer][self.used][:, self.used], self.numbers.prior.moment_weight)
            squares = torch.linalg.eigvalsh(keys.T @ prior.inverse_times(keys)).clamp_min(0)
            taken += float((squares / (1 + squares)).sum())
        return taken / (len(self.layers) * len(self.used))


@dataclass(frozen=True)
class Masked(Configuration):
    """A configuration that uses a share of the key dimensions of each layer."""

    share: float = 1.0

    @classmethod
    def of(cls, plain: Configuration, share: float) -> "Masked":
        return cls(plain.method, plain.placement, plain.anchor, plain.protect, plain.changes, share)

    # Not the dataclass's own, which tells of fields.
    __str__ = Configuration.__str__

    @property
    def options(self) -> str:
        told = f"keys={self.share:g}" if self.share < 1 else ""
        return ",".join(filter(None, (super().options, told)))

    def open(self, loaded: LoadedModel, install: Installation) -> MaskedEditor:
        return MaskedEditor(loaded, install, self.share, **self.choices(loaded))
