"""Methods without values: they train the weights, or step along gradients."""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from editing.columns import Pieces
from editing.facts import Fact
from editing.forms import PROMPT
from editing.memory.state import EditState
from editing.methods.locft import train
from editing.methods.tuning import grown, tune
from editing.outcomes import trained
from editing.refining import RefinedModel
from editing.report import Clock, Outcome
from editing.solve.crisp import LowCurvature
from editing.values.gradients import gradients


class TrainedModel(RefinedModel):
    """A model that facts can be written into without a value."""

    def _train(self, facts: Sequence[Fact], remove: Sequence[str], clock: Clock) -> dict[str, Outcome]:
        """Writes new facts and takes others out; outcomes of the new ones by id."""
        if self.method.whole:
            return self._tune_all(facts, remove, clock)
        self._drop(remove)
        if not facts:
            return {}
        return (
            self._step(facts, self._layout(facts), clock) if self.method.steps else self._tune(facts, clock)
        )

    def _train_anew(self) -> None:
        """Writes all live facts from the base weights in one batch, in the forms that they have."""
        if self.method.whole:
            # They are all of one training already.
            return
        facts, forms = self.state.facts, self.state.forms
        self.restore(EditState())
        self._step(facts, forms, Clock())

    def _tune(self, facts: Sequence[Fact], clock: Clock) -> dict[str, Outcome]:
        """Trains the weights on a batch; see `editing.methods.tuning`."""
        with clock.time("solve"):
            old, low_rank = self.state, self.method.low_rank
            update, losses = tune(self.loaded, facts, self.layers, self.numbers, low_rank, len(old.facts))
            names = {layer: self.loaded.tensor_name(layer) for layer in self.layers}
            factors = {name: grown(old.factors.get(name), update[layer]) for layer, name in names.items()}
            self.restore(EditState(old.facts + tuple(facts), factors))
        return trained(facts, losses, self.numbers.tuning.tuning_steps)

    def _tune_all(self, facts: Sequence[Fact], remove: Sequence[str], clock: Clock) -> dict[str, Outcome]:
        """Trains the weights on all live facts, from the base; see `editing.methods.locft`."""
        out = set(remove)
        live = (*(fact for fact in self.state.facts if fact.id not in out), *facts)
        if not live:
            self.restore(EditState())
            return {}
        (layer,) = self.layers
        with clock.time("solve"):
            with self._unedited():
                update, losses = train(self.loaded, live, layer, self.numbers, self._low_curvature)
            self.restore(EditState(live, {self.loaded.tensor_name(layer): update}))
        return trained(facts, losses[len(live) - len(facts) :], self.numbers.tuning.tuning_steps)

    @cached_property
    def _low_curvature(self) -> LowCurvature | None:
        """Must first be asked for on the unedited weights."""
        if self.protect != "crisp":
            return None
        (layer,) = self.layers
        inputs, outputs = self._moments()[layer], self.install.output_moments(self.layers)[layer]
        return LowCurvature(inputs, outputs, self.numbers.tuning.curvature_energy)

    def _step(self, facts: Sequence[Fact], forms: Tensor, clock: Clock) -> dict[str, Outcome]:
        """One step along the gradients of a batch; see `editing.methods.ultraedit`."""
        pieces = Pieces(self.loaded, facts, forms, [""])
        with clock.time("keys"):
            found, losses = gradients(self.loaded, pieces.bare, self.layers)
        columns = self._told_of_columns(forms)
        for layer in self.layers:
            name = self.loaded.tensor_name(layer)
            for kind, own in zip(("keys", "values"), found[layer], strict=True):
                columns[f"{name}/{kind}"] = pieces.columns(own)
        with clock.time("solve"):
            old, state = self.state, self.state.with_columns(facts, columns)
            factors: dict[str, tuple[Tensor, Tensor]] = {}
            for layer in self.layers:
                name = self.loaded.tensor_name(layer)
                table = state.table(name)
                earlier = table.keys.shape[1] - len(forms)
                factors[name] = self._solvers[layer].factors(table, old.factors.get(name), earlier)
            self.restore(EditState(state.facts, factors, state.columns))
        return trained(facts, self._of_bare(pieces, losses), 1)

    @staticmethod
    def _of_bare(pieces: Pieces, losses: Tensor) -> Tensor:
        """Of each fact the loss of its bare prompt."""
        return losses[torch.tensor([piece.form.number == PROMPT for piece in pieces.every])]
