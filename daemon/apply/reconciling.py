"""At the start of a run: model, files and replicas are made to follow the ledger, which is the truth."""

from daemon.apply.delivery import Delivery
from daemon.apply.operations import Operations
from daemon.apply.outcomes import Ended, Held, Refused, Went
from daemon.apply.run import Run
from daemon.apply.update import Update
from daemon.core.errors import PublishError, StoreError
from daemon.core.lifecycle import OperationKind, OperationState, VersionState
from daemon.ledger.rows import VersionRow
from daemon.publish.serving import ServingError


class Reconciliation:
    """Brings everything to the live version, and ends what a run that died has begun."""

    def __init__(self, run: Run, update: Update, delivery: Delivery, operations: Operations) -> None:
        self.run, self.update, self.delivery, self.operations = run, update, delivery, operations
        self.journal, self.publisher, self.restorer = run.journal, run.publisher, run.restorer

    def reconcile(self) -> Ended:
        """Held while no replica can be reached.

        Raises:
            StoreError: the live version cannot be rebuilt, or the store belongs to another ledger.
        """
        # Nobody can take the lease meanwhile: what is cleared away is never a newer applier's.
        with self.journal.writing():
            self._clean()
        try:
            restored = self._restore_live()
            if isinstance(restored, Held):
                return restored
            # While no replica can be reached nothing is tried and no attempt is counted.
            self.publisher.find_present()
            flight = self.journal.questions.version_in_flight()
            if flight is not None and flight.state is not VersionState.PLANNED:
                return self._resume(flight)
            live = self.journal.questions.live_version()
            behind = self.publisher.synchronise(live)
            if behind:
                self.journal.record_publication(live, "reconcile", behind)
        except (ServingError, PublishError) as error:
            return Held(f"the replicas cannot be brought to {self.journal.questions.live_version()}: {error}")
        return Went() if flight is None else self.update.apply(flight)

    def _clean(self) -> None:
        """Raises StoreError rather than clear away everything for a ledger that is new or another one."""
        known, there = self.journal.questions.outline(), self.run.store.ids()
        if there and not known:
            raise StoreError(
                f"{self.run.store.versions} holds {len(there)} versions and the ledger knows of none: "
                "restore the ledger, correct FACTD_DATABASE_URL or FACTD_STATE_DIR, or move the folder away"
            )
        gone = (VersionState.PLANNED, VersionState.DISCARDED)
        self.run.store.clean({id for id, (state, _) in known.items() if state not in gone})

    def _restore_live(self) -> Went | Held:
        """If the live version cannot be rebuilt, only the rollbacks that were asked for are done."""
        while True:
            try:
                self.restorer.to_live()
                return Went()
            except StoreError as damage:
                pending = self.journal.questions.operations(OperationState.PENDING)
                asked = [each for each in pending if each.kind is OperationKind.ROLLBACK]
                if not asked:
                    raise
                self.publisher.find_present()
                flight = self.journal.questions.version_in_flight()
                if flight is not None:  # it grew from what is left
                    self.journal.discard(flight.id, f"its parent is damaged: {damage}")
                ended = self.operations.work(asked[0])
                if isinstance(ended, Held):
                    return ended

    def _resume(self, flight: VersionRow) -> Ended:
        """Goes on with a version that was written before a run died."""
        limit = self.run.settings.max_attempts
        try:
            self.restorer.to(flight.id)
        except StoreError as error:
            reason = f"its files are damaged: {error}"
            self.restorer.to_live()
            self.journal.discard(flight.id, reason, max_attempts=limit)
            return Refused(reason)
        version = self.journal.attempt(flight.id)
        if version.attempts > limit:
            return self.delivery.withdraw(version, "publish failed: the applier died at it too often")
        return self.delivery.roll_forward(version)
