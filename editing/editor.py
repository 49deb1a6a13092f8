"""The editor: a model, its memory of facts, and the one way to change them."""

import hashlib
from collections.abc import Mapping, Sequence, Set
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editing.checks import check_facts, check_forms, check_recorded
from editing.columns import Sought, layout
from editing.consolidation.model import ConsolidatedModel
from editing.consolidation.numbers import ConsolidationNumbers
from editing.errors import EditError
from editing.facts import Fact, in_order
from editing.forms import PROMPT_ONLY, checked_kinds, mates
from editing.install import Installation
from editing.memory.rebase import unchanged
from editing.memory.state import EditState
from editing.methods import named, numbers_of
from editing.methods.interference import bars
from editing.methods.parameters import Parameters
from editing.methods.published import parameters
from editing.model.asked import left_out
from editing.model.checkpoint import BUNDLED
from editing.model.loaded import LoadedModel, load_model
from editing.outcomes import outcomes
from editing.report import Clock, Outcome, Report
from editing.solve.placement import Write, rounds
from editing.solve.second_moment import Progress
from editing.values.anchor import skipped
from editing.values.descent import Barred
from editing.values.kept import Work
from editing.values.options import ValueOptions
from editing.values.search import Values, optimise

#: Where statistics and unpacked models are kept unless told otherwise.
DEFAULT_STATE_DIR = Path.home() / ".local" / "state" / "factd"
#: How often a compaction optimises what is not said, at most: the second still helps, a third writes longer
#: values for the same S (docs/experiments.md).
COMPACT_ROUNDS = 2


