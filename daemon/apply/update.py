"""One version from plan to written, and on to live; or a refusal with its reason."""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from daemon.apply.delivery import Delivery
from daemon.apply.discards import Discards
from daemon.apply.editor import complete_state, tensor_entries
from daemon.apply.measuring import Measured
from daemon.apply.outcomes import Ended, Held, Refused
from daemon.apply.run import Run
from daemon.core.asks import Ask
from daemon.core.errors import PublishError, StoreError
from daemon.core.lifecycle import REWRITING, OperationKind
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import Ruling
from daemon.core.stages import Stage
from daemon.ledger.record.answers import Lost
from daemon.ledger.rows import CorrectionRow, VersionRow
from daemon.publish.serving import ServingError, timed_out
from daemon.versions.store import Draft
from editing.errors import EditError
from editing.report import Outcome


@dataclass(frozen=True)
class _Written:
    """The version was accepted and is in the store and in the ledger."""

    version: str


class Update:
    """Works planned versions off: edit, measure, judge, write, deliver."""

    def __init__(self, run: Run, delivery: Delivery, discards: Discards) -> None:
        self.run, self.delivery, self.discards = run, delivery, discards
        self.journal, self.editor, self.reached = run.journal, run.editor, run.reached

    def apply(self, version: VersionRow) -> Ended:
        """Works a planned version off."""
        version = self.journal.attempt(version.id)
        self.reached(Stage.COUNTED)
        if version.attempts > self.run.settings.max_attempts:
            return self.discards.give_up(version)
        try:
            judged = self._edit_and_judge(version)
        except EditError as error:
            self.run.restorer.to_live()
            return self.discards.reject(version, str(error))
        except (ServingError, PublishError, StoreError, OSError) as error:
            self.run.restorer.to_live()
            return self.discards.hold(version, str(error), counted=not timed_out(error))
        except Exception as error:
            # A fault of ours, not of the correction: tried again like a killed process, but never unnamed.
            self.journal.record_fault(version.id, repr(error))
            raise
        if isinstance(judged, _Written):
            return self.delivery.roll_forward(self.journal.questions.version(judged.version))
        return judged

    def _edit_and_judge(self, version: VersionRow) -> _Written | Refused | Held:
        rows = self.journal.questions.rows(version.added)
        outcomes = self._edit(version, rows)
        skipped = {o.id: str(o.reason) for o in outcomes if not o.written}
        if skipped and not _can_go_on(version, rows, skipped):
            self.run.restorer.to_live()
            return self.discards.skip(version, skipped)
        if skipped:
            version = self.journal.skip(version.id, skipped)
            rows = self.journal.questions.rows(version.added)
        measured = self._measure(version, rows, [o.value_norm_ratio for o in outcomes if o.written])
        ruling, found = self._judge(version, measured), measured.to_json()
        self.journal.record_measured(version.id, ruling, found)
        self.reached(Stage.JUDGED)
        if ruling.action == "accept":
            self._write(version, ruling, found)
            return _Written(version.id)
        self.run.restorer.to_live()
        self.reached(Stage.RESTORED)
        return self._refuse(version, ruling)

    def _refuse(self, version: VersionRow, ruling: Ruling) -> Refused | Held:
        if ruling.action == "refuse":
            return self.discards.reject(version, ruling.reason or "refused by the guard", ruling)
        held = self.discards.hold(version, f"{ruling.verdict.outcome}: {ruling.reason}", ruling)
        # Corrections wait for their next attempt and others go on; an operation would be tried again at once.
        return Refused(held.reason, ruling) if version.added else held

    def _edit(self, version: VersionRow, rows: Sequence[CorrectionRow]) -> Sequence[Outcome]:
        """Changes the weights in memory; returns what became of each correction."""
        if version.operation is not None and self._rewrites(version.operation):
            with self.run.timed(version.id, "edit"):
                self._rewrite(version.operation)
            self.reached(Stage.COMPACTED)
            return ()
        with self._asked_meanwhile(version, rows), self.run.timed(version.id, "edit"):
            facts = [self.run.asking.fact(row) for row in rows]
            report = self.editor.apply(facts, remove=version.removed)
        self.reached(Stage.EDITED)
        return report.outcomes

    @contextmanager
    def _asked_meanwhile(self, version: VersionRow, rows: Sequence[CorrectionRow]) -> Generator[None]:
        """A replica is asked what it says before the update, while the model in memory is changed."""

        def ask() -> tuple[dict[Ask, str], float]:
            start = time.perf_counter()
            told = self.run.publisher.answers(self.run.asking.unasked(rows))
            return told, time.perf_counter() - start

        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask)
            try:
                yield
            finally:
                # Of corrections that are refused as well.
                told, seconds = asked.result()
                self.journal.record_answers("before", told)
                self.journal.record_seconds(version.id, "before_answers", seconds)

    def _rewrites(self, operation: int) -> bool:
        return self.journal.questions.operation(operation).kind in REWRITING

    def _rewrite(self, operation: int) -> None:
        """Takes what was prepared in the background, with all that went live since.

        A small compaction the applier makes itself.
        """
        if self.run.jobs is None or not self.run.jobs.begun(operation):
            consolidates = self.journal.questions.operation(operation).kind is OperationKind.CONSOLIDATE
            return self.editor.consolidate() if consolidates else self.editor.compact()
        self.editor.rebase(*self.run.jobs.result(operation, self.run.store))

    def _measure(
        self, version: VersionRow, rows: Sequence[CorrectionRow], ratios: Sequence[float]
    ) -> Measured:
        with self.run.timed(version.id, "measure"):
            earlier = [fact for fact in self.journal.questions.facts() if fact.id not in version.removed]
            measured = self.run.monitoring.measure(rows, earlier, _largest(ratios))
        self.reached(Stage.MEASURED)
        return measured

    def _judge(self, version: VersionRow, measured: Measured) -> Ruling:
        live = self.journal.questions.version(self.journal.questions.live_version())
        verdict = self.run.monitoring.judge(measured, live.measurements)
        return self.run.ladder.on_staged(version, verdict)

    def watch(self) -> bool:
        """Measures and judges the live version as it is now, when that is due.

        Returns:
            Whether the guard asks for a rollback.
        """
        if not self.run.ladder.watch_due():
            return False
        measured = self.run.monitoring.measure([], self.journal.questions.facts(), None)
        verdict, found = self.run.monitoring.judge(measured, None), measured.to_json()
        # The model in memory may say what a replica does not: a fact that is lost there stays so.
        again: Lost = found.get("again", {})
        self.journal.record_asked_again({id: forms for id, forms in again.items() if forms})
        self.reached(Stage.WATCHED)
        return self.run.ladder.watched(verdict, found)

    def _write(self, version: VersionRow, ruling: Ruling, measurements: dict[str, Any]) -> None:
        draft = Draft(
            version=version.id,
            parent=version.parent or BASE_VERSION,
            base_hash=self.editor.base_hash,
            settings_hash=self.editor.settings_hash,
            tensors=tensor_entries(self.editor),
            fence=self.journal.fence,
            created=self.journal.clock(),
            verdict=ruling.to_json(),
            measurements=measurements,
            weights=self.editor.weights() if self.run.settings.full_tensors else {},
        )
        with self.run.timed(version.id, "write"):
            self.run.store.write(draft, complete_state(self.editor), before_rename=self._before_rename)
            self.reached(Stage.STORED)
            self.journal.record_written(version.id, ruling, measurements)
        self.reached(Stage.WRITTEN)

    def _before_rename(self) -> None:
        self.reached(Stage.WRITING)
        # A process that slept past its lease must not put its files in the place of a newer applier's.
        self.journal.check_fence()


def _largest(ratios: Sequence[float]) -> float | None:
    """A NaN, which there is without an anchor, stays one."""
    return next((ratio for ratio in ratios if math.isnan(ratio)), max(ratios, default=None))


def _can_go_on(version: VersionRow, rows: Sequence[CorrectionRow], skipped: Mapping[str, str]) -> bool:
    """Not when nothing is left, nor when a live fact was removed for a successor that was skipped."""
    return len(skipped) < len(rows) and not version.removed
