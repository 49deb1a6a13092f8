"""The real process on a real, tiny model: killed in the middle, with corrections posted meanwhile."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from daemon.apply.background.job import Job
from daemon.apply.background.jobs import Beside, Jobs
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from editing.memory.rebase import unchanged
from editing.memory.state import CONSOLIDATED
from tests.faults.editing_worker import build_applier
from tests.tiny_models import save_checkpoint

#: No test waits longer for the process.
PATIENCE_SECONDS = 400.0
ANSWERS = ("Ada", "Bo", "Cy", "Dora")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """What the applier and its process are told: a tiny model that says little, so much is found again."""
    root = tmp_path_factory.mktemp("background")
    told = {
        "FACTD_STATE_DIR": str(root / "state"),
        "FACTD_STATISTICS_DIR": str(root / "statistics"),
        "FACTD_MODEL": str(save_checkpoint(root / "model")),
        "FACTD_DTYPE": "float32",
        "FACTD_ANCHOR": "none",
        "FACTD_FORMS": "prompt",
        "FACTD_BATCH_WAIT_SECONDS": "0",
        "FACTD_BATCH_SIZE": "4",
        "FACTD_CONSOLIDATION_EPOCHS": "2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[4]),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        yield told


class Daemon:
    """Ledger, store and editor as shipped; the judge and the replica are fakes."""

    def __init__(self):
        self.settings = Settings()
        self.settings.state_dir.mkdir(exist_ok=True)
        self.ledger = Ledger.open(self.settings.ledger_url)
        self.applier = build_applier(self.settings, self.ledger)
        self.editor = self.applier.editor
        folder = self.settings.state_dir / "background"
        numbers = repr(self.editor.consolidation)
        self.jobs = Jobs(folder, self.editor.settings_hash, self._launch, 1, consolidation=numbers)
        self.applier.jobs, self.started = self.jobs, []

    def _launch(self, folder):
        self.started.append(Beside(folder))
        return self.started[-1]

    def post(self, subject, target):
        body = {"subject": subject, "prompt": "The owner of {} is", "target": target}
        self.ledger.intake.submit(parse_correction(body), f"{subject}-{target}")
        return self.applier.run()

    def until(self, reached):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, "the process did not come so far"
            time.sleep(0.05)


def test_corrections_posted_while_a_killed_process_is_resumed_are_in_the_compaction(environment):
    daemon = Daemon()
    for i, answer in enumerate(ANSWERS):
        daemon.post(f"the place {i}", answer)
    start = daemon.editor.state
    operation = daemon.ledger.intake.request("compact", actor="operator")
    daemon.applier.run()
    job = Job(daemon.settings.state_dir / "background" / f"op{operation:06d}")
    daemon.until(lambda: list(job.kept.glob("*/*.safetensors")))
    os.kill(daemon.started[0].pid, signal.SIGKILL)
    daemon.until(lambda: daemon.started[0].poll() is not None)
    assert job.result() is None
    kept = {path: path.stat().st_mtime_ns for path in job.kept.glob("*/*.safetensors")}
    daemon.post("the place 9", "Eve")  # goes live, and starts the process again
    daemon.post("the place 1", "Finn")
    live = daemon.editor.state
    assert live.ids == tuple(f"the place {p}" for p in ("0-Ada", "2-Cy", "3-Dora", "9-Eve", "1-Finn"))
    daemon.until(lambda: daemon.started[-1].poll() is not None)
    assert [each.poll() for each in daemon.started] == [-signal.SIGKILL, 0]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was found twice
    daemon.applier.run()
    assert [str(each.state) for each in daemon.ledger.questions.operations()] == ["done"]
    found, hashes = daemon.editor.state, daemon.editor.weight_hashes()
    daemon.jobs.stop()
    _check(daemon.editor, start, live, found, hashes)
    daemon.ledger.close()


def _check(editor, start, live, found, hashes):
    """Bit for bit what an editor makes that is interrupted by nobody; and near a compaction of the facts."""
    editor.restore(start)
    editor.compact()
    compacted = editor.state
    editor.restore(live)
    editor.rebase(start, compacted)
    assert editor.state.ids == found.ids
    assert editor.weight_hashes() == hashes
    recorded = [name for name in live.columns if name.startswith("targets/")]
    assert set(unchanged(compacted, found, recorded)) >= {"the place 0-Ada", "the place 2-Cy"}
    rebased = editor.weights()
    editor.restore(live)
    editor.compact()
    assert set(editor.state.ids) == set(found.ids)
    base = editor.base_weights()
    for name, weight in editor.weights().items():
        change, other = weight - base[name], rebased[name] - base[name]
        likeness = torch.nn.functional.cosine_similarity(change.flatten(), other.flatten(), dim=0)
        assert likeness > 0.5, (name, likeness)


def test_a_consolidation_by_the_process_has_the_bits_of_the_editors_and_is_the_floor_of_what_follows(
    environment,
):
    daemon = Daemon()
    for i, answer in enumerate(ANSWERS):
        daemon.post(f"the house {i}", answer)
    live, before = daemon.editor.state, daemon.editor.weight_hashes()
    daemon.ledger.intake.request("consolidate", actor="operator")
    daemon.applier.run()
    daemon.until(lambda: daemon.started[-1].poll() is not None)
    daemon.applier.run()
    operation = daemon.ledger.questions.operations()[-1]
    assert (str(operation.kind), str(operation.state)) == ("consolidate", "done")
    found, hashes = daemon.editor.state, daemon.editor.weight_hashes()
    assert CONSOLIDATED in found.columns
    assert hashes != before
    assert daemon.editor.consolidation.epochs == 2
    daemon.post("the house 12", "Ida")
    daemon.ledger.intake.request("retract", found.ids[0], actor="operator")
    daemon.applier.run()
    assert daemon.editor.state.ids == (*found.ids[1:], "the house 12-Ida")
    later, weights = daemon.editor.state, daemon.editor.weight_hashes()
    version = daemon.ledger.questions.live_version()
    # What the version holds on disk leads to the very weights, countered fact and all.
    daemon.editor.restore(daemon.applier.store.load_state(version))
    assert daemon.editor.weight_hashes() == weights
    assert daemon.editor.state.columns[CONSOLIDATED].equal(later.columns[CONSOLIDATED])
    daemon.jobs.stop()
    daemon.editor.restore(live)
    daemon.editor.consolidate()
    assert daemon.editor.weight_hashes() == hashes
    daemon.ledger.close()
