"""What is asked for by operators, alerts, the guard and the clock: pause, compact, retract, roll back."""

from collections.abc import Sequence

from daemon.apply.delivery import Delivery
from daemon.apply.outcomes import Ended, Held, Refused, Went
from daemon.apply.run import Run
from daemon.apply.update import Update
from daemon.core.errors import PublishError, StoreError
from daemon.core.lifecycle import PENDING, REWRITING, OperationKind, OperationState, State
from daemon.core.publication import BASE_VERSION
from daemon.core.stages import Stage
from daemon.ledger.record.schedule import MOST
from daemon.ledger.rows import OperationRow
from daemon.publish.publication import Publication
from daemon.publish.serving import ServingError, timed_out
from monitoring.policy import resumed


class Operations:
    """Works operations off, each to an end that the ledger names."""

    def __init__(self, run: Run, update: Update, delivery: Delivery) -> None:
        self.run, self.update, self.delivery = run, update, delivery
        self.journal, self.reached = run.journal, run.reached

    def work(self, operation: OperationRow) -> Ended:
        """Does what was asked, or says in the ledger why not."""
        if operation.kind is OperationKind.PAUSE:
            who = {"actor": operation.actor, "why": operation.why, "at": self.journal.clock()}
            return self._finish(operation, OperationState.DONE, "paused", paused=who)
        if operation.kind is OperationKind.RESUME:
            again = resumed(self.journal.questions.policy()).to_json()
            return self._finish(operation, OperationState.DONE, "resumed", paused=None, policy=again)
        ruling = self.run.ladder.on_alert(operation)
        if ruling is not None and ruling.action != "rollback":
            self.journal.guard.refuse_alert(operation.id, ruling)
            return Refused(ruling.reason, ruling)
        if self.journal.attempt_operation(operation.id, ruling) > self.run.settings.max_attempts:
            return self._finish(operation, OperationState.FAILED, "gave up: too many attempts")
        if operation.kind in REWRITING:
            return self._rewrite(operation)
        if operation.kind is OperationKind.EXPIRE:
            return self._expire(operation)
        retract = operation.kind is OperationKind.RETRACT
        return self._retract(operation) if retract else self._roll_back(operation)

    def due(self, operation: OperationRow, pending: Sequence[OperationRow]) -> bool:
        """Whether it can be worked now. The oldest compaction or consolidation is prepared in the background
        first; a small compaction the applier makes itself."""
        jobs, facts = self.run.jobs, len(self.run.editor.state.facts)
        if jobs is None or operation.kind not in REWRITING or not facts:
            return True
        if operation.kind is OperationKind.COMPACT and not jobs.wants(operation.id, facts):
            return True
        oldest = next(each for each in pending if each.kind in REWRITING)
        return operation is oldest and jobs.ready(operation, self.journal)

    def _finish(
        self, operation: OperationRow, state: OperationState, reason: str, **controls: object
    ) -> Went | Refused:
        self.journal.finish(operation.id, state, reason, **controls)
        return Refused(reason) if state is OperationState.FAILED else Went()

    def _rewrite(self, operation: OperationRow) -> Ended:
        if not self.run.editor.state.facts:
            why = f"no fact is live: nothing to {operation.kind}"
            return self._finish(operation, OperationState.DONE, why)
        if self.run.jobs is not None and (why := self.run.jobs.failure(operation.id)) is not None:
            return self._finish(operation, OperationState.FAILED, why)
        return self._apply(operation, [])

    def _retract(self, operation: OperationRow) -> Ended:
        row = self.journal.questions.get(operation.target or "")
        if row.state is State.LIVE:
            children = self.journal.questions.children(row.id)
            return self._apply(operation, [row.id, *(one.id for one in children if one.state is State.LIVE)])
        if row.state in PENDING:
            self.journal.settle(row.id, State.RETRACTED, "retracted before it was written")
            return self._finish(operation, OperationState.DONE, "retracted before it was written")
        if row.state is State.RETRACTED:
            return self._finish(operation, OperationState.DONE, "already retracted")
        reason = f"correction {row.id} is {row.state}; only a live or pending one can be retracted"
        return self._finish(operation, OperationState.FAILED, reason)

    def _expire(self, operation: OperationRow) -> Ended:
        """Those whose time is over leave in one version. The clock asks again for more than `MOST`."""
        ids = self.journal.questions.over(MOST)
        if not ids:
            return self._finish(operation, OperationState.DONE, "no live fact's time is over")
        return self._apply(operation, ids)

    def _apply(self, operation: OperationRow, removed: list[str]) -> Ended:
        version = self.journal.plan([], removed, operation.id)
        self.reached(Stage.PLANNED)
        return self.update.apply(version)

    def _roll_back(self, operation: OperationRow) -> Ended:
        live, target = self.journal.questions.live_version(), operation.target or BASE_VERSION
        if live == target:
            return self._finish(operation, OperationState.DONE, f"{target} is live already")
        try:
            self.run.restorer.to(target)
            self.reached(Stage.ROLLBACK_RESTORED)
            publication = self._publication(live, target)
            publication.flip()
            publication.prove()
            facts = self.journal.questions.rows(self.journal.questions.fact_ids(target))
            back = self.run.lost_today([fact for fact in facts if fact.lost])
            self.reached(Stage.ROLLBACK_FLIPPED)
        except StoreError as error:
            self.journal.finish(operation.id, OperationState.FAILED, str(error))
            self.run.restorer.to(live)
            return Refused(str(error))
        except (ServingError, PublishError) as error:
            self.delivery.push_back(live, self.run.publisher)
            self.run.restorer.to(live)
            self.delivery.prove_back(live, self.run.publisher)
            if timed_out(error):
                self.journal.guard.forgive_operation(operation.id)
            return Held(f"rollback to {target} held: {error}")
        self.journal.record_rollback(target, operation)
        self.journal.record_asked_again(back)
        self.reached(Stage.ROLLED_BACK)
        return Went()

    def _publication(self, live: str, target: str) -> Publication:
        """Of a rollback; proved with the facts in which the two versions differ."""
        differ = set(self.journal.questions.fact_ids(live)) ^ set(self.journal.questions.fact_ids(target))
        rows = self.journal.questions.rows(sorted(differ))
        return Publication(self.journal, self.run.publisher, target, "rollback", rows)
