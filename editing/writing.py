"""Writing a table of facts into the weights, layer by layer, and taking facts out of it."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.checks import check_recorded
from editing.facts import Fact
from editing.install import Installation
from editing.memory.delta import materialise
from editing.memory.edited import EditedModel
from editing.memory.state import BATCHES, EditState
from editing.methods.method import Method, Solver
from editing.methods.parameters import Parameters
from editing.model.capture import Ascent, Captured, mean_keys
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
        self._solvers = self._made_solvers(protect)

    def _made_solvers(self, protect: str) -> dict[int, Solver]:
        if self.method.solver is None:
            return {}
        moments, solvers = self.install.moments(self.layers), {}
        for layer in self.layers:
            base = self._base[self.loaded.tensor_name(layer)]
            protected = protection(protect, base, self.numbers.protected_share)
            solvers[layer] = self.method.solver(base, moments[layer], protected, self.numbers)
        return solvers

    def _write_on(
        self, start: EditState, facts: Sequence[Fact], columns: dict[str, Tensor], clock: Clock
    ) -> None:
        self.restore(start)
        for write in self.rounds:
            own = {name: x for name, x in columns.items() if name.endswith(f"/{write.target}")}
            self._write(facts, write, own, clock)

    def _write(self, facts: Sequence[Fact], write: Write, columns: dict[str, Tensor], clock: Clock) -> None:
        """Writes a round's targets [d, n] into its layers, lowest first.

        Args:
            columns: what the table gets of the facts beside keys and values; the targets among them.
        """
        prompts = [self.loaded.encode(fact, context) for fact in facts for context in self.contexts]
        targets = columns[f"targets/{write.target}"]
        with clock.time("keys"):
            # Blocks between two layers written run once, not once for each layer above.
            every = Ascent(self.loaded, prompts, write.layers[0])
            bare = Ascent(self.loaded, prompts[:: len(self.contexts)], write.layers[0])
        known = self.state.facts
        if facts[0].id not in self.state.ids:
            known += tuple(facts)
            if self.method.batched:
                columns = columns | {BATCHES: torch.full((1, len(facts)), self.state.next_batch)}
        for i, layer in enumerate(write.layers):
            with clock.time("keys"):
                every.to(layer)
                captured = every.capture([layer])
                keys = mean_keys(captured.keys[layer], len(self.contexts))
                bare.to(layer)
                current = self._current(captured, layer, bare, write.target)
            with clock.time("solve"):
                name = self.loaded.tensor_name(layer)
                residual = (targets - current) / self.method.share(len(write.layers) - i)
                output = (self._weights[name].double() @ keys.double()).float()
                values = self.loaded.projected(layer, output, residual)
                columns = columns | {f"{name}/keys": keys, f"{name}/values": values}
                table = self.state.with_columns((), columns).table(name)
                earlier = table.keys.shape[1] - len(facts)
                factors = self._solvers[layer].factors(table, self.state.factors.get(name), earlier)
                self.state = replace(self.state, factors=self.state.factors | {name: factors})
                self._set_weight(layer, materialise(self._base[name], *factors))
        self.state = EditState(known, self.state.factors, self.state.with_columns((), columns).columns)

    def _current(self, captured: Captured, layer: int, bare: Ascent, target: int) -> Tensor:
        """What the model has where the method's targets are meant, [d, n].

        Args:
            captured: of all prompts at `layer`.
            bare: the bare prompts before it.
        """
        if self.method.target == "averaged":
            return mean_keys(captured.outputs[layer], len(self.contexts))
        return getattr(bare.capture([target]), self.method.target)[target].cpu()

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
