"""What is not said once it is written gets another value, and columns for the forms that need one."""

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from editing.columns import Sought, layout, replay, shifts
from editing.facts import Fact
from editing.forms import PROMPT, PROMPT_ONLY, units
from editing.install import Installation
from editing.memory.state import EditState, owners
from editing.methods.method import Method
from editing.methods.parameters import Parameters
from editing.model.asked import asked
from editing.model.loaded import LoadedModel
from editing.model.says import Sureness, sureness, unsaid
from editing.outcomes import outcomes
from editing.report import Clock, Outcome
from editing.solve.placement import Write
from editing.values.anchor import AnchorRule, anchored
from editing.values.kept import Work
from editing.values.search import Values, optimise
from editing.writing import WrittenModel


class RefinedModel(WrittenModel):
    """A model whose facts are asked once they are written.

    Attributes:
        options: how values are optimised.
        forms: kinds of forms that a fact is asked in.
        chats: whether the model has a chat template, as far as the forms need it.
        rule: how long a write vector may be, in `anchors`.
        settings_hash: of the method and its numbers.
        anchors: layer at which values are optimised → its anchor; NaN without one.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        install: Installation,
        method: Method,
        numbers: Parameters,
        rounds: Sequence[Write],
        protect: str,
        rule: AnchorRule,
    ) -> None:
        super().__init__(loaded, install, method, numbers, rounds, protect)
        self.options = numbers.values
        self.forms = self.options.forms
        self.chats = loaded.chats(self.forms)
        self.rule: AnchorRule = rule
        self.anchors = {
            write.target: install.anchor(write.target, self.numbers) if rule != "none" else float("nan")
            for write in self.rounds
        }
        self.settings_hash, self._work = "", Work()

    def _numbers(self, facts: Sequence[Fact]) -> list[list[int]]:
        """Numbers of the forms that each fact is asked in."""
        return [[one.form.number for one in asked(self.loaded, fact, kinds=self.forms)] for fact in facts]

    def _layout(self, facts: Sequence[Fact]) -> Tensor:
        """Which forms the columns of new facts hold at first [m], see `editing.memory.state.FORMS`."""
        return layout(self._numbers(facts), self.numbers.columns)

    def _completed(
        self, start: EditState, facts: Sequence[Fact], sought: Sequence[Sought], clock: Clock
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Which forms the columns of facts just written on `start` hold, and what else the table has of them.

        Where columns are written as needed, forms that the model does not say get theirs now.
        """
        forms = self._layout(facts)
        if self.numbers.columns == "needed" and self.forms != PROMPT_ONLY:
            missing = unsaid(self.loaded, facts, ("",), self.forms, self.options.lead)
            # The bare prompt has its column, whether it is said or not.
            wanted = layout([sorted({PROMPT, *numbers}) for numbers in missing], "each")
            if len(wanted) > len(forms):
                columns = self._laid_out(facts, wanted, sought)
                self._write_on(start, facts, wanted, columns, clock)
                return wanted, columns
        return forms, self._laid_out(facts, forms, sought)

    @staticmethod
    def _laid_out(facts: Sequence[Fact], forms: Tensor, sought: Sequence[Sought]) -> dict[str, Tensor]:
        return {name: x for one in sought for name, x in one.laid_out(facts, forms).items()}

    def _until_said(
        self,
        start: EditState,
        facts: Sequence[Fact],
        forms: Tensor,
        columns: dict[str, Tensor],
        times: int,
        clock: Clock,
        contexts: Sequence[str] = ("",),
    ) -> dict[str, Outcome]:
        """What is not said of facts just written on `start` is optimised again, on the model as it is.

        A target holds where it was found; the neighbours' writes have moved on what it was found for. All
        facts are then written anew, at most so many `times`, while more of them are said. Those that are said
        without the lead that is asked for are found again once.

        Args:
            forms: which forms the columns hold [m]; they stay.
            columns: the facts' targets, and what else their table gets beside keys and values.
            contexts: behind each of which a fact must be said. All of them serve its paraphrases, at the
                price of more and longer values: worth it where it is seldom done.

        Returns:
            Outcomes by id of the facts that got a new target.
        """
        sure = self._sureness(facts, contexts) if times else []
        best, told = (-1, -1), dict[str, Outcome]()
        kept: tuple[EditState, dict[str, Outcome]] = self.state, {}
        for turn in range(times):
            # A lead is worth one more look, being said at all every one.
            wanting = self._wanting(facts, sure, Sureness.SAID if turn else Sureness.LED)
            if not wanting or _counted(sure) <= best:
                break
            best, kept = _counted(sure), (self.state, told)
            done = functools.partial(self._tell, turn, times)
            columns, again = self._found_again(facts, wanting, forms, columns, clock, done)
            told = told | again
            self._write_on(start, facts, forms, columns, clock)
            sure = self._sureness(facts, contexts)
        if _counted(sure) <= best:
            state, told = kept
            self.restore(state)
        return told

    def _sureness(self, facts: Sequence[Fact], contexts: Sequence[str]) -> list[Sureness]:
        return sureness(self.loaded, facts, contexts, self.forms, self.options.lead)

    def _wanting(self, facts: Sequence[Fact], sure: Sequence[Sureness], wanted: Sureness) -> list[int]:
        """Indices of the facts that are less sure than wanted or share their value with one that is."""
        return [i for unit in units(facts) for i in unit if min(sure[j] for j in unit) < wanted]

    def _found_again(
        self,
        facts: Sequence[Fact],
        wanting: Sequence[int],
        forms: Tensor,
        columns: dict[str, Tensor],
        clock: Clock,
        done: Callable[[float], None],
    ) -> tuple[dict[str, Tensor], dict[str, Outcome]]:
        """The columns with new targets [d, m] of the facts `wanting`, optimised on the model as it is, and
        the outcomes by id of those that got one."""
        chosen, columns, told = [facts[i] for i in wanting], dict(columns), dict[str, Outcome]()
        places = [(owners(forms) == i).nonzero()[:, 0] for i in wanting]
        own = forms[torch.cat(places)]
        for write in self.rounds:
            layer = write.target
            with clock.time("values"):
                values = self._optimised(chosen, layer, done)
                sought, norms, outliers = self._aimed(values, chosen, own, write)
            found = outcomes(chosen, values, norms, outliers, self.anchors[layer], self.method.outlier)
            # What the anchor refuses keeps the target it has.
            told |= {id: outcome for id, outcome in found.items() if outcome.written}
            kept = ~outliers.cpu()[owners(own)]
            for name, laid_out in sought.laid_out(chosen, own).items():
                columns[name] = columns[name].clone()
                columns[name][:, torch.cat(places)[kept]] = laid_out[:, kept]
        return columns, told

    @contextmanager
    def _at(self, work: Work) -> Generator[None]:
        self._work = work
        try:
            yield
        finally:
            self._work = Work()

    def _optimised(self, facts: Sequence[Fact], layer: int, done: Callable[[float], None]) -> Values:
        """Values of facts on the model as it is."""

        def about() -> str:
            return repr((self.settings_hash, sorted(self.weight_hashes().items()), layer, list(facts)))

        keep = self._work.keep(about, str(self.loaded.device))
        contexts, options = self.contexts, self.options
        return optimise(self.loaded, facts, layer, contexts, options, done, merged=True, keep=keep)

    def _tell(self, turn: int, turns: int, fraction: float) -> None:
        self._work.progress("values", (turn + fraction) / turns)

    def _aimed(
        self, values: Values, facts: Sequence[Fact], forms: Tensor, write: Write
    ) -> tuple[Sought, Tensor, Tensor]:
        """The targets of a round, on the weights that its values were found on.

        Args:
            forms: of the facts' columns [m].

        Returns:
            What the table gets; ‖v*‖ [n], the longest of a unit; which facts are outliers [n].
        """
        layer, meant = write.target, self.method.target
        targets, norms, outliers = self._anchored(values, layer)
        for unit in units(facts):
            # They share δ: one is not written without the others.
            norms[unit], outliers[unit] = norms[unit].max(), outliers[unit].any()
        columns = {f"targets/{layer}": targets.cpu()}
        shift = shifts(self.loaded, facts, forms, layer, meant)
        if above := [aim for aim in write.aims if aim > layer]:
            change = targets - (values.hidden if meant == "hidden" else values.output)
            further, differing = replay(self.loaded, facts, forms, layer, above, change, meant)
            columns, shift = columns | further, shift | differing
        return Sought(columns, shift), norms, outliers

    def _anchored(self, values: Values, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """See `editing.values.anchor.anchored`."""
        values = values if self.method.target == "hidden" else values.of_outputs()
        longest, factor = self.method.outlier, self.numbers.anchor.anchor_factor
        return anchored(values, self.anchors[layer], self.rule, longest, factor)


def _counted(sure: Sequence[Sureness]) -> tuple[int, int]:
    """How many facts are said, and how many of them with a lead: more of the first count first."""
    return sum(one >= Sureness.SAID for one in sure), sum(one >= Sureness.LED for one in sure)