class Editor(ConsolidatedModel):
    """Writes facts into a model and takes them out again.

    The method solves the state's factors from the table of all live facts. One editor is used by one thread
    at a time.

    Args:
        method: a name of `editing.methods`.
        placement: "spread", "boundary", "single" or "replay"; the method's own when None.
        anchor: "nas", "nas-cap" or "none"; the method's own when None.
        protect: "revive", "revive-after", "crisp" (locft alone) or "none".
        options: how values are optimised; what makes a method's its own is kept. Published or measured
            ones when None.
        numbers: of the method; published or measured ones when None.
        forms: kinds of forms that a fact is written for, see `editing.forms.Kind`; those of the options when
            None, which is the bare prompt.
        consolidation: numbers of consolidations by name, where they are not the default ones.

    Attributes:
        consolidation: all numbers of consolidations.

    Raises:
        OptionError: a choice is unknown or does not combine with the method.
    """

    def __init__(  # noqa: PLR0913 (each is a choice that a caller makes by name)
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
        forms: Sequence[str] | None = None,
        consolidation: Mapping[str, Any] | None = None,
    ) -> None:
        made = named(method)
        placement, rule, protect = made.combined(method, placement, anchor, protect)
        numbers = numbers or parameters(method, loaded, placement)
        values = options or numbers.values
        values = replace(values, forms=checked_kinds(values.forms if forms is None else forms))
        check_forms(method, made.tuned, values, numbers.columns)
        numbers = numbers_of(method, loaded, replace(numbers, values=values))
        super().__init__(loaded, install, made, numbers, rounds(placement, numbers.layers), protect, rule)
        self.settings_hash = self._settings_hash(method, protect)
        plain = ConsolidationNumbers(self.layers, forms=self.forms)
        self.consolidation = plain.changed(**consolidation or {})
        self._check_layers(self.consolidation)

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
            choices: method, placement, anchor, protect, options, numbers, forms, consolidation.

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

    def apply(self, facts: Sequence[Fact], remove: Sequence[str] = (), stay: Sequence[str] = ()) -> Report:
        """Writes a batch of facts and drops the facts of ids `remove`, in one step.

        All or nothing: on any error the weights are those from before.

        Args:
            stay: live facts of a new fact's subject that keep their values; others of it are found anew.

        Raises:
            FactError: an id is already live or appears twice, or a fact cannot be tokenised as needed.
            EditError: an id of `remove` is not live.
            SolveError: the numbers went bad.
        """
        check_facts(self.state.ids, facts, remove, self.loaded, self.contexts)
        with self._all_or_nothing():
            return self._apply(list(facts), remove, frozenset(stay))

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

    def compact(
        self, folder: Path | None = None, progress: Progress = lambda _stage, _fraction: None
    ) -> None:
        """Writes all live facts anew from the base weights in one batch, with their recorded targets.

        Keys of the upper layers, recorded while other facts were not yet there, become exact again. Targets
        of facts that are then not said word for word in every context are optimised again on the model,
        while it helps.

        Args:
            folder: keeps the values that are found: a compaction that was killed goes on where it was.

        Raises:
            EditError: the method tunes weights and records no targets.
        """
        check_recorded(self.method, "compact")
        if not (facts := self.state.facts):
            return
        if not self.method.valued:
            with self._all_or_nothing():
                return self._train_anew()
        columns, forms = self._recorded(self.state), self.state.forms
        with self._all_or_nothing(), self._at(Work(folder, progress)):
            progress("writing", 0.0)
            self._write_on(EditState(), facts, forms, columns, Clock())
            self._until_said(EditState(), facts, forms, columns, COMPACT_ROUNDS, Clock(), self.contexts)

    def consolidate(
        self,
        folder: Path | None = None,
        progress: Progress = lambda _stage, _fraction: None,
        numbers: ConsolidationNumbers | None = None,
    ) -> None:
        """Writes all live facts anew from the base, and trains the weights on from there; see
        `editing.consolidation.consolidate`. The weights follow from the set of facts, whatever came before.

        Args:
            folder, progress: as of `compact`.
            numbers: of the training, of layers that the method writes; `self.consolidation` when None.

        Raises:
            EditError: the method cannot, or a fact is refused when it is written anew.
        """
        chosen = numbers or self.consolidation
        self._check_consolidates(chosen)
        if not (facts := in_order(self.state.facts)):
            return
        with self._all_or_nothing(), self._at(Work(folder, progress)):
            progress("writing", 0.0)
            self.restore(EditState())
            refused = [one for one in self._apply(facts, ()).outcomes if not one.written]
            if refused:
                raise EditError(f"fact {refused[0].id}: {refused[0].reason}; retract it, then consolidate")
            self._train_on(self.state, chosen, folder, progress)

    def rebase(self, start: EditState, compacted: EditState) -> None:
        """Goes to `compacted`, made of the state `start`, with all that has changed since taken over.

        Facts that are not live any more are dropped. Those that came since, or got another target since, are
        written behind the others as one batch, with the targets recorded. Without any change the weights are
        the very bits of `compacted`. A method without values trains on the present facts anew instead.

        Raises:
            EditError: the method records no targets, or a state is of another model.
            SolveError: the numbers went bad.
        """
        check_recorded(self.method, "compact")
        if not self.method.valued:
            return self.compact()
        live = self.state
        same = unchanged(start, live, self._recorded(live))
        new, kept = live.without(same), set(same)
        with self._all_or_nothing():
            self.restore(compacted)
            self._drop([id for id in compacted.ids if id not in kept])
            if new.facts:
                self._write_on(self.state, new.facts, new.forms, self._recorded(new), Clock())

    def _apply(self, facts: list[Fact], remove: Sequence[str], stay: Set[str] = frozenset()) -> Report:
        start, clock = self.state, Clock()
        if not self.method.valued:
            return self._report(facts, self._train(facts, remove, clock), clock.seconds)
        again = mates(start.facts, facts, remove, stay)
        self._drop([*remove, *(fact.id for fact in again)])
        told: dict[str, Outcome] = {}
        batch, dropped, sought = [*again, *facts], self.state, list[Sought]()
        for write in self.rounds if batch else ():
            found, outcome, outliers = self._sought(batch, write, clock)
            told |= outcome
            bad = skipped(outliers, batch)
            if bad and (write is not self.rounds[0] or any(fact.id in bad for fact in again)):
                # An earlier round has written them already, or they are live: begin again without them.
                self.restore(start)
                less = self._apply([fact for fact in facts if fact.id not in bad], remove, stay | bad)
                return self._report(facts, told | {one.id: one for one in less.outcomes}, less.seconds)
            keep = torch.tensor([fact.id not in bad for fact in batch])
            batch = [fact for fact in batch if fact.id not in bad]
            if not batch:
                break
            sought.append(found.only(keep))
            forms = self._layout(batch)
            self._write(batch, forms, write, sought[-1].laid_out(batch, forms), clock)
        if batch:
            forms, columns = self._completed(dropped, batch, sought, clock)
            told |= self._until_said(dropped, batch, forms, columns, self.numbers.again, clock)
        return self._report(facts, told, clock.seconds)

    def _report(self, facts: Sequence[Fact], told: dict[str, Outcome], seconds: dict[str, float]) -> Report:
        found = (told[fact.id] for fact in facts)
        if self.forms == PROMPT_ONLY:
            return Report(tuple(found), seconds)
        pairs = zip(found, facts, strict=True)
        left = (replace(one, left_out=left_out(self.loaded, fact, self.forms)) for one, fact in pairs)
        return Report(tuple(left), seconds)

    def _sought(
        self, batch: Sequence[Fact], write: Write, clock: Clock
    ) -> tuple[Sought, dict[str, Outcome], Tensor]:
        """What a round is to write of a batch, its outcomes by id, and which facts are outliers [n]."""
        layer, avoid, columns = write.target, None, dict[str, Tensor]()
        with clock.time("values"):
            if self.method.bars:
                avoid, columns = bars(self.loaded, self.state, batch, layer, self.numbers)
            with self._unedited() if self.options.unedited else nullcontext():
                values = self._values(batch, layer, avoid)
                each = layout(self._numbers(batch), "each")
                found, norms, outliers = self._aimed(values, batch, each, write)
        told = outcomes(batch, values, norms, outliers, self.anchors[layer], self.method.outlier)
        return replace(found, columns=columns | found.columns), told, outliers

    def _values(self, facts: Sequence[Fact], layer: int, avoid: Barred | None) -> Values:
        if self.options.unedited and avoid is None:
            return self.install.values(facts, layer, self.options)
        return optimise(self.loaded, facts, layer, self.contexts, self.options, barred=avoid, merged=True)
