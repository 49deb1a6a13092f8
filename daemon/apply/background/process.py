"""The process that prepares one piece of work: `python -m daemon.apply.background.process FOLDER`.

It has a copy of the model of its own, at the lowest priority, and touches neither ledger nor replicas: it
reads versions, and writes into its folder. It ends with the process that started it.
"""

import os
import sys
import threading
from pathlib import Path

from daemon.apply.background.job import Job
from daemon.apply.building import open_editor
from daemon.apply.editor import Editor
from daemon.core.errors import DaemonError, StoreError
from daemon.core.lifecycle import OperationKind
from daemon.core.settings import load_settings
from daemon.versions.keys import accepted_keys
from daemon.versions.store import Store
from editing.errors import EditError

#: Added to the niceness: the applier and a server on the same cores go first.
NICE = 19


def work(job: Job, editor: Editor, store: Store) -> None:
    """Does what the plan of the job says, from where an earlier process was killed.

    Raises:
        EditError: the method cannot do it.
        StoreError: a version that it needs is damaged.
    """
    plan, found = job.plan(), job.result()
    if plan is None:
        raise StoreError(f"{job.folder} holds no plan; ask for the work again")
    if found is None:
        editor.restore(store.load_state(plan.version))
        consolidates = plan.kind == OperationKind.CONSOLIDATE
        (editor.consolidate if consolidates else editor.compact)(job.kept, job.tell)
        job.finish(plan.version, editor.state)
    elif plan.onto is not None and plan.onto != found.version:
        job.tell("catching up", 0.0)
        start = store.load_state(found.version)
        editor.restore(store.load_state(plan.onto))
        editor.rebase(start, job.state(found, start.facts))
        job.finish(plan.onto, editor.state, found.turns + 1)


def main(folder: str) -> int:
    os.nice(NICE)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    settings, job = load_settings(), Job(Path(folder))
    job.tell("opening the model", 0.0)
    try:
        editor = open_editor(settings, lambda _stage, _fraction: None)
        work(job, editor, Store(settings.store_dir, accepted_keys(settings)))
    except (EditError, DaemonError) as error:
        job.fail(str(error))
        return 1
    return 0


def _end_with_parent() -> None:
    """The other end of the pipe closes when the applier ends, however it ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
