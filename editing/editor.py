"""The editor: a model, its memory of facts, and the one way to change them."""

import hashlib
from collections.abc import Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.checks import check_facts, check_recorded
from editing.facts import Fact
from editing.forms import mates, units
from editing.install import Installation
from editing.memory.state import EditState
from editing.methods import named, numbers_of
from editing.methods.interference import bars
from editing.methods.parameters import Parameters
from editing.methods.published import parameters
from editing.methods.tuning import grown, tune
from editing.model.checkpoint import BUNDLED
from editing.model.loaded import LoadedModel, load_model
from editing.model.says import says
from editing.report import Clock, Outcome, Report, outcomes, tuned
from editing.solve.placement import rounds
from editing.solve.second_moment import Progress
from editing.values.anchor import AnchorRule, anchored, skipped
from editing.values.descent import Barred
from editing.values.options import ValueOptions
from editing.values.search import Values, optimise
from editing.writing import WrittenModel

#: Where statistics and unpacked models are kept unless told otherwise.
DEFAULT_STATE_DIR = Path.home() / ".local" / "state" / "factd"
#: How often a compaction optimises what is not said, at most: the second still helps, a third writes longer
#: values for the same S (docs/experiments.md).
COMPACT_ROUNDS = 2


class Editor(WrittenModel):
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
        made = named(method)
        self.rule: AnchorRule
        placement, self.rule, protect = made.combined(method, placement, anchor, protect)
        numbers = numbers or parameters(method, loaded, placement)
        numbers = numbers_of(method, loaded, replace(numbers, values=options or numbers.values))
        self.options = numbers.values
        super().__init__(loaded, install, made, numbers, rounds(placement, numbers.layers), protect)
        self.settings_hash = self._settings_hash(method, protect)
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

    def _settings_hash(self, method: str, protect: str) -> str:
        """Names all that weights follow from besides the model and its facts."""
        chosen = f"({method!r}, {self.rounds!r}, {self.rule!r}, {protect!r}, {self.numbers.described()})"
        measured_on = (self.install.directory.name, self.install.tokens)
        return hashlib.sha256(f"{chosen}|{measured_on}".encode()).hexdigest()

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = ()) -> Report:
        """Writes a batch of facts and drops the facts of ids `remove`, in one step.

        All or nothing: on any error the weights are those from before.

        Raises:
            FactError: an id is already live or appears twice, or a fact cannot be tokenised as needed.
            EditError: an id of `remove` is not live.
            SolveError: the numbers went bad.
        """
        check_facts(self.state.ids, facts, remove, self.loaded, self.contexts)
        with self._all_or_nothing():
            return self._apply(list(facts), remove)

    def retract(self, *ids: str) -> None:
        """Takes facts out: the weights are as if solved without their columns.

        Of joint methods that is as if they had never been written; see `editing.methods.chain` for those
        that write batch after batch. Facts that shared a value with one of them get one of their own.

        Raises:
            EditError: an id is not live, or the method tunes weights and records no columns.
        """
        check_facts(self.state.ids, (), ids, self.loaded, self.contexts)
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
        longest, factor = self.method.outlier, self.numbers.anchor.anchor_factor
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
        return Report(tuned(facts, losses, self.numbers.tuning.tuning_steps), clock.seconds)
