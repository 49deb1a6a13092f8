"""The applier's side of background work: starts the process, knows whether its result is there, takes it.

All of it is asked by the holder of the lease. A result is only material: what becomes of it, the applier
decides as it does of any other version.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from daemon.apply.background.job import Job, Plan, Result
from daemon.core.errors import StoreError
from daemon.core.lifecycle import OperationKind, OperationState
from daemon.ledger.journal import Journal
from daemon.ledger.record.background import keep_background
from daemon.ledger.rows import OperationRow
from daemon.versions.store import Store
from editing.memory.state import EditState

#: The applier itself takes over so many changed facts: their keys and a solve, some seconds. Of more, the
#: process first brings its result to the version that is live by then, at most so often.
TAKEN_OVER, TURNS = 32, 3
#: A process that ends so often without a result will not do better the next time.
ATTEMPTS = 3
#: Of fewer live facts the applier makes the compaction itself: it takes some seconds, and loading a second
#: copy of the model takes longer.
FEWEST = 50


class Process(Protocol):
    """A process that works; `Beside` is the real one."""

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        ...

    def kill(self) -> None: ...


#: Starts the process of a job's folder.
Launch = Callable[[Path], Process]


class Beside:
    """A process that ends with this one: it reads a pipe whose other end is here.

    Args:
        environment: its own; that of this process when None.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        argv = [sys.executable, "-m", "daemon.apply.background.process", str(folder)]
        read_end, write_end = os.pipe()
        self._pipe: int | None = write_end
        self._process = subprocess.Popen(argv, stdin=read_end, env=environment)
        os.close(read_end)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        status = self._process.poll()
        if status is not None and self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        return status

    def kill(self) -> None:
        """Ends it and waits until it has ended."""
        self._process.kill()
        self._process.wait()
        self.poll()


class Jobs:
    """Background work of one state directory; one process at a time.

    Args:
        folder: holds a folder for each operation.
        settings: names the editor's method and its numbers.
        consolidation: names the numbers of a consolidation.
        fewest: facts that are worth a process.
    """

    def __init__(
        self,
        folder: Path,
        settings: str,
        launch: Launch = Beside,
        fewest: int = FEWEST,
        consolidation: str = "",
    ) -> None:
        self._folder, self._settings, self._launch, self._fewest = folder, settings, launch, fewest
        self._consolidation = consolidation
        self._process: Process | None = None
        self._operation, self._ended = 0, 0

    def wants(self, operation: int, facts: int) -> bool:
        """Whether an operation on so many facts is worth a process; one that was begun goes on."""
        return facts >= self._fewest or self.begun(operation)

    def begun(self, operation: int) -> bool:
        return self._job(operation).plan() is not None

    def ready(self, operation: OperationRow, journal: Journal) -> bool:
        """Whether the operation can be worked: its result is there, or its failure. Else its process runs."""
        job, live = self._job(operation.id), journal.questions.live_version()
        plan = job.plan()
        if plan is None or plan.settings != self._named(operation.kind):
            self.stop()
            job.clear()
            job.begin(Plan(str(operation.kind), live, self._named(operation.kind)))
        if job.failure() is not None:
            return True
        result = job.result()
        if result is not None and not self._behind(job, result, live, journal):
            return True
        self._keep_running(operation.id, job)
        return job.failure() is not None

    def _behind(self, job: Job, result: Result, live: str, journal: Journal) -> bool:
        """Whether so much has changed since that the process shall take it over first."""
        if self._runs() or result.turns >= TURNS:
            return self._runs()
        then, now = (set(journal.questions.fact_ids(version)) for version in (result.version, live))
        if len(then ^ now) <= TAKEN_OVER:
            return False
        plan = job.plan()
        assert plan is not None
        job.begin(Plan(plan.kind, plan.version, plan.settings, onto=live))
        return True

    def _named(self, kind: OperationKind) -> str:
        """All that the result of an operation follows from besides its facts."""
        consolidates = kind is OperationKind.CONSOLIDATE
        return f"{self._settings} {self._consolidation}" if consolidates else self._settings

    def failure(self, operation: int) -> str | None:
        """Why it cannot be done; None while it can."""
        return self._job(operation).failure()

    def result(self, operation: int, store: Store) -> tuple[EditState, EditState]:
        """The state that was worked on, and what was made of it.

        Raises:
            StoreError: it is missing, damaged or of other settings, and is prepared anew when it is next
                asked for.
        """
        job = self._job(operation)
        plan, found = job.plan(), job.result()
        if plan is None or found is None:
            raise StoreError(f"the result in {job.folder} is missing; it is prepared again")
        if plan.settings != self._named(OperationKind(plan.kind)):
            raise StoreError(f"the result in {job.folder} was made with other settings; it is prepared again")
        start = store.load_state(found.version)
        try:
            return start, job.state(found, start.facts)
        except StoreError:
            job.clear()
            raise

    # -- the process ----------------------------------------------------------------------------

    def _keep_running(self, operation: int, job: Job) -> None:
        if operation != self._operation:
            self.stop()
            self._operation, self._ended = operation, 0
        if self._runs():
            return
        if self._process is not None and self._process.poll():
            self._ended += 1
            if self._ended >= ATTEMPTS:
                return job.fail(
                    f"the background process ended {self._ended} times, the last time with status "
                    f"{self._process.poll()}; see the apply worker's log. If memory is short, set "
                    "FACTD_BACKGROUND=false: the applier then does it itself, and corrections wait"
                )
        self._process = self._launch(job.folder)

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the process; what it has kept stays."""
        if self._process is not None and self._runs():
            self._process.kill()
        self._process = None

    # -- looking after it -----------------------------------------------------------------------

    def look_after(self, journal: Journal) -> None:
        """Ends what nobody waits for any more, and writes how far the work is into the ledger."""
        waiting = {each.id for each in journal.questions.operations(OperationState.PENDING)}
        self._tidy(waiting)
        told = self._told(waiting)
        if told != journal.questions.background():
            with journal.writing() as c:
                keep_background(c, told)

    def _tidy(self, waiting: Collection[int]) -> None:
        if self._process is not None and self._operation not in waiting:
            self.stop()
        for folder in self._folder.glob("op*"):
            if folder.name not in {self._job(number).folder.name for number in waiting}:
                Job(folder).clear()
        with contextlib.suppress(OSError):  # it is not empty, or was never made
            self._folder.rmdir()

    def _told(self, waiting: Collection[int]) -> dict[str, Any] | None:
        if self._operation not in waiting:
            return None
        job = self._job(self._operation)
        plan, progress = job.plan(), job.progress()
        if plan is None or progress is None:
            return None
        done = {"stage": "done", "fraction": 1.0} if job.result() and not self._runs() else progress
        return {"job": plan.kind, "operation": self._operation, **done}

    def _job(self, operation: int) -> Job:
        return Job(self._folder / f"op{operation:06d}")
