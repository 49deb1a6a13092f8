"""Giving a version up: what becomes of its corrections, and of the operation that asked for it."""

from collections.abc import Mapping, Set

from daemon.apply.outcomes import Held, Refused
from daemon.apply.run import Run
from daemon.core.lifecycle import OperationState, ReasonCode
from daemon.core.ruling import Ruling
from daemon.core.stages import Stage
from daemon.ledger.rows import VersionRow
from monitoring.verdict import reasons_for


class Discards:
    """Writes refusals and retries of one run."""

    def __init__(self, run: Run) -> None:
        self.journal, self.ladder = run.journal, run.ladder
        self.settings, self.reached = run.settings, run.reached

    def skip(self, version: VersionRow, skipped: Mapping[str, str]) -> Refused:
        """The editor skipped corrections, and without them the version makes no sense."""
        reason = "corrections were skipped"
        self.journal.discard(version.id, reason, rejected=skipped, code=ReasonCode.SKIPPED_OUTLIER)
        self.reached(Stage.REFUSED)
        return Refused(reason)

    def reject(self, version: VersionRow, reason: str, ruling: Ruling | None = None) -> Refused:
        """Refused by the guard, or by the editor when there is no ruling."""
        ids = set(version.added)
        guilty = ids & set(ruling.verdict.blamed) if ruling else set[str]()
        if len(ids) == 1:
            if ruling is not None and self.ladder.only_wear(ruling.verdict):
                # The model is at fault: the correction is tried again after a compaction, or waits for it.
                self.hold(version, reason, ruling, counted=not self.ladder.compacts())
                return Refused(reason, ruling)
            guilty = ids
        if (guilty and guilty != ids) or len(ids) <= 1:
            told = {id: _told(id, ids, reason, ruling) for id in guilty}
            self.journal.discard(version.id, reason, ruling=ruling, rejected=told)
        else:
            # No correction is blamed alone: in halves, each is judged in ever smaller company.
            self.journal.discard(version.id, reason, ruling=ruling, batch_limit=_half(version))
        self._fail_operation(version, reason)
        self.reached(Stage.REFUSED)
        return Refused(reason, ruling)

    def hold(
        self,
        version: VersionRow,
        reason: str,
        ruling: Ruling | None = None,
        code: ReasonCode | None = None,
        *,
        counted: bool = True,
    ) -> Held:
        """The work could not be finished: tried again later, until the attempts are used up.

        Args:
            counted: False when a replica was too slow: that uses up no attempt.
        """
        later = self.journal.clock() + self.settings.retry_seconds
        limit = self.settings.max_attempts
        self.journal.discard(
            version.id,
            reason,
            code=code,
            ruling=ruling,
            max_attempts=limit,
            counted=counted,
            not_before=later,
        )
        asked = version.operation
        if asked is not None and self.journal.questions.operation(asked).attempts >= limit:
            self._fail_operation(version, reason)
        self.reached(Stage.REFUSED)
        return Held(reason)

    def give_up(self, version: VersionRow) -> Refused:
        """The process died at this batch too often."""
        reason = f"the applier died {version.attempts - 1} times at this batch"
        if version.reason:
            reason += f"; the last time it said {version.reason}"
        if len(version.added) > 1:
            self.journal.discard(version.id, reason, batch_limit=_half(version))
        else:
            self.journal.discard(version.id, reason, max_attempts=self.settings.max_attempts)
        self._fail_operation(version, reason)
        return Refused(reason)

    def _fail_operation(self, version: VersionRow, reason: str) -> None:
        if version.operation is not None:
            self.journal.finish(version.operation, OperationState.FAILED, reason)


def _told(id: str, batch: Set[str], reason: str, ruling: Ruling | None) -> str:
    """What a correction was refused for, without what was wrong with others of its batch."""
    mine = reasons_for(id, ruling.verdict.reasons, batch) if ruling and len(batch) > 1 else []
    return "; ".join(mine) or reason


def _half(version: VersionRow) -> int:
    return (len(version.added) + 1) // 2
