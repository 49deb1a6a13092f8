"""The single writer: takes the lease, makes ledger, store, model and replicas agree, drains what waits."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from daemon.apply.asking import asking_of
from daemon.apply.background.jobs import Jobs
from daemon.apply.delivery import Delivery
from daemon.apply.discards import Discards
from daemon.apply.editor import Editor
from daemon.apply.ladder import Ladder
from daemon.apply.measuring import Monitoring
from daemon.apply.operations import Operations
from daemon.apply.outcomes import Ended, Held, Went
from daemon.apply.planning import Plan, plan_batch
from daemon.apply.reconciling import Reconciliation
from daemon.apply.restoring import Proved, Restorer
from daemon.apply.run import Reached, Run
from daemon.apply.trust.screening import screened
from daemon.apply.update import Update
from daemon.core.lifecycle import OperationState
from daemon.core.publication import UNPUBLISHED
from daemon.core.ruling import GUARD
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.lease import Lease
from daemon.ledger.ledger import Ledger
from daemon.ledger.record.disproved import record_disproved
from daemon.ledger.record.following import Following
from daemon.ledger.record.schedule import Schedule
from daemon.ledger.rows import OperationRow
from daemon.publish.canary import Canary
from daemon.publish.proof import Proof
from daemon.publish.publishing import Publisher
from daemon.publish.serving import Serves, ServingError
from daemon.versions.store import Store

#: pending corrections looked at for one batch; newer ones of a slot beyond it supersede later
WINDOW = 2000
#: while a batch waits for company the ledger is asked so often, seconds
COMPANY_SECONDS = 0.1


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        held: why it stopped before everything was drained.
        out: replica that could not be brought to the live version → why.
    """

    live: str
    versions: list[str] = field(default_factory=list[str])
    held: str | None = None
    out: dict[str, str] = field(default_factory=dict[str, str])


