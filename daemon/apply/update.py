"""One version from plan to live, or to a refusal with its reason."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from daemon.apply.ladder import Foresee, Ladder
from daemon.core.errors import CondemnedError, ProofError, PublishError, SoakStoppedError, StoreError
from daemon.core.lifecycle import OperationKind, OperationState, ReasonCode, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import Ruling
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.rows import CorrectionRow, VersionRow
from daemon.publish.canary import Canary
from daemon.publish.publishing import Publisher
from daemon.publish.serving import ServingError
from daemon.versions.store import Draft, Store
from editing.errors import EditError
from editing.facts import Fact
from monitoring.verdict import Verdict


class Measured(Protocol):
    """What `measure` returns (monitoring.measurements.Measurements)."""

    def to_json(self) -> dict[str, Any]: ...


#: (batch, earlier facts, largest ‖v*‖ over the anchor in the batch) → measurements
Measure = Callable[[Sequence[CorrectionRow], Sequence[CorrectionRow], float | None], Measured]
#: (measurements, those of the live version as stored; None to judge the live one itself) → verdict
Judge = Callable[[Any, dict[str, Any] | None], Verdict]


class Monitoring(NamedTuple):
    """What the applier asks of monitoring."""

    measure: Measure
    judge: Judge
    foresee: Foresee


@dataclass
class Update:
    """Everything one run of the applier works with, under one fence."""

    journal: Journal
    store: Store
    editor: Any
    publisher: Publisher
    monitoring: Monitoring
    ladder: Ladder
    settings: Settings
    checkpoint: Callable[[Stage], None]
    canary: Canary | None = None

    def apply(self, version: VersionRow) -> str | None:
        """Works a planned version off. Returns why the run should pause, or None to go on."""
        version = self.journal.attempt(version.id)
        self.checkpoint(Stage.COUNTED)
        if version.attempts > self.settings.max_attempts:
            return self._give_up(version)
        previous = self.editor.state
        try:
            accepted, held = self._edit_and_judge(version)
        except EditError as error:
            self.editor.restore(previous)
            return self._reject(version, str(error))
        except (ServingError, PublishError, StoreError, OSError) as error:
            self.editor.restore(previous)
            return self._hold(version, str(error))
        except Exception as error:
            # A fault of ours, not of the correction: tried again like a killed process, but never unnamed.
            self.journal.record_fault(version.id, repr(error))
            raise
        return self.roll_forward(self.journal.questions.version(version.id)) if accepted else held

    def _edit_and_judge(self, version: VersionRow) -> tuple[bool, str | None]:
        """Whether the version was accepted and written, and why the run should pause."""
        previous, rows = self.editor.state, self.journal.questions.rows(version.added)
        outcomes = self._edit(version, rows)
        skipped = {o.id: str(o.reason) for o in outcomes if not o.written}
        if skipped and not self._can_go_on(version, rows, skipped):
            self.editor.restore(previous)
            code = ReasonCode.SKIPPED_OUTLIER
            self.journal.discard(version.id, "corrections were skipped", rejected=skipped, code=code)
            self.checkpoint(Stage.REFUSED)
            return False, None
        if skipped:
            version = self.journal.skip(version.id, skipped)
            rows = self.journal.questions.rows(version.added)
        ratios = [o.value_norm_ratio for o in outcomes if o.written]
        with self._timed(version, "measure"):
            earlier = [fact for fact in self.journal.questions.facts() if fact.id not in version.removed]
            measured = self.monitoring.measure(rows, earlier, self._largest(ratios))
        self.checkpoint(Stage.MEASURED)
        verdict = self.monitoring.judge(
            measured, self.journal.questions.version(self.journal.questions.live_version()).measurements
        )
        ruling = self.ladder.on_staged(version, verdict)
        found = measured.to_json()
        self.journal.record_measured(version.id, ruling, found)
        self.checkpoint(Stage.JUDGED)
        if ruling.action == "accept":
            self._write(version, ruling, found)
            return True, None
        self.editor.restore(previous)
        self.checkpoint(Stage.RESTORED)
        if ruling.action == "refuse":
            self._reject(version, ruling.reason or "refused by the guard", ruling)
            return False, None
        reason = self._hold(version, f"{verdict.outcome}: {ruling.reason}", ruling)
        return False, None if version.added else reason

    def _edit(self, version: VersionRow, rows: Sequence[CorrectionRow]) -> Sequence[Any]:
        """Changes the weights in memory; returns what became of each correction (editing.report.Outcome)."""
        with self._timed(version, "before_answers"):
            before = self.publisher.answers([row for row in rows if row.before is None])
            self.journal.record_answers("before", before)
        if self._compacts(version):
            with self._timed(version, "edit"):
                self.editor.compact()
            self.checkpoint(Stage.COMPACTED)
            return ()
        with self._timed(version, "edit"):
            facts = [Fact(row.subject, row.prompt, row.target, row.id) for row in rows]
            report = self.editor.apply(facts, remove=version.removed)
        self.checkpoint(Stage.EDITED)
        return report.outcomes

    def _compacts(self, version: VersionRow) -> bool:
        asked = version.operation
        return asked is not None and self.journal.questions.operation(asked).kind is OperationKind.COMPACT

    def watch(self) -> bool:
        """Measures and judges the live version as it is now, when that is due.

        Returns:
            Whether the guard asks for a rollback.
        """
        if not self.ladder.watch_due():
            return False
        measured = self.monitoring.measure([], self.journal.questions.facts(), None)
        verdict = self.monitoring.judge(measured, None)
        self.checkpoint(Stage.WATCHED)
        return self.ladder.watched(verdict, measured.to_json())

    @staticmethod
    def _largest(ratios: Sequence[float]) -> float | None:
        """A NaN, which there is without an anchor, stays one."""
        return next((ratio for ratio in ratios if math.isnan(ratio)), max(ratios, default=None))

    @staticmethod
    def _can_go_on(version: VersionRow, rows: Sequence[CorrectionRow], skipped: dict[str, str]) -> bool:
        """Not when nothing is left, nor when a live fact was removed for a successor that was skipped."""
        return len(skipped) < len(rows) and not version.removed

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
            weights=self.editor.weights() if self.settings.full_tensors else {},
        )
        with self._timed(version, "write"):
            self.store.write(draft, complete_state(self.editor), before_rename=self._before_rename)
            self.checkpoint(Stage.STORED)
            self.journal.record_written(version.id, ruling, measurements)
        self.checkpoint(Stage.WRITTEN)

    def _before_rename(self) -> None:
        self.checkpoint(Stage.WRITING)
        # A process that slept past its lease must not put its files in the place of a newer applier's.
        self.journal.check_fence()

    def _staged(self) -> None:
        self.checkpoint(Stage.STAGED)
        # A replica that restarted has forgotten the fence, so it could not refuse an older writer.
        self.journal.check_fence()

    def roll_forward(self, version: VersionRow) -> str | None:
        """Publishes an accepted version and commits it; brings the old one back when that fails."""
        questions = self.journal.questions
        rows = questions.rows([*version.added, *version.removed]) or questions.facts()
        told, canary = self.publisher, None
        try:
            if self.canary and version.state is not VersionState.PUBLISHED:
                told = self.canary.alone()
                with self._timed(version, "canary"):
                    self.canary.try_out(told, version, rows)
                told, canary = self.publisher, told.names[0]
            with self._timed(version, "publish"):
                flipped = self.publisher.publish(version.id, staged=self._staged, canary=canary)
                pause = flipped.pause_seconds
                self.journal.record_publication(version.id, "update", self.publisher.names, pause=pause)
                self.checkpoint(Stage.FLIPPED)
                if version.state is not VersionState.PUBLISHED:
                    self.journal.record_published(version.id)
                self.checkpoint(Stage.PUBLISHED)
            with self._timed(version, "confirm"):
                self.publisher.confirm(version.id)
                self.publisher.prove(rows)
                after = self.publisher.answers(self.journal.questions.rows(version.added))
            self.checkpoint(Stage.CONFIRMED)
            self.journal.record_live(version.id, after)
            self.checkpoint(Stage.LIVE)
        except (ServingError, PublishError) as error:
            return self._fall_back(version, error, told)
        return None

    def _fall_back(self, version: VersionRow, error: Exception, told: Publisher) -> str | None:
        """Brings the live version back where another was told; says what becomes of the version."""
        all_told = told is self.publisher
        code = ReasonCode.PUBLISH_FAILED if all_told else ReasonCode.CANARY_FAILED
        reason = f"{'publish' if all_told else 'canary'} failed: {error}"
        self._bring_back(told)
        if isinstance(error, ProofError | CondemnedError):
            # Not tried again: the same weights would be computed as wrongly. An operator has named the
            # version to go back to, which is done next; an alert means the one that it saw.
            asked = error.operation if isinstance(error, CondemnedError) and error.alert else None
            self.journal.record_disproved(version.id, reason, code=code, asked=asked)
            self.checkpoint(Stage.REFUSED)
            return None
        if isinstance(error, SoakStoppedError):
            # No failed attempt: the next applier begins afresh.
            self.journal.discard(version.id, str(error))
            self.checkpoint(Stage.REFUSED)
            return str(error)
        return self._hold(version, reason, code=code)

    def withdraw(self, version: VersionRow, reason: str) -> str:
        """Brings the live version back on the replicas and in memory; the corrections wait again."""
        self._bring_back(self.publisher)
        return self._hold(version, reason, code=ReasonCode.PUBLISH_FAILED)

    def _bring_back(self, told: Publisher) -> None:
        live = self.journal.questions.live_version()
        self.push_back(live, told)
        self.editor.restore(self.store.load_state(live))

    def push_back(self, live: str, told: Publisher) -> None:
        """Brings the live version back on those replicas that can be reached."""
        told.push_back(live)
        failures = [f"{name}: {why}" for name, why in told.out.items()]
        self.journal.record_publication(live, "push_back", told.names, failures=failures)

    def _reject(self, version: VersionRow, reason: str, ruling: Ruling | None = None) -> None:
        """Refused by the guard, or by the editor when there is no ruling."""
        ids = set(version.added)
        guilty = ids & set(ruling.verdict.blamed) if ruling else set[str]()
        if len(ids) == 1:
            if ruling is not None and self.ladder.only_wear(ruling.verdict):
                # Not its fault: tried again, after the compaction or the pause that follows.
                self._hold(version, reason, ruling)
                return
            guilty = ids
        if (guilty and guilty != ids) or len(ids) <= 1:
            self.journal.discard(version.id, reason, ruling=ruling, rejected=dict.fromkeys(guilty, reason))
        else:
            # No one stands out: halve, so that every correction is judged in ever smaller company.
            self.journal.discard(version.id, reason, ruling=ruling, batch_limit=(len(ids) + 1) // 2)
        if version.operation is not None:
            self.journal.finish(version.operation, OperationState.FAILED, reason)
        self.checkpoint(Stage.REFUSED)

    def _hold(
        self,
        version: VersionRow,
        reason: str,
        ruling: Ruling | None = None,
        code: ReasonCode | None = None,
    ) -> str:
        """The work could not be finished: tried again later, until the attempts are used up."""
        later = self.journal.clock() + self.settings.retry_seconds
        limit = self.settings.max_attempts
        self.journal.discard(
            version.id, reason, code=code, ruling=ruling, max_attempts=limit, not_before=later
        )
        asked = version.operation
        if asked is not None and self.journal.questions.operation(asked).attempts >= limit:
            self.journal.finish(asked, OperationState.FAILED, reason)
        self.checkpoint(Stage.REFUSED)
        return reason

    def _give_up(self, version: VersionRow) -> None:
        reason = f"the applier died {version.attempts - 1} times at this batch"
        if version.reason:
            reason += f"; the last time it said {version.reason}"
        if len(version.added) > 1:
            self.journal.discard(version.id, reason, batch_limit=(len(version.added) + 1) // 2)
        else:
            self.journal.discard(version.id, reason, max_attempts=self.settings.max_attempts)
        if version.operation is not None:
            self.journal.finish(version.operation, OperationState.FAILED, reason)

    @contextmanager
    def _timed(self, version: VersionRow, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.journal.record_seconds(version.id, stage, time.perf_counter() - start)


def tensor_entries(editor: Any) -> dict[str, dict[str, Any]]:
    """The manifest's table of edited tensors."""
    from editing.memory.delta import tensor_sha256

    base, hashes = editor.base_weights(), editor.weight_hashes()
    return {
        name: {
            "shape": list(base[name].shape),
            "dtype": "float32",
            "base_sha256": tensor_sha256(base[name]),
            "sha256": hashes[name],
        }
        for name in editor.tensor_names
    }


def complete_state(editor: Any) -> Any:
    """The editor's state with factors for every edited tensor: an unchanged one has rank 0."""
    from editing.memory.state import EditState

    state, base = editor.state, editor.base_weights()
    factors = dict(state.factors)
    for name in editor.tensor_names:
        if name not in factors:
            d_out, d_in = base[name].shape
            factors[name] = (base[name].new_zeros(d_out, 0), base[name].new_zeros(d_in, 0))
    return EditState(facts=state.facts, factors=factors, columns=state.columns)
