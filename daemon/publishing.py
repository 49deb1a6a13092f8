"""One version on every replica: stage on all, flip each, read back; or bring the old one back."""

from collections.abc import Callable, Mapping, Sequence

from daemon.errors import PublishError
from daemon.ledger_tables import CorrectionRow
from daemon.serving import Served, ServingClient, ServingError
from daemon.store import Store


class Publisher:
    """The replicas under one fence. Methods raise ServingError or PublishError."""

    def __init__(self, replicas: Sequence[ServingClient], store: Store, fence: int) -> None:
        self.replicas, self.store, self.fence = tuple(replicas), store, fence

    @property
    def names(self) -> list[str]:
        return [replica.name for replica in self.replicas]

    def check_reachable(self) -> None:
        """Raises ServingError when a replica does not answer."""
        for replica in self.replicas:
            replica.served()

    def publish(self, version: str, staged: Callable[[], None] = lambda: None) -> float:
        """Stages on all before any replica is flipped: a damaged version harms none.

        Returns:
            The longest pause of a replica's scheduler, in seconds.
        """
        for replica in self.replicas:
            replica.stage(version, self.fence)
        staged()
        pauses = [replica.publish(version, self.fence).pause_seconds for replica in self.replicas]
        return max(pauses, default=0.0)

    def confirm(self, version: str) -> None:
        """Raises PublishError unless every replica serves the version with the manifest's hashes."""
        wanted = self.store.weight_sha256(version)
        for replica in self.replicas:
            served = replica.served()
            if not _serves(served, version, wanted):
                raise PublishError(
                    f"{replica.name} should serve {version} but says {served.version} "
                    f"(hashes {'differ' if served.version == version else 'not compared'}); see its log"
                )

    def synchronise(self, version: str) -> list[str]:
        """Gives the version to the replicas that do not serve it; returns their names."""
        wanted = self.store.weight_sha256(version)
        behind = [r for r in self.replicas if not _serves(r.served(), version, wanted)]
        for replica in behind:
            replica.publish(version, self.fence)
        if behind:
            self.confirm(version)
        return [replica.name for replica in behind]

    def push_back(self, version: str) -> list[str]:
        """Brings the version back wherever it can; returns what failed. Reconciling repairs the rest."""
        failures = []
        for replica in self.replicas:
            try:
                replica.publish(version, self.fence)
            except ServingError as error:
                failures.append(f"{replica.name}: {error}")
        return failures

    def answers(self, rows: Sequence[CorrectionRow]) -> dict[str, str]:
        """What the first replica says to each correction's prompt; empty without replicas."""
        if not self.replicas:
            return {}
        texts = self.replicas[0].complete([row.text for row in rows])
        return {row.id: text for row, text in zip(rows, texts, strict=True)}


def _serves(served: Served, version: str, wanted: Mapping[str, str]) -> bool:
    # A replica that says "default" has restarted. It gets the base too: until something was published to
    # it, nobody can tell whether it is in sync, and its readiness route says no.
    return served.version == version and all(served.sha256.get(n) == sha for n, sha in wanted.items())
