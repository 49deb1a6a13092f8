"""One version on its way to the replicas: staged, flipped, recorded, confirmed, proved."""

from collections.abc import Callable, Sequence
from typing import Literal

from daemon.ledger.journal import Journal
from daemon.ledger.rows import CorrectionRow
from daemon.publish.publishing import Publisher

Cause = Literal["canary", "update", "rollback"]


class Publication:
    """The same steps in the same order for the canary, for an update and for a rollback.

    Args:
        cause: why, for the ledger.
        rows: corrections whose targets are compared when it is proved.
        on_staged: called when every replica has read and verified the version and none serves it.
        on_flipped: called when every replica serves it and the ledger has the publication.
    """

    def __init__(
        self,
        journal: Journal,
        publisher: Publisher,
        version: str,
        cause: Cause,
        rows: Sequence[CorrectionRow],
        *,
        on_staged: Callable[[], None] = lambda: None,
        on_flipped: Callable[[], None] = lambda: None,
    ) -> None:
        self.journal, self.publisher = journal, publisher
        self.version, self.cause, self.rows = version, cause, rows
        self._on_staged, self._on_flipped = on_staged, on_flipped

    def flip(self, *, but: str | None = None) -> None:
        """Stages on all replicas, then has all serve the version, and records that.

        Args:
            but: name of a replica that serves it already.

        Raises:
            ServingError, PublishError: a replica failed; some may serve the version.
            LeaseLostError: a newer applier is at work; no replica was flipped.
        """
        pause = self.publisher.publish(self.version, self._staged, but=but).pause_seconds
        self.journal.record_publication(self.version, self.cause, self.publisher.names, pause=pause)
        self._on_flipped()

    def _staged(self) -> None:
        self._on_staged()
        # A replica that restarted has forgotten the fence, so it could not refuse an older writer.
        self.journal.check_fence()

    def prove(self) -> None:
        """Raises ProofError or PublishError unless every replica serves the version and computes it."""
        self.publisher.confirm(self.version)
        self.publisher.prove(self.version, self.rows)
