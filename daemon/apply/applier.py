"""The single writer: takes the lease, makes ledger, store, model and replicas agree, drains what waits."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.apply.ladder import Ladder
from daemon.apply.planning import Plan, plan_batch
from daemon.apply.update import Monitoring, Update, tensor_entries
from daemon.core.errors import PublishError, StoreError
from daemon.core.lifecycle import PENDING, OperationKind, OperationState, State, VersionState
from daemon.core.publication import BASE_VERSION
from daemon.core.ruling import GUARD
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.lease import Lease
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import OperationRow
from daemon.publish.canary import Canary
from daemon.publish.proof import Proof
from daemon.publish.publishing import Publisher
from daemon.publish.serving import ServingClient, ServingError
from daemon.versions.store import Store
from editing.facts import Fact
from monitoring.policy import resumed

__all__ = ["Applier", "RunReport", "Stage"]

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
    versions: list[str] = field(default_factory=list)
    held: str | None = None
    out: dict[str, str] = field(default_factory=dict)


@dataclass
class Proved:
    """The version whose hashes the model in memory was last found to have, and its state then."""

    version: str | None = None
    state: Any = None


class Applier:
    """Applies corrections and operations of one ledger to one model and its replicas.

    Args:
        editor: an `editing.Editor`; its weights are the live version's between runs.
        proof: compares what replicas compute with the editor's model; None compares hashes only.
        checkpoint: called at each boundary between steps, for tests that stop there.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        editor: Any,
        replicas: Sequence[ServingClient],
        *,
        monitoring: Monitoring,
        settings: Settings,
        proof: Proof | None = None,
        checkpoint: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        self.proof = proof
        self.ledger, self.store, self.editor, self.replicas = ledger, store, editor, tuple(replicas)
        self.monitoring, self.settings, self.checkpoint = monitoring, settings, checkpoint
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
        with Lease(self.ledger.database, self.settings.lease_seconds) as lease:
            self.checkpoint(Stage.LEASED)
            journal = Journal(self.ledger.database, lease.fence)
            publisher = Publisher(self.replicas, self.store, lease.fence, self.proof)
            foresee = self.monitoring.foresee
            ladder = Ladder(journal, self.store, self.settings, foresee, self.checkpoint)
            update = Update(
                journal,
                self.store,
                self.editor,
                publisher,
                self.monitoring,
                ladder,
                self.settings,
                self.checkpoint,
                self._canary(journal, publisher, stopping),
            )
            # What was proved is forgotten with a run that ends in a fault: nobody has looked at what it left.
            proved, self._proved = self._proved, Proved()
            report = _Run(update, proved, stopping).go()
            self._proved = proved
            return report

    def _canary(self, journal: Journal, publisher: Publisher, stopping: Callable[[], bool]) -> Canary | None:
        name, seconds = self.settings.canary, self.settings.canary_seconds
        if name is None:
            return None
        return Canary(journal, publisher, name, seconds, stopping, self.checkpoint)


