"""The single writer: takes the lease, makes ledger, store, model and replicas agree, drains what waits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from daemon.apply.delivery import Delivery
from daemon.apply.discards import Discards
from daemon.apply.draining import Drain
from daemon.apply.editor import Editor
from daemon.apply.ladder import Ladder
from daemon.apply.measuring import Monitoring
from daemon.apply.operations import Operations
from daemon.apply.outcomes import Ended, Held
from daemon.apply.reconciling import Reconciliation
from daemon.apply.restoring import Proved, Restorer
from daemon.apply.run import Reached, Run
from daemon.apply.update import Update
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.lease import Lease
from daemon.ledger.ledger import Ledger
from daemon.publish.canary import Canary
from daemon.publish.proof import Proof
from daemon.publish.publishing import Publisher
from daemon.publish.serving import Serves
from daemon.versions.store import Store


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        held: why it stopped before everything was drained.
        out: replica that could not be brought to the live version → why.
    """

    live: str
    versions: list[str] = field(default_factory=list)
    held: str | None = None
    out: dict[str, str] = field(default_factory=dict)


class Applier:
    """Applies corrections and operations of one ledger to one model and its replicas.

    Args:
        editor: an `editing.Editor`; its weights are the live version's between runs.
        proof: compares what replicas compute with the editor's model; None compares hashes only.
        reached: called at each boundary between steps, for tests that stop there.
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
        self._proved = Proved()

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
        with Lease(self.ledger, self.settings.lease_seconds) as lease:
            self.reached(Stage.LEASED)
            # What was proved is forgotten with a run that ends in a fault: nobody has looked at what it left.
            proved, self._proved = self._proved, Proved()
            run = self._run(Journal(self.ledger, lease.fence), proved, stopping)
            report = _go(run)
            self._proved = run.restorer.proved
            return report

    def _run(self, journal: Journal, proved: Proved, stopping: Callable[[], bool]) -> Run:
        publisher = Publisher(self.replicas, self.store, journal.fence, self.proof)
        return Run(
            journal=journal,
            store=self.store,
            editor=self.editor,
            restorer=Restorer(journal, self.store, self.editor, proved),
            publisher=publisher,
            monitoring=self.monitoring,
            ladder=Ladder(journal, self.store, self.settings, self.monitoring.foresee, self.reached),
            settings=self.settings,
            reached=self.reached,
            stopping=stopping,
            canary=self._canary(journal, publisher, stopping),
        )

    def _canary(self, journal: Journal, publisher: Publisher, stopping: Callable[[], bool]) -> Canary | None:
        name, seconds = self.settings.canary, self.settings.canary_seconds
        if name is None:
            return None
        return Canary(journal, publisher, name, seconds, stopping, self.reached)


def _go(run: Run) -> RunReport:
    """Reconciles, drains, and follows the guard: each rollback or compaction that it asks for is a step."""
    known = _ever_live(run.journal)
    discards = Discards(run)
    delivery = Delivery(run, discards)
    update = Update(run, delivery, discards)
    operations = Operations(run, update, delivery)
    ended: Ended = Reconciliation(run, update, delivery, operations).reconcile()
    run.reached(Stage.RECONCILED)
    if not isinstance(ended, Held):
        drain = Drain(run, update, operations)
        ended = drain.drain()
        while update.watch() or run.ladder.look_ahead():
            ended = drain.step()
    fresh = sorted(_ever_live(run.journal) - known)
    held = ended.reason if isinstance(ended, Held) else None
    return RunReport(run.journal.live_version(), fresh, held, dict(run.publisher.out))


def _ever_live(journal: Journal) -> set[str]:
    return {id for id, (_, live) in journal.outline().items() if live}
