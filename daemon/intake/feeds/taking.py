"""From records of a feed into the ledger: many in one transaction, each once."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from daemon.core.errors import PROBLEMS_SHOWN, ConflictError, CorrectionError, Problem
from daemon.core.lifecycle import IN_FLIGHT, PENDING, OperationKind, OperationState, State
from daemon.core.messages import Correction, shortened
from daemon.intake.feeds.records import Change, Entry, Told, wrong
from daemon.intake.intake import Room
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import CorrectionRow

#: Records that are taken in one transaction. More would keep other writers waiting for more than a second.
MOST = 1000
#: A fact in one of these states is live, or will be.
AHEAD = (*PENDING, *IN_FLIGHT, State.LIVE)


@dataclass
class Report:
    """What became of the records.

    Attributes:
        counts: taken, known (posted before), retracted (asked for), unchanged, refused.
        problems: the first PROBLEMS_SHOWN of the refused.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    problems: list[Problem] = field(default_factory=list[Problem])

    def refuse(self, error: CorrectionError) -> None:
        """Counts one record as refused, however much is wrong with it."""
        self.counts["refused"] += 1
        self.problems += error.problems[: max(0, PROBLEMS_SHOWN - len(self.problems))]

    def add(self, other: "Report") -> None:
        """Counts what another report counts."""
        self.counts += other.counts
        self.problems += other.problems[: max(0, PROBLEMS_SHOWN - len(self.problems))]

    @property
    def more(self) -> int:
        """How many refused records have no line among `problems`, at least."""
        lines = {problem.line for problem in self.problems}
        return max(0, self.counts["refused"] - len(lines))

    def view(self) -> dict[str, Any]:
        names = ("taken", "known", "retracted", "unchanged", "refused")
        problems = [vars(problem) for problem in self.problems]
        return {name: self.counts[name] for name in names} | {"problems": problems, "more": self.more}


class Taker:
    """Takes records into a ledger.

    Args:
        no_answer: the target where a feed says that a fact is no longer so; "" takes our fact out instead.
        dry: looks, and records nothing.
        refused: is told of each record that is refused; None for one that could not be read.
    """

    def __init__(
        self,
        ledger: Ledger,
        room: Room,
        actor: str,
        *,
        no_answer: str = "",
        dry: bool = False,
        refused: Callable[[CorrectionError, Told | None], object] = lambda error, told: None,
    ) -> None:
        self.ledger, self.room, self.actor = ledger, room, actor
        self.no_answer, self.dry, self.refused = no_answer, dry, refused

    def take(self, entries: Iterable[Entry], report: Report) -> None:
        """Takes all, in their order. What is recorded when an error ends this stays so, and is known then.

        Raises:
            QueueFullError: no more corrections may wait.
        """
        remaining = iter(entries)
        while chunk := list(islice(remaining, MOST)):
            usable = [self.answered(one) for one in self._usable(chunk, report)]
            for obsolete, group in _runs(usable):
                if obsolete:
                    self._end(group, report)
                else:
                    self._post(group, report)

    def _usable(self, chunk: Sequence[Entry], report: Report) -> Iterator[Told]:
        for entry in chunk:
            if isinstance(entry, CorrectionError):
                self._refuse(report, entry, None)
            elif entry.change is Change.UNCHANGED:
                report.counts["unchanged"] += 1
            else:
                yield entry

    def _refuse(self, report: Report, error: CorrectionError, told: Told | None) -> None:
        report.refuse(error)
        self.refused(error, told)

    def answered(self, told: Told) -> Told:
        """An obsolete fact as a correction, where there is something to say in its place."""
        if told.change is not Change.OBSOLETE or not self.no_answer:
            return told
        instead = {"target": self.no_answer, "was": told.correction.target}
        return Told(told.number, Change.NEW, told.correction.model_copy(update=instead))

    # -- facts that are so ----------------------------------------------------------------------

    def _post(self, group: Sequence[Told], report: Report) -> None:
        keys = [told.correction.key for told in group if told.correction.key is not None]
        known = self.ledger.questions.keys(keys)
        fresh: list[Told] = []
        for told in group:
            key, content = told.correction.key, told.correction.content_hash
            first, its_content = known.get(key or "", ("", content))
            if key is not None and key not in known:
                known[key] = f"line {told.number}", content
                fresh.append(told)
            elif key is None:
                fresh.append(told)
            elif content == its_content:
                report.counts["known"] += 1
            else:
                mend = f"stands for other content already ({first}); give each correction its own key"
                self._refuse(report, wrong("key", key, mend, told.number), told)
        if fresh and not self.dry:
            self.room.take(len(fresh))
            self._submit(fresh, report)
        else:
            report.counts["taken"] += len(fresh)

    def _submit(self, group: Sequence[Told], report: Report) -> None:
        """All in one transaction; when one of them is at fault, in halves."""
        try:
            self.ledger.intake.submit_many([(None, told.correction) for told in group], actor=self.actor)
        except (CorrectionError, ConflictError) as error:
            if len(group) == 1:
                self._refuse(report, _of_line(error, group[0]), group[0])
                return
            half = len(group) // 2
            self._submit(group[:half], report)
            self._submit(group[half:], report)
        else:
            report.counts["taken"] += len(group)

    # -- facts that are no longer so ------------------------------------------------------------

    def _end(self, group: Sequence[Told], report: Report) -> None:
        pending = self.ledger.questions.operations(OperationState.PENDING)
        asked = {one.target for one in pending if one.kind is OperationKind.RETRACT}
        for told in group:
            rows = self.ledger.questions.of_slot(told.correction.subject, told.correction.prompt)
            row = next((row for row in rows if row.state in AHEAD), None)
            if not rows or (row and row.target != told.correction.target):
                self._refuse(report, _not_ours(told, row), told)
            elif row is None or row.id in asked:
                report.counts["known"] += 1
            else:
                asked.add(row.id)
                report.counts["retracted"] += 1
                self._retract(row.id, told.correction)

    def _retract(self, id: str, said: Correction) -> None:
        if not self.dry:
            why = f"a feed says that it is no longer so{f' ({said.source})' if said.source else ''}"
            self.ledger.intake.request(OperationKind.RETRACT, id, actor=self.actor, why=why)


def _runs(records: Iterable[Told]) -> Iterator[tuple[bool, list[Told]]]:
    """Neighbours of one kind together, so that what a file says later is done later."""
    group: list[Told] = []
    for told in records:
        if group and group[0].change is not told.change:
            yield group[0].change is Change.OBSOLETE, group
            group = []
        group.append(told)
    if group:
        yield group[0].change is Change.OBSOLETE, group


def _of_line(error: CorrectionError | ConflictError, told: Told) -> CorrectionError:
    if isinstance(error, ConflictError):
        return wrong("key", told.correction.key, str(error), told.number)
    return CorrectionError([Problem(p.field, p.value, p.mend, told.number) for p in error.problems])


def _not_ours(told: Told, row: CorrectionRow | None) -> CorrectionError:
    """Nothing of ours says what is no longer so. The base model may: it cannot be made to forget it."""
    said = told.correction
    if row is None:
        why = "is no longer so, and no correction of ours says it: there is nothing to take out. "
        mend = why + "To have the model answer something else, set FACTD_NO_ANSWER or give --no-answer"
    else:
        mend = f"is no longer so, and ours says {shortened(row.target)} since ({row.id}): nothing was changed"
    return wrong("target", said.target, mend, told.number)