class _Run:
    def __init__(self, update: Update, proved: Proved, stopping: Callable[[], bool]) -> None:
        self._stopping = stopping
        self.update, self.ladder, self._proved = update, update.ladder, proved
        self.journal, self.store, self.editor = update.journal, update.store, update.editor
        self.publisher, self.checkpoint = update.publisher, update.checkpoint
        self._base_sha256: dict[str, str] | None = None

    def go(self) -> RunReport:
        known = self._ever_live()
        held = self._reconcile()
        self.checkpoint(Stage.RECONCILED)
        if held is None:
            held = self._drain()
            while self.update.watch() or self.ladder.look_ahead():
                held = self._step()
        fresh = sorted(self._ever_live() - known)
        return RunReport(self.journal.questions.live_version(), fresh, held, dict(self.publisher.out))

    def _ever_live(self) -> set[str]:
        return {id for id, (_, live) in self.journal.questions.outline().items() if live}

    # -- reconcile ------------------------------------------------------------------------------

    def _reconcile(self) -> str | None:
        """Ledger is the truth; the model in memory, the files and the replicas follow it."""
        # Nobody can take the lease meanwhile: what is cleared away is never a newer applier's.
        with self.journal.writing():
            self._clean()
        try:
            held = self._restore_live()
            if held is not None:
                return held
            # While no replica can be reached nothing is tried and no attempt is counted.
            self.publisher.find_present()
            flight = self.journal.questions.version_in_flight()
            if flight is not None and flight.state is not VersionState.PLANNED:
                return self._resume_written(flight.id)
            live = self.journal.questions.live_version()
            behind = self.publisher.synchronise(live)
            if behind:
                self.journal.record_publication(live, "reconcile", behind)
        except (ServingError, PublishError) as error:
            return f"the replicas cannot be brought to {self.journal.questions.live_version()}: {error}"
        if flight is not None:
            return self.update.apply(flight)
        return None

    def _clean(self) -> None:
        """Raises StoreError rather than clear away everything for a ledger that is new or another one."""
        known, there = self.journal.questions.outline(), self.store.ids()
        if there and not known:
            raise StoreError(
                f"{self.store.versions} holds {len(there)} versions and the ledger knows of none: restore "
                "the ledger, correct FACTD_DATABASE_URL or FACTD_STATE_DIR, or move the folder away"
            )
        gone = (VersionState.PLANNED, VersionState.DISCARDED)
        self.store.clean({id for id, (state, _) in known.items() if state not in gone})

    def _restore_live(self) -> str | None:
        """Of a live version that cannot be rebuilt the rollbacks asked for are all that can be done.

        Returns:
            Why the run should pause.
        """
        while True:
            try:
                self._restore(self.journal.questions.live_version())
                return None
            except StoreError as damage:
                pending = self.journal.questions.operations(OperationState.PENDING)
                asked = [each for each in pending if each.kind is OperationKind.ROLLBACK]
                if not asked:
                    raise
                self.publisher.find_present()
                flight = self.journal.questions.version_in_flight()
                if flight is not None:  # it grew from what is left
                    self.journal.discard(flight.id, f"its parent is damaged: {damage}")
                held = self._operate(asked[0])
                if held is not None:
                    return held

    def _resume_written(self, id: str) -> str | None:
        try:
            self._restore(id)
        except StoreError as error:
            self._restore(self.journal.questions.live_version())
            self.journal.discard(id, f"its files are damaged: {error}", max_attempts=self._max_attempts)
            return None
        version = self.journal.attempt(id)
        if version.attempts > self._max_attempts:
            return self.update.withdraw(version, "publish failed: the applier died at it too often")
        return self.update.roll_forward(version)

    @property
    def _max_attempts(self) -> int:
        return self.update.settings.max_attempts

    def _restore(self, version: str) -> None:
        """Raises StoreError unless the model then has exactly the weights of the version."""
        if self._proved.version == version and self._proved.state is self.editor.state:
            return  # states are immutable: nothing was changed since the weights were last hashed
        self._prove(version)
        self._proved.version, self._proved.state = version, self.editor.state

    def _prove(self, version: str) -> None:
        wanted = self._wanted(version)
        if self.editor.weight_hashes() == wanted and list(self.editor.state.ids) == self._fact_ids(version):
            return
        state = self.store.load_state(version)
        self._check_facts(version, state.facts)
        self.editor.restore(state)
        found = self.editor.weight_hashes()
        wrong = sorted(name for name in wanted if found.get(name) != wanted[name])
        if wrong:
            raise StoreError(
                f"version {version} was rebuilt with other bits in {wrong[0]}; it was written by another "
                "model or processor: roll back, or restore the checkpoint that it was made for"
            )

    def _check_facts(self, version: str, facts: Sequence[Fact]) -> None:
        """No hash covers what a manifest says of its facts, but the ledger has it too."""
        rows = self.journal.questions.rows(self._fact_ids(version))
        told = [(row.id, row.subject, row.prompt, row.target) for row in rows]
        if [(fact.id, fact.subject, fact.prompt, fact.target) for fact in facts] != told:
            raise StoreError(
                f"the manifests that lead to version {version} tell other facts than the ledger; "
                "restore them from a backup, or roll back"
            )

    def _wanted(self, version: str) -> dict[str, str]:
        if version == BASE_VERSION:
            if self._base_sha256 is None:
                entries = tensor_entries(self.editor)
                self._base_sha256 = {name: entry["base_sha256"] for name, entry in entries.items()}
            return self._base_sha256
        manifest = self.store.manifest(version)
        if manifest["base_hash"] != self.editor.base_hash:
            raise StoreError(
                f"version {version} belongs to a base model {manifest['base_hash'][:12]}…, "
                f"this one is {self.editor.base_hash[:12]}…; set FACTD_MODEL or another FACTD_STATE_DIR"
            )
        return self.store.weight_sha256(version)

    def _fact_ids(self, version: str) -> list[str]:
        return self.journal.questions.fact_ids(version)

    # -- drain ----------------------------------------------------------------------------------

    def _drain(self) -> str | None:
        """Until nothing waits, or until something holds: then why."""
        held = None
        while held is None and not self._stopping() and self._step_waits():
            held = self._step()
            self.ladder.look_ahead()
        return held

    def _step_waits(self) -> bool:
        if self.journal.questions.operations(OperationState.PENDING):
            return True
        return self.journal.questions.paused() is None and self.journal.questions.pending_count() > 0

    def _step(self) -> str | None:
        operations = self.journal.questions.operations(OperationState.PENDING)
        # A rollback by the guard must not wait behind a retraction that is held.
        operations.sort(key=lambda operation: operation.actor != GUARD)
        return self._operate(operations[0]) if operations else self._batch()

    def _batch(self) -> str | None:
        resting = self.ladder.rest()
        if resting is not None:
            return resting
        plan = self._planned()
        if plan is None:
            return None
        for end in plan.settled:
            self.journal.settle(end.id, end.state, end.reason, superseded_by=end.by)
        if not plan.added:
            return None if plan.settled else "corrections wait for their next attempt"
        version = self.journal.plan([row.id for row in plan.added], plan.removed)
        self.checkpoint(Stage.PLANNED)
        return self.update.apply(version)

    def _planned(self) -> Plan | None:
        """The next batch. An incomplete one waits for company; None when an operation came meanwhile."""
        plan = self._plan()
        deadline = time.monotonic() + plan.wait_seconds
        while plan.wait_seconds > 0 and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, COMPANY_SECONDS))
            if self.journal.questions.operations(OperationState.PENDING):
                return None
            plan = self._plan()
        return plan

    def _plan(self) -> Plan:
        settings, now = self.update.settings, self.journal.clock()
        pending = self.journal.questions.pending(WINDOW)
        facts = self.journal.questions.facts_about({row.subject for row in pending})
        patience, rest = settings.batch_wait_seconds, settings.retry_seconds
        return plan_batch(pending, facts, settings.batch_size, now, patience, rest)

    def _operate(self, operation: OperationRow) -> str | None:
        if operation.kind is OperationKind.PAUSE:
            who = {"actor": operation.actor, "why": operation.why, "at": self.journal.clock()}
            self.journal.finish(operation.id, OperationState.DONE, "paused", paused=who)
            return None
        if operation.kind is OperationKind.RESUME:
            again = resumed(self.journal.questions.policy()).to_json()
            self.journal.finish(operation.id, OperationState.DONE, "resumed", paused=None, policy=again)
            return None
        ruling = self.ladder.on_alert(operation)
        if ruling is not None and ruling.action != "rollback":
            self.journal.guard.refuse_alert(operation.id, ruling)
            return None
        if self.journal.attempt_operation(operation.id, ruling) > self._max_attempts:
            self.journal.finish(operation.id, OperationState.FAILED, "gave up: too many attempts")
            return None
        if operation.kind is OperationKind.COMPACT:
            return self._compact(operation)
        retract = operation.kind is OperationKind.RETRACT
        return self._retract(operation) if retract else self._roll_back(operation)

    def _compact(self, operation: OperationRow) -> str | None:
        if not self.editor.state.facts:
            self.journal.finish(operation.id, OperationState.DONE, "no fact is live: nothing to compact")
            return None
        version = self.journal.plan([], (), operation.id)
        self.checkpoint(Stage.PLANNED)
        return self.update.apply(version)

    def _retract(self, operation: OperationRow) -> str | None:
        row = self.journal.questions.get(operation.target or "")
        if row.state is State.LIVE:
            version = self.journal.plan([], [row.id], operation.id)
            self.checkpoint(Stage.PLANNED)
            return self.update.apply(version)
        if row.state in PENDING:
            self.journal.settle(row.id, State.RETRACTED, "retracted before it was written")
            self.journal.finish(operation.id, OperationState.DONE, "retracted before it was written")
        elif row.state is State.RETRACTED:
            self.journal.finish(operation.id, OperationState.DONE, "already retracted")
        else:
            reason = f"correction {row.id} is {row.state}; only a live or pending one can be retracted"
            self.journal.finish(operation.id, OperationState.FAILED, reason)
        return None

    def _roll_back(self, operation: OperationRow) -> str | None:
        live, target = self.journal.questions.live_version(), operation.target or BASE_VERSION
        if live == target:
            self.journal.finish(operation.id, OperationState.DONE, f"{target} is live already")
            return None
        try:
            self._restore(target)
            self.checkpoint(Stage.ROLLBACK_RESTORED)
            pause = self.publisher.publish(target).pause_seconds
            self.journal.record_publication(target, "rollback", self.publisher.names, pause=pause)
            self.publisher.confirm(target)
            differ = set(self._fact_ids(live)) ^ set(self._fact_ids(target))
            self.publisher.prove(self.journal.questions.rows(sorted(differ)))
            self.checkpoint(Stage.ROLLBACK_FLIPPED)
        except StoreError as error:
            self.journal.finish(operation.id, OperationState.FAILED, str(error))
            self._restore(live)
            return None
        except (ServingError, PublishError) as error:
            self.update.push_back(live, self.publisher)
            self._restore(live)
            return f"rollback to {target} held: {error}"
        self.journal.record_rollback(target, operation)
        self.checkpoint(Stage.ROLLED_BACK)
        return None
