"""Writes the recorded history `e99f132.json` and the state directory that it left, `e99f132.tar.xz`.

It is run with the code of that commit, whose modules it imports under their names of then:

    git worktree add --detach ../e99f132 e99f132
    PYTHONPATH=../e99f132 .venv/bin/python tests/recorded/make_e99f132.py

Editing is the real one. Measuring a random model costs more than all the rest and says nothing, since none
learns what it is told: measurements are made up, and the judge refuses what is called nonsense. The replica
is a file.
"""

import json
import os
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

from daemon.applier import Applier
from daemon.messages import parse_correction
from daemon.settings import Settings
from daemon.store import Store
from daemon.update import Monitoring
from kernels import ONE_PROCESSOR
from play import asked, fingerprint, play, save_model

from daemon.app import foresee, open_editor
from daemon.cli import main
from daemon.ledger import Ledger
from monitoring.measurements import CaseResult, Measurements
from monitoring.verdict import Thresholds, Verdict
from tests.daemon.fakes import DiskServing

HERE = Path(__file__).parent
#: The clock stands still while a batch is worked off; nothing is done that was not asked for.
SETTINGS = {
    "dtype": "float32",
    "anchor": "none",
    "batch_size": 4,
    "batch_wait_seconds": 0.0,
    "guard_watch_seconds": 0.0,
    "guard_compact_edits": 0,
}
#: id of the correction that is refused
NONSENSE = "nonsense"
SEED = 0


def post(id: str, subject: str, target: str, prompt: str = "The owner of {} is", **more) -> dict:
    return {"id": id, "post": {"subject": subject, "prompt": prompt, "target": target, **more}}


def ask(kind: str, target: str | None = None, actor: str = "operator:ann", why: str | None = None) -> dict:
    return {"ask": kind, "target": target, "actor": actor, "why": why}


RUN = {"run": None}
#: The last run is killed when a version is written that nobody serves yet; a correction waits behind it.
INPUTS = [
    post("mill", "the mill", "Ada", key="first"),
    post("again", "the mill", "Ada", key="first"),
    post("inn", "the inn", "Bo", paraphrases=["Who owns {}?"], was="Cy"),
    post("quay", "the quay", "Eve", neighbours=[{"prompt": "The colour of {} is", "answer": "red"}]),
    post("barn", "the barn", "Dan"),
    RUN,
    post("mill-too", "the mill", "Ada"),
    post(NONSENSE, "the tower", "blue"),
    post("hut", "the hut", "Fay", source="desk", priority=2),
    RUN,
    post("inn-new", "the inn", "Gus"),
    RUN,
    ask("retract", "quay", why="sold"),
    RUN,
    post("shed", "the shed", "Hal"),
    post("shed-new", "the shed", "Ida"),
    post("lamp", "the lamp", "red", prompt="The colour of {} is"),
    RUN,
    ask("rollback", "v000001", why="too much at once"),
    RUN,
    post("gate", "the gate", "Kay"),
    RUN,
    ask("pause", why="lunch"),
    RUN,
    ask("compact"),
    ask("resume"),
    RUN,
    ask("rollback", "v000007", actor="alert:f00d@2026-01-01T00:00:00+00:00", why="Slow is firing"),
    RUN,
    post("well", "the well", "Leo"),
    {"run": "written"},
    post("yard", "the yard", "Max"),
]


def measure(batch, earlier, _ratio):
    grown = 1.0 + 0.01 * (len(batch) + len(earlier))
    cases = {row.id: CaseResult(True, row.target, target=row.target) for row in batch}
    return Measurements(weight_norm_ratio={1: 1.0, 2: grown}, cases=cases)


def judge(measured, _previous):
    blamed = tuple(id for id in measured.cases if id == NONSENSE)
    return Verdict("rejected" if blamed else "accepted", ("does not answer",) * bool(blamed), blamed, {})


class World:
    """Ledger, store, editor, replica, applier of a state directory; `open` is a new process."""

    def __init__(self, root: Path, model: Path) -> None:
        self.now = 1000.0
        self.settings = Settings(state_dir=root, model=str(model), **SETTINGS)

    def open(self) -> None:
        self.ledger = Ledger.open(self.settings.ledger_url, lambda: self.now)
        self.store = Store(self.settings.store_dir)
        self.editor = open_editor(self.settings, lambda _stage, _fraction: None)

    def post(self, body, id) -> None:
        self.ledger.submit(parse_correction(body), id, actor="http")

    def ask(self, kind, target, actor, why) -> None:
        self.ledger.request(kind, target, actor=actor, why=why)

    def run(self, checkpoint):
        return Applier(
            self.ledger,
            self.store,
            self.editor,
            [DiskServing(self.settings.store_dir, self.settings.state_dir / "replica.json")],
            monitoring=Monitoring(measure, judge, partial(foresee, Thresholds())),
            settings=self.settings,
            checkpoint=checkpoint,
        ).run()

    def weights(self):
        """sha256 of each weight that this process holds."""
        return self.editor.weight_hashes()

    def told(self):
        """Of each version that has files, its manifest; of each correction, its state; every transition."""
        return {
            "live": self.ledger.live_version(),
            "manifests": {id: self.store.verify(id) for id in self.store.ids()},
            "states": {row.id: str(row.state) for row in self.ledger.corrections()},
            "transitions": [[t.kind, t.id, t.old, t.new, t.actor, t.at] for t in self.ledger.transitions()],
        }

    def close(self) -> None:
        self.ledger.close()


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        world = World(work / "state", save_model(work / "model", SEED))
        world.settings.state_dir.mkdir()
        told = {"runs": play(world, INPUTS), **world.told()}
        world.close()
        with tarfile.open(HERE / "e99f132.tar.xz", "w:xz", preset=9) as tar:
            tar.add(work / "state", "state")
        told |= {"asked": asked(main, work / "state")}
    recorded = {"made_on": fingerprint(), "seed": SEED, "settings": SETTINGS, "inputs": INPUTS, "told": told}
    (HERE / "e99f132.json").write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    if not ONE_PROCESSOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, __file__], os.environ | ONE_PROCESSOR)
    record()
