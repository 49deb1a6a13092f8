"""A model whose facts may be consolidated: what is written onto trained weights, and taken out of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from editing.columns import Pieces
from editing.consolidation.consolidate import consolidate
from editing.consolidation.numbers import UNABLE, ConsolidationNumbers
from editing.errors import OptionError
from editing.memory.state import CONSOLIDATED, EditState, Table
from editing.model.capture import capture
from editing.solve.ridge import Factors, bounded
from editing.solve.second_moment import Progress
from editing.training import TrainedModel
from editing.typed import pseudo_inverse

#: Keys of one fact may nearly be the same: of their differences below this share nothing is countered.
CUT = 1e-3


class ConsolidatedModel(TrainedModel):
    """Facts that come after a consolidation add columns to its factors, as they do to those of a solve.

    A fact that leaves is countered: one solve brings the outputs for its keys back to those of the unedited
    weights, and holds the keys of all others. It is truly gone at the next consolidation, or compaction.
    """

    def _check_layers(self, numbers: ConsolidationNumbers) -> None:
        """Raises OptionError where layers would be trained that the method does not write."""
        if not set(numbers.layers) <= set(self.layers):
            raise OptionError(
                f"layers of a consolidation = {numbers.layers}: use some of {self.layers}, which the method "
                "writes"
            )

    def _check_consolidates(self, numbers: ConsolidationNumbers) -> None:
        """Raises OptionError where the method cannot write onto weights that are trained so."""
        self._check_layers(numbers)
        if not self.method.valued or self.method.batched or self.protect == "revive-after":
            raise OptionError(UNABLE)

    def _train_on(
        self, joint: EditState, numbers: ConsolidationNumbers, folder: Path | None, progress: Progress
    ) -> None:
        """From a joint solution to the weights that are trained from it."""
        with self._unedited():
            found = consolidate(
                self.install, joint.facts, joint.factors, numbers, folder=folder, progress=progress
            )
        self.restore(replace(joint, factors=found.factors))
        self.state = replace(self.state, columns=self.state.columns | self._columns_anew())

    def _columns_anew(self) -> dict[str, Tensor]:
        """Keys and values of all facts on the weights as they are, and the mark of what is consolidated."""
        state, columns = self.state, dict[str, Tensor]()
        pieces = Pieces(self.loaded, state.facts, state.forms, self.contexts)
        keys = capture(self.loaded, pieces.prompts, self.layers).keys
        for layer in self.layers:
            name = self.loaded.tensor_name(layer)
            mean = pieces.mean(keys[layer])
            columns[f"{name}/keys"] = mean
            columns[f"{name}/values"] = (self._weights[name].double() @ mean.double()).float()
        return columns | {CONSOLIDATED: torch.ones(1, len(state.forms), dtype=torch.int64)}

    def _told_of_columns(self, forms: Tensor) -> dict[str, Tensor]:
        told = super()._told_of_columns(forms)
        if CONSOLIDATED in self.state.columns:
            told[CONSOLIDATED] = torch.zeros(1, len(forms), dtype=torch.int64)
        return told

    def _drop(self, ids: Sequence[str]) -> None:
        """Of consolidated weights: counters facts, where otherwise all layers are solved without them."""
        if not ids or CONSOLIDATED not in self.state.columns:
            return super()._drop(ids)
        left, gone = self.state.without(ids), self.state.without(self._others(ids))
        if not left.facts:
            return self.restore(EditState())
        factors = dict(self.state.factors)
        for layer in self.layers:
            name = self.loaded.tensor_name(layer)
            counter = self._counter(layer, left.table(name), gone.table(name))
            a, b = (torch.cat(pair, dim=1) for pair in zip(factors[name], counter, strict=True))
            factors[name] = bounded(a, b)
        self.restore(EditState(left.facts, factors, left.columns))

    def _counter(self, layer: int, kept: Table, gone: Table) -> Factors:
        """Δ = A Bᵀ with ΔK = (W₀ − W)K for the keys K of what leaves.

        B is that of a solve in which the kept keys came first: so it spares them, and text. A solve is soft,
        though, and a fact that leaves must be gone: A is what gives the outputs exactly.
        """
        name = self.loaded.tensor_name(layer)
        both = Table(*(torch.cat([getattr(kept, x), getattr(gone, x)], dim=1) for x in ("keys", "values")))
        nothing = kept.values.new_zeros(len(kept.values), 0), kept.keys.new_zeros(len(kept.keys), 0)
        _, b = self._solvers[layer].factors(both, nothing, kept.keys.shape[1])
        keys = gone.keys.double()
        back = (self._base[name].double() - self._weights[name].double()) @ keys
        return (back @ pseudo_inverse(b.double().T @ keys, CUT)).float(), b

    def _others(self, ids: Sequence[str]) -> list[str]:
        return [id for id in self.state.ids if id not in set(ids)]
