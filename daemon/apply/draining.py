"""What waits, one step at a time: operations first, then batches of corrections."""

import time

from daemon.apply.operations import Operations
from daemon.apply.outcomes import Ended, Held, Went
from daemon.apply.planning import Plan, plan_batch
from daemon.apply.run import Run
from daemon.apply.update import Update
from daemon.core.lifecycle import OperationState
from daemon.core.ruling import GUARD
from daemon.core.stages import Stage

#: pending corrections looked at for one batch; newer ones of a slot beyond it supersede later
WINDOW = 2000
#: while a batch waits for company the ledger is asked so often, seconds
COMPANY_SECONDS = 0.1


class Drain:
    """Takes what waits in the ledger and works it off."""

    def __init__(self, run: Run, update: Update, operations: Operations) -> None:
        self.run, self.update, self.operations = run, update, operations
        self.journal, self.ladder = run.journal, run.ladder

    def drain(self) -> Went | Held:
        """Until nothing waits, the applier is told to stop, or something holds."""
        while not self.run.stopping() and self._waits():
            ended = self.step()
            self.ladder.look_ahead()
            if isinstance(ended, Held):
                return ended
        return Went()

    def _waits(self) -> bool:
        if self.journal.operations(OperationState.PENDING):
            return True
        return self.journal.paused() is None and self.journal.pending_count() > 0

    def step(self) -> Ended:
        """The next operation, or the next batch where there is none."""
        operations = self.journal.operations(OperationState.PENDING)
        # A rollback by the guard must not wait behind a retraction that is held.
        operations.sort(key=lambda operation: operation.actor != GUARD)
        return self.operations.work(operations[0]) if operations else self._batch()

    def _batch(self) -> Ended:
        resting = self.ladder.rest()
        if isinstance(resting, Held):
            return resting
        plan = self._planned()
        if plan is None:
            return Went()
        for end in plan.settled:
            self.journal.settle(end.id, end.state, end.reason, superseded_by=end.by)
        if not plan.added:
            return Went() if plan.settled else Held("corrections wait for their next attempt")
        version = self.journal.plan([row.id for row in plan.added], plan.removed)
        self.run.reached(Stage.PLANNED)
        return self.update.apply(version)

    def _planned(self) -> Plan | None:
        """The next batch. An incomplete one waits for company; None when an operation came meanwhile."""
        plan = self._plan()
        deadline = time.monotonic() + plan.wait_seconds
        while plan.wait_seconds > 0 and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, COMPANY_SECONDS))
            if self.journal.operations(OperationState.PENDING):
                return None
            plan = self._plan()
        return plan

    def _plan(self) -> Plan:
        settings, now = self.run.settings, self.journal.clock()
        pending, facts = self.journal.pending(WINDOW), self.journal.facts()
        patience, rest = settings.batch_wait_seconds, settings.retry_seconds
        return plan_batch(pending, facts, settings.batch_size, now, patience, rest)
