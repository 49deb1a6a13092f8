"""The editor: a model, its memory of facts, and the one way to change them."""

import hashlib
from collections.abc import Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing import methods
from editing.checks import check_facts, check_recorded
from editing.facts import Fact, mates, units
from editing.install import Installation
from editing.memory.delta import materialise
from editing.memory.edited import EditedModel
from editing.memory.state import BATCHES, EditState
from editing.methods.interference import bars
from editing.methods.parameters import Parameters, parameters
from editing.methods.tuning import grown, tune
from editing.model.capture import Ascent, Captured, mean_keys
from editing.model.loaded import BUNDLED, LoadedModel, load_model
from editing.model.says import says
from editing.model.tokens import encode
from editing.report import Clock, Outcome, Report, outcomes, tuned
from editing.solve.placement import Write, rounds
from editing.solve.revive import protection
from editing.solve.second_moment import Progress
from editing.values.anchor import AnchorRule, anchored, skipped
from editing.values.descent import Barred
from editing.values.search import ValueOptions, Values, optimise

#: Where statistics and unpacked models are kept unless told otherwise.
DEFAULT_STATE_DIR = Path.home() / ".local" / "state" / "factd"
#: How often a compaction optimises what is not said, at most: the second still helps, a third writes longer
#: values for the same S (docs/experiments.md).
COMPACT_ROUNDS = 2


