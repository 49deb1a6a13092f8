"""Writing a table of facts into the weights, layer by layer, and taking facts out of it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.checks import check_recorded
from editing.columns import Pieces
from editing.facts import Fact
from editing.install import Installation
from editing.memory.delta import materialise
from editing.memory.edited import EditedModel
from editing.memory.state import BARE, BATCHES, FORMS, EditState
from editing.methods.method import Method, Solver
from editing.methods.parameters import Parameters
from editing.model.capture import Ascent, Captured
from editing.model.loaded import LoadedModel
from editing.report import Clock
from editing.solve.placement import Write
from editing.solve.revive import protection


class WrittenModel(EditedModel):
    """A model that facts with known targets are written into.

    Attributes:
        method: the editing method.
        numbers: its numbers.
        rounds: which layers a target is written into.
        contexts: texts put before a prompt; the first is empty.
        protect: what updates leave alone.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        install: Installation,
        method: Method,
        numbers: Parameters,
        rounds: Sequence[Write],
        protect: str,
    ) -> None:
        super().__init__(loaded, sorted({layer for write in rounds for layer in write.layers}))
        self.install, self.method, self.numbers, self.rounds = install, method, numbers, tuple(rounds)
        self.contexts = install.contexts()
        self.protect = protect
        self._solvers = self._made_solvers(protect)

    def _made_solvers(self, protect: str) -> dict[int, Solver]:
        if self.method.steps is not None:
            warmed = self.install.gradients(self.layers, self.numbers.lifelong.warm_up)
            bases = {layer: self._base[self.loaded.tensor_name(layer)] for layer in self.layers}
            return {x: self.method.steps(bases[x], warmed[x], self.numbers) for x in self.layers}
        if self.method.solver is None:
            return {}
        moments, solvers = self._moments(), dict[int, Solver]()
        for layer in self.layers:
            base = self._base[self.loaded.tensor_name(layer)]
            protected = protection(protect, base, self.numbers.protected_share)
            solvers[layer] = self.method.solver(base, moments[layer], protected, self.numbers)
        return solvers

    def _moments(self) -> dict[int, Tensor]:
        return self.install.moments(self.layers, self.loaded.chats(self.numbers.values.forms))

    def _recorded(self, state: EditState) -> dict[str, Tensor]:
        """The columns that facts are written anew from."""
        aims = [aim for write in self.rounds for aim in write.aims]
        names = {f"{kind}/{aim}" for kind in ("targets", "interference") for aim in aims}
        return {name: column for name, column in state.columns.items() if name in names}

    def _write_on(
        self,
        start: EditState,
        facts: Sequence[Fact],
        forms: Tensor,
        columns: dict[str, Tensor],
        clock: Clock,
    ) -> None:
        self.restore(start)
        for write in self.rounds:
            ends = tuple(f"/{aim}" for aim in write.aims)
            own = {name: x for name, x in columns.items() if name.endswith(ends)}
            self._write(facts, forms, write, own, clock)

    def _write(
        self, facts: Sequence[Fact], forms: Tensor, write: Write, columns: dict[str, Tensor], clock: Clock
    ) -> None:
        """Writes a round's targets [d, m] into its layers, lowest first.

        Args:
            forms: which forms of the facts the columns hold [m], see `editing.memory.state.FORMS`.
            columns: what the table gets of the facts beside keys and values; the targets among them.
        """
        pieces = Pieces(self.loaded, facts, forms, self.contexts)
        with clock.time("keys"):
            # Blocks between two layers written run once, not once for each layer above.
            every = Ascent(self.loaded, pieces.prompts, write.layers[0])
            bare = Ascent(self.loaded, pieces.bare, write.layers[0])
        known = self.state.facts
        if facts[0].id not in self.state.ids:
            known += tuple(facts)
            columns = columns | self._told_of_columns(forms)
        for layer in write.layers:
            with clock.time("keys"):
                every.to(layer)
                captured = every.capture([layer])
                keys = pieces.mean(captured.keys[layer])
                bare.to(layer)
                current = self._current(pieces, captured, layer, bare, write.aim(layer))
            with clock.time("solve"):
                name = self.loaded.tensor_name(layer)
                targets = columns[f"targets/{write.aim(layer)}"]
                residual = (targets - current) / self.method.share(write.left(layer))
                output = (self._weights[name].double() @ keys.double()).float()
                values = self.loaded.projected(layer, output, residual)
                columns = columns | {f"{name}/keys": keys, f"{name}/values": values}
                table = self.state.with_columns((), columns).table(name)
                earlier = table.keys.shape[1] - len(forms)
                factors = self._solvers[layer].factors(table, self.state.factors.get(name), earlier)
                self.state = replace(self.state, factors=self.state.factors | {name: factors})
                self._set_weight(layer, materialise(self._base[name], *factors))
        self.state = EditState(known, self.state.factors, self.state.with_columns((), columns).columns)

    def _told_of_columns(self, forms: Tensor) -> dict[str, Tensor]:
        """What the table says of new facts' columns themselves: their batch and their forms, if need be."""
        told = {BATCHES: torch.full((1, len(forms)), self.state.next_batch)} if self.method.batched else {}
        if FORMS in self.state.columns or bool((forms != BARE).any()):
            # So far each fact may have had one column and the table no need to say so.
            self.state = replace(self.state, columns=self.state.columns | {FORMS: self.state.forms[None]})
            told[FORMS] = forms[None]
        return told

    def _current(self, pieces: Pieces, captured: Captured, layer: int, bare: Ascent, target: int) -> Tensor:
        """What the model has where the method's targets are meant, [d, m].

        Args:
            captured: of all prompts at `layer`.
            bare: the forms without contexts before it.
        """
        if self.method.target == "averaged":
            return pieces.mean(captured.outputs[layer])
        return pieces.columns(getattr(bare.capture([target]), self.method.target)[target].cpu())

    def _drop(self, ids: Sequence[str]) -> None:
        """Removes columns and solves every layer without them."""
        if not ids:
            return
        if not (left := self.state.without(ids)).facts:
            return self.restore(EditState())
        check_recorded(self.method, "take a fact out")
        names = {layer: self.loaded.tensor_name(layer) for layer in self.layers}
        factors = {name: self._solvers[layer].factors(left.table(name)) for layer, name in names.items()}
        self.restore(EditState(left.facts, factors, left.columns))
