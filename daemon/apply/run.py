"""What one run of the applier works with."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from daemon.apply.asking import Asking
from daemon.apply.background.jobs import Jobs
from daemon.apply.editor import Editor
from daemon.apply.ladder import Ladder
from daemon.apply.measuring import Monitoring
from daemon.apply.restoring import Restorer
from daemon.core.settings import Settings
from daemon.core.stages import Stage
from daemon.ledger.journal import Journal
from daemon.ledger.record.answers import Lost
from daemon.ledger.record.following import Following
from daemon.ledger.record.schedule import Schedule
from daemon.ledger.rows import CorrectionRow
from daemon.publish.canary import Canary
from daemon.publish.publishing import Publisher
from daemon.versions.store import Store

#: Of facts that may be lost a replica is asked with every publication, of the newest so many.
LOST_ASKED = 32

#: called at each boundary between two steps; a test stops there
Reached = Callable[[Stage], None]


@dataclass(frozen=True)
class Run:
    """Made anew for each run, under one fence, and shared by the parts of the applier.

    Attributes:
        canary: tries a version out before all replicas get it; None publishes to all at once.
        stopping: whether the applier was told to stop.
        jobs: work that a process of its own prepares; None does all work here.
    """

    journal: Journal
    following: Following
    schedule: Schedule
    store: Store
    editor: Editor
    restorer: Restorer
    publisher: Publisher
    monitoring: Monitoring
    ladder: Ladder
    settings: Settings
    asking: Asking
    reached: Reached
    stopping: Callable[[], bool]
    canary: Canary | None = None
    jobs: Jobs | None = None

    @contextmanager
    def timed(self, version: str, stage: str) -> Generator[None]:
        """Records how long a stage of a version took, unless it failed."""
        start = time.perf_counter()
        yield
        self.journal.record_seconds(version, stage, time.perf_counter() - start)

    def lost_today(self, facts: Sequence[CorrectionRow]) -> Lost:
        """Of live facts that may be lost: in which forms a replica does not say them now.

        The model in memory rounds otherwise, and people ask the replica.
        """
        asked = facts[-LOST_ASKED:]
        told = self.publisher.answers(self.asking.asks(asked))
        return self.asking.lost(asked, told) if told else {}