class Editor(EditedModel):
    """Writes facts into a model and takes them out again.

    The method solves the state's factors from the table of all live facts. One editor is used by one thread
    at a time.

    Args:
        method: a name of `editing.methods`.
        placement: "spread", "boundary" or "single"; the method's own when None.
        anchor: "nas", "nas-cap" or "none"; the method's own when None.
        protect: "revive", "revive-after" or "none".
        options: how values are optimised; what makes a method's its own is kept. Published or measured
            ones when None.
        numbers: of the method; published or measured ones when None.

    Raises:
        OptionError: a choice is unknown or does not combine with the method.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        install: Installation,
        *,
        method: str = "memit-seq",
        placement: str | None = None,
        anchor: str | None = None,
        protect: str = "none",
        options: ValueOptions | None = None,
        numbers: Parameters | None = None,
    ) -> None:
        self.method = methods.named(method)
        self.rule: AnchorRule
        placement, self.rule, protect = self.method.combined(method, placement, anchor, protect)
        self.install = install
        numbers = numbers or parameters(method, loaded, placement)
        numbers = replace(numbers, values=options or numbers.values)
        self.numbers = methods.numbers_of(method, loaded, numbers)
        self.options = self.numbers.values
        self.rounds = rounds(placement, self.numbers.layers)
        super().__init__(loaded, sorted({layer for write in self.rounds for layer in write.layers}))
        chosen = (method, self.rounds, self.rule, protect, self.numbers)
        measured_on = (install.directory.name, install.tokens)
        self.settings_hash = hashlib.sha256(f"{chosen}|{measured_on}".encode()).hexdigest()
        self.contexts = install.contexts()
        self._solvers = self._made_solvers(protect)
        self.anchors = {
            write.target: install.anchor(write.target, self.numbers) if self.rule != "none" else float("nan")
            for write in self.rounds
        }

    @classmethod
    def open(
        cls,
        model: str = BUNDLED,
        *,
        state_dir: Path | None = None,
        dtype: str = "auto",
        corpus: Path | None = None,
        tokens: int | None = None,
        progress: Progress | None = None,
        **choices: Any,
    ) -> "Editor":
        """Loads a model and its statistics; measures on the unedited model what is missing.

        Args:
            model: a Hugging Face directory or the bundled model's name.
            state_dir: where statistics are kept.
            dtype: "auto", "float32" or "bfloat16", of the forward passes.
            corpus: text file for the second moments.
            tokens: how much of it is used; None: 10 times the FFN's width.
            progress: called with (stage, fraction done).
            choices: method, placement, anchor, protect, options, numbers.

        Raises:
            ModelError, OptionError, SolveError.
        """
        directory = Path(state_dir) if state_dir is not None else DEFAULT_STATE_DIR
        loaded = load_model(model, directory, dtype)
        progress = progress or (lambda _stage, _fraction: None)
        install = Installation(loaded, directory, corpus, progress, tokens)
        return cls(loaded, install, **choices)

    def _made_solvers(self, protect: str) -> dict[int, methods.Solver]:
        if self.method.solver is None:
            return {}
        moments, solvers = self.install.moments(self.layers), {}
        for layer in self.layers:
            base = self._base[self.loaded.tensor_name(layer)]
            protected = protection(protect, base, self.numbers.protected_share)
            solvers[layer] = self.method.solver(base, moments[layer], protected, self.numbers)
        return solvers

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = ()) -> Report:
        """Writes a batch of facts and drops the facts of ids `remove`, in one step.

        All or nothing: on any error the weights are those from before.

        Raises:
            FactError: an id is already live or appears twice, or a fact cannot be tokenised as needed.
            EditError: an id of `remove` is not live.
            SolveError: the numbers went bad.
        """
        check_facts(self.state.ids, facts, remove, self.tokenizer, self.contexts)
        with self._all_or_nothing():
            return self._apply(list(facts), remove)

    def retract(self, *ids: str) -> None:
        """Takes facts out: the weights are as if solved without their columns.

        Of joint methods that is as if they had never been written; see `editing.methods.chain` for those
        that write batch after batch. Facts that shared a value with one of them get one of their own.

        Raises:
            EditError: an id is not live, or the method tunes weights and records no columns.
        """
        check_facts(self.state.ids, (), ids, self.tokenizer, self.contexts)
        with self._all_or_nothing():
            self._apply([], ids)

    def compact(self) -> None:
        """Writes all live facts anew from the base weights in one batch, with their recorded targets.

        Keys of the upper layers, recorded while other facts were not yet there, become exact again. Targets
        of facts that are then not said word for word in every context are optimised again on the model,
        while it helps.

        Raises:
            EditError: the method tunes weights and records no targets.
        """
        check_recorded(self.method, "compact")
        if not (facts := self.state.facts):
            return
        recorded = {f"{kind}/{w.target}" for kind in ("targets", "interference") for w in self.rounds}
        columns = {name: column for name, column in self.state.columns.items() if name in recorded}
        with self._all_or_nothing():
            self._write_on(EditState(), facts, columns, Clock())
            self._until_said(EditState(), facts, columns, COMPACT_ROUNDS, Clock(), self.contexts)

    def _until_said(
        self,
        start: EditState,
        facts: Sequence[Fact],
        columns: dict[str, Tensor],
        times: int,
        clock: Clock,
        contexts: Sequence[str] = ("",),
    ) -> dict[str, Outcome]:
        """What is not said of facts just written on `start` is optimised again, on the model as it is.

        A target holds where it was found; the neighbours' writes have moved on what it was found for. All
        facts are then written anew, at most so many `times`, while more of them are said.

        Args:
            columns: the facts' targets, and what else their table gets beside keys and values.
            contexts: behind each of which a fact must be said. All of them serve its paraphrases, at the
                price of more and longer values: worth it where it is seldom done.

        Returns:
            Outcomes by id of the facts that got a new target.
        """
        said, best, kept = says(self.loaded, facts, contexts) if times else [], -1, (self.state, {})
        told: dict[str, Outcome] = {}
        for _ in range(times):
            wanting = [i for unit in units(facts) for i in unit if not all(said[j] for j in unit)]
            if not wanting or sum(said) <= best:
                break
            best, kept = sum(said), (self.state, told)
            columns, again = self._found_again(facts, wanting, columns, clock)
            told = told | again
            self._write_on(start, facts, columns, clock)
            said = says(self.loaded, facts, contexts)
        if sum(said) <= best:
            state, told = kept
            self.restore(state)
        return told

    def _write_on(
        self, start: EditState, facts: Sequence[Fact], columns: dict[str, Tensor], clock: Clock
    ) -> None:
        self.restore(start)
        for write in self.rounds:
            own = {name: x for name, x in columns.items() if name.endswith(f"/{write.target}")}
            self._write(facts, write, own, clock)

    def _found_again(
        self, facts: Sequence[Fact], wanting: Sequence[int], columns: dict[str, Tensor], clock: Clock
    ) -> tuple[dict[str, Tensor], dict[str, Outcome]]:
        """The columns with new targets [d, n] of the facts `wanting`, optimised on the model as it is, and
        the outcomes by id of those that got one."""
        chosen, columns, told = [facts[i] for i in wanting], dict(columns), {}
        for write in self.rounds:
            layer = write.target
            with clock.time("values"):
                values = optimise(self.loaded, chosen, layer, self.contexts, self.options, merged=True)
            targets, norms, outliers = self._anchored(values, layer)
            found = outcomes(chosen, values, norms, outliers, self.anchors[layer], self.method.outlier)
            # What the anchor refuses keeps the target it has.
            told |= {id: outcome for id, outcome in found.items() if outcome.written}
            kept = [n for n, bad in enumerate(outliers.tolist()) if not bad]
            name = f"targets/{layer}"
            columns[name] = columns[name].clone()
            columns[name][:, [wanting[n] for n in kept]] = targets.cpu()[:, kept]
        return columns, told

    def _anchored(self, values: Values, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `editing.values.anchor.anchored`."""
        values = values if self.method.target == "hidden" else values.of_outputs()
        longest, factor = self.method.outlier, self.numbers.anchor_factor
        return anchored(values, self.anchors[layer], self.rule, longest, factor)

    def _apply(self, facts: list[Fact], remove: Sequence[str], stay: Set[str] = frozenset()) -> Report:
        start, clock = self.state, Clock()
        again = [] if self.method.tuned else mates(start.facts, facts, remove, stay)
        self._drop([*remove, *(fact.id for fact in again)])
        if self.method.tuned:
            return self._tune(facts, clock)
        told: dict[str, Outcome] = {}
        batch, dropped, given = [*again, *facts], self.state, dict[str, Tensor]()
        for write in self.rounds if batch else ():
            layer, avoid, columns = write.target, None, {}
            with clock.time("values"):
                if self.method.bars:
                    avoid, columns = bars(self.loaded, self.state, batch, layer, self.numbers)
                values = self._values(batch, layer, avoid)
            targets, norms, outliers = self._anchored(values, layer)
            columns[f"targets/{layer}"] = targets.cpu()
            told |= outcomes(batch, values, norms, outliers, self.anchors[layer], self.method.outlier)
            bad = skipped(outliers, batch)
            if bad and (write is not self.rounds[0] or any(fact.id in bad for fact in again)):
                # An earlier round has written them already, or they are live: begin again without them.
                self.restore(start)
                less = self._apply([fact for fact in facts if fact.id not in bad], remove, stay | bad)
                found = told | {outcome.id: outcome for outcome in less.outcomes}
                return Report(tuple(found[fact.id] for fact in facts), less.seconds)
            keep = torch.tensor([fact.id not in bad for fact in batch])
            batch = [fact for fact in batch if fact.id not in bad]
            if not batch:
                break
            columns = {name: column[:, keep] for name, column in columns.items()}
            self._write(batch, write, columns, clock)
            given |= columns
        if batch:
            told |= self._until_said(dropped, batch, given, self.numbers.again, clock)
        return Report(tuple(told[fact.id] for fact in facts), clock.seconds)

    def _values(self, facts: Sequence[Fact], layer: int, avoid: Barred | None) -> Values:
        unedited = self.options.unedited
        with self._unedited() if unedited else nullcontext():
            if unedited and avoid is None:
                return self.install.values(facts, layer, self.options)
            return optimise(self.loaded, facts, layer, self.contexts, self.options, barred=avoid, merged=True)

    def _tune(self, facts: Sequence[Fact], clock: Clock) -> Report:
        """Trains the weights on a batch; see `editing.methods.tuning`."""
        if not facts:
            return Report((), clock.seconds)
        with clock.time("solve"):
            old, low_rank = self.state, self.method.low_rank
            update, losses = tune(self.loaded, facts, self.layers, self.numbers, low_rank, len(old.facts))
            names = {layer: self.loaded.tensor_name(layer) for layer in self.layers}
            factors = {name: grown(old.factors.get(name), update[layer]) for layer, name in names.items()}
            self.restore(EditState(old.facts + tuple(facts), factors))
        return Report(tuned(facts, losses, self.numbers.tuning_steps), clock.seconds)

    def _write(self, facts: Sequence[Fact], write: Write, columns: dict[str, Tensor], clock: Clock) -> None:
        """Writes a round's targets [d, n] into its layers, lowest first.

        Args:
            columns: what the table gets of the facts beside keys and values; the targets among them.
        """
        prompts = [
            encode(self.tokenizer, fact, context, target=False) for fact in facts for context in self.contexts
        ]
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