class Applier:
    """Applies corrections and operations of one ledger to one model and its replicas.

    Args:
        editor: an `editing.Editor`; its weights are the live version's between runs.
        proof: compares what replicas compute with the editor's model; None compares hashes only.
        reached: called at each boundary between steps, for tests that stop there.

    Attributes:
        jobs: work that a process of its own prepares; None does all work here.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        editor: Editor,
        replicas: Sequence[Serves],
        *,
        monitoring: Monitoring,
        settings: Settings,
        proof: Proof | None = None,
        reached: Reached = lambda stage: None,
    ) -> None:
        self.proof = proof
        self.ledger, self.store, self.editor, self.replicas = ledger, store, editor, tuple(replicas)
        self.monitoring, self.settings, self.reached = monitoring, settings, reached
        self.jobs: Jobs | None = None
        self._proved = Proved()
        #: The model in memory can be at one version only: one thread at a time.
        self._turn = threading.Lock()
        self.ran_at = -math.inf

    def run(self, stopping: Callable[[], bool] = lambda: False) -> RunReport:
        """Reconciles, then drains operations and batches until nothing waits or something holds.

        Args:
            stopping: asked between batches and while a canary is watched; when true, what waits is left
                to the next run.

        Raises:
            LeaseHeldError: another applier is at work.
            LeaseLostError: a newer applier took over; nothing more was written.
            StoreError: the live version cannot be rebuilt.
        """
        with self._turn:
            return self._work(stopping)

    def bring_back(self) -> RunReport | None:
        """Brings replicas that were started anew to the live version, and takes up nothing that waits.

        Returns:
            None when there is no such replica, or a run is under way.

        Raises:
            as `run`.
        """
        if not any(map(_started_anew, self.replicas)) or not self._turn.acquire(blocking=False):
            return None
        try:
            return self._work(lambda: True, drains=False)
        finally:
            self._turn.release()

    def _work(self, stopping: Callable[[], bool], *, drains: bool = True) -> RunReport:
        with Lease(self.ledger.database, self.settings.lease_seconds) as lease:
            self.reached(Stage.LEASED)
            # What was proved is forgotten with a run that ends in a fault: nobody has looked at what it left.
            proved, self._proved = self._proved, Proved()
            run = self._run(Journal(self.ledger.database, lease.fence), proved, stopping)
            report = _go(run, drains)
            with run.journal.writing() as c:
                record_disproved(c, run.publisher.disproved)
            self._proved, self.ran_at = run.restorer.proved, time.monotonic()
            return report

    def _run(self, journal: Journal, proved: Proved, stopping: Callable[[], bool]) -> Run:
        publisher = Publisher(self.replicas, self.store, journal.fence, self.proof)
        return Run(
            journal=journal,
            following=Following(self.ledger.database),
            schedule=Schedule(self.ledger.database, journal.fence),
            store=self.store,
            editor=self.editor,
            restorer=Restorer(journal, self.store, self.editor, proved),
            publisher=publisher,
            monitoring=self.monitoring,
            ladder=Ladder(journal, self.store, self.settings, self.monitoring.foresee, self.reached),
            settings=self.settings,
            asking=asking_of(self.settings, self.editor),
            reached=self.reached,
            stopping=stopping,
            canary=self._canary(journal, publisher, stopping),
            jobs=self.jobs,
        )

    def _canary(self, journal: Journal, publisher: Publisher, stopping: Callable[[], bool]) -> Canary | None:
        name, seconds = self.settings.canary, self.settings.canary_seconds
        if name is None:
            return None
        return Canary(journal, publisher, name, seconds, stopping, self.reached)


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

    def _operations(self) -> list[OperationRow]:
        """Those that can be worked now: one that is prepared in the background waits for that."""
        pending = self.journal.questions.operations(OperationState.PENDING)
        return [each for each in pending if self.operations.due(each, pending)]

    def _waits(self) -> bool:
        self.run.schedule.tick()
        self.run.following.tick()
        if self._operations():
            return True
        return self.journal.questions.paused() is None and self.journal.questions.ready_count() > 0

    def step(self) -> Ended:
        """The next operation, or the next batch where there is none."""
        operations = self._operations()
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
        if screened(self.run.monitoring.screen, self.journal, plan):
            return Went()
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
            if self._operations():
                return None
            plan = self._plan()
        return plan

    def _plan(self) -> Plan:
        settings, now = self.run.settings, self.journal.clock()
        pending, facts = self.journal.questions.to_plan(WINDOW)
        patience, rest = settings.batch_wait_seconds, settings.retry_seconds
        return plan_batch(pending, facts, settings.batch_size, now, patience, rest)


def _started_anew(replica: Serves) -> bool:
    """Whether a replica answers, and nobody has told it a version since its start."""
    try:
        return replica.healthy() and replica.served().version == UNPUBLISHED
    except ServingError:
        return False  # it does not say: the next look, or the next run, finds out


def _go(run: Run, drains: bool) -> RunReport:
    """Reconciles, drains, and follows the guard: each rollback or compaction that it asks for is a step."""
    known = _ever_live(run.journal)
    if run.jobs is not None:
        run.jobs.look_after(run.journal)
    discards = Discards(run)
    delivery = Delivery(run, discards)
    update = Update(run, delivery, discards)
    operations = Operations(run, update, delivery)
    ended: Ended = Reconciliation(run, update, delivery, operations).reconcile()
    run.reached(Stage.RECONCILED)
    if drains and not isinstance(ended, Held):
        drain = Drain(run, update, operations)
        ended = drain.drain()
        while update.watch() or run.ladder.look_ahead():
            ended = drain.step()
        if run.jobs is not None:
            run.jobs.look_after(run.journal)
    fresh = sorted(_ever_live(run.journal) - known)
    held = ended.reason if isinstance(ended, Held) else None
    return RunReport(run.journal.questions.live_version(), fresh, held, dict(run.publisher.out))


def _ever_live(journal: Journal) -> set[str]:
    return {id for id, (_, live) in journal.questions.outline().items() if live}
