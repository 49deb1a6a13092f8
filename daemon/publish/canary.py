"""One replica gets a new version first and is watched for a while; only then do the others get it.

Nothing here is remembered between runs. If the applier dies meanwhile, the next run tries the version out
again from the beginning. Until the version is live, the ledger says that it is not.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from daemon.core.errors import CondemnedError, PublishError, SoakStoppedError
from daemon.core.lifecycle import OperationKind, OperationState, VersionState
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.rows import CorrectionRow, OperationRow, VersionRow
from daemon.publish.publication import Publication
from daemon.publish.publishing import Publisher

#: a soaking replica is looked at so often, seconds; a stop or a rollback is noticed as soon
LOOK_SECONDS = 1.0


@dataclass
class Canary:
    """What a version must pass before the others get it.

    Attributes:
        publisher: of all replicas.
        name: of the replica, or `daemon.publish.reports.FIRST`. While it is out another one stands in.
        seconds: how long it is watched.
        stopping: whether the applier was told to stop.
    """

    journal: Journal
    publisher: Publisher
    name: str
    seconds: float
    stopping: Callable[[], bool]
    reached: Callable[[Stage], None]

    def alone(self) -> Publisher:
        """Publishes to the canary only. Raises PublishError when no replica answers."""
        whole, present = self.publisher, self.publisher.present
        if not present:
            raise PublishError("no replica can be used: " + "; ".join(whole.out.values()))
        canary = next((replica for replica in present if replica.name == self.name), present[0])
        return Publisher([canary], whole.manifests, whole.fence, whole.proof)

    def try_out(self, alone: Publisher, version: VersionRow, rows: Sequence[CorrectionRow]) -> None:
        """Flips the version on the canary, proves it, watches it, proves it again.

        Args:
            rows: what is asked for the proof.

        Raises:
            ProofError: the canary computes something else.
            CondemnedError: a rollback was asked for meanwhile.
            SoakStoppedError: the applier was told to stop.
            ServingError, PublishError: the canary failed, or does not serve the version any more.
        """
        # If the version was on the canary when an applier died, every rollback now pending came later.
        fresh = version.state is not VersionState.CANARY
        name, earlier = alone.names[0], {asked.id for asked in self._rollbacks() if fresh}
        publication = Publication(
            self.journal,
            alone,
            version.id,
            "canary",
            rows,
            on_flipped=lambda: self.reached(Stage.CANARY_FLIPPED),
        )
        publication.flip()
        self.journal.record_canary(version.id, f"{name} alone, for {self.seconds:g} s")
        self.reached(Stage.SOAKING)
        publication.prove()
        self._soak(alone, version.id, earlier)
        alone.prove(version.id, rows)
        self.reached(Stage.SOAKED)

    def _soak(self, alone: Publisher, version: str, earlier: Collection[int]) -> None:
        """Looks at least once, and once more when the time is over."""
        end = time.monotonic() + self.seconds
        while True:
            left = end - time.monotonic()
            self._check_wanted(earlier)
            alone.find_present()
            alone.confirm(version)
            if left <= 0:
                return
            self._bring_others(alone.names)
            time.sleep(min(left, LOOK_SECONDS))

    def _check_wanted(self, earlier: Collection[int]) -> None:
        """A rollback that was asked for since the flip may be for what the version does there."""
        if self.stopping():
            raise SoakStoppedError("the applier was told to stop while the canary was watched")
        for asked in self._rollbacks():
            if asked.id not in earlier:
                raise CondemnedError(asked.id, asked.actor, asked.why)

    def _rollbacks(self) -> list[OperationRow]:
        """Those that were asked for and not done yet."""
        pending = self.journal.questions.operations(OperationState.PENDING)
        return [asked for asked in pending if asked.kind is OperationKind.ROLLBACK]

    def _bring_others(self, canary: Sequence[str]) -> None:
        """Brings replicas that restarted to the live version; a long soak must not keep them waiting."""
        whole = self.publisher
        others = [replica for replica in whole.replicas if replica.name not in canary]
        # Without a proof: the model in memory is at the new version, so nothing can be compared. They are
        # proved when they get that version, or at the next reconciliation.
        rest = Publisher(others, whole.manifests, whole.fence)
        # A replica that cannot be brought there is found out when the others get the new version.
        with contextlib.suppress(PublishError):
            rest.find_present()
            told = rest.synchronise(self.journal.questions.live_version())
            if whole.proof is not None:
                for name in told:
                    whole.proof.forget(name)
