"""A state directory, worked on by today's code; and what is played with it by `test_recorded_history.py`.

`python -m tests.recorded.today HISTORY FOLDER` writes what came of it to
FOLDER/found.json. It is a process of its own,
for torch chooses its kernels when it is imported.
"""

import json
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from daemon.apply.applier import Applier
from daemon.apply.building import foresee, open_editor
from daemon.apply.measuring import Monitoring
from daemon.cli.main import main
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.plugin.staging import Checkpoint, admit, stage_version
from daemon.versions.store import Store
from editing.memory.delta import materialise, tensor_sha256
from monitoring.measurements import CaseResult, Measurements
from monitoring.thresholds import Thresholds
from monitoring.verdict import Verdict
from tests.daemon.fakes import DiskServing
from tests.recorded.play import asked, fingerprint, play, save_model

HERE = Path(__file__).parent
#: id of the correction that is refused
NONSENSE = "nonsense"
RUN = {"run": None}
#: What comes after the recorded inputs: v000009 is rolled forward, `yard` is written, and so on.
GOES_ON = [
    RUN,
    {"id": "dock", "post": {"subject": "the dock", "prompt": "The owner of {} is", "target": "Nan"}},
    RUN,
    {"ask": "retract", "target": "mill", "actor": "operator:bob", "why": "burnt down"},
    RUN,
    {"ask": "rollback", "target": "v000006", "actor": "operator:bob", "why": "to a branch that was left"},
    RUN,
    {"ask": "rollback", "target": "v000001", "actor": "operator:bob", "why": "to the first"},
    RUN,
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

    def __init__(self, root: Path, model: Path, settings: dict[str, Any]) -> None:
        self.now = 1000.0
        self.settings = Settings(state_dir=root, model=str(model), **settings)

    def open(self) -> None:
        self.ledger = Ledger.open(self.settings.ledger_url, lambda: self.now)
        self.store = Store(self.settings.store_dir)
        self.editor = open_editor(self.settings, lambda _stage, _fraction: None)

    def post(self, body, id) -> None:
        self.ledger.intake.submit(parse_correction(body), id, actor="http")

    def ask(self, kind, target, actor, why) -> None:
        self.ledger.intake.request(kind, target, actor=actor, why=why)

    def run(self, checkpoint):
        return Applier(
            self.ledger,
            self.store,
            self.editor,
            [DiskServing(self.settings.store_dir, self.settings.state_dir / "replica.json")],
            monitoring=Monitoring(measure, judge, partial(foresee, Thresholds())),
            settings=self.settings,
            reached=checkpoint,
        ).run()

    def weights(self):
        """sha256 of each weight that this process holds."""
        return self.editor.weight_hashes()

    def told(self):
        """Of each version that has files, its manifest; of each correction, its state; every transition."""
        return {
            "live": self.ledger.questions.live_version(),
            "manifests": {id: self.store.verify(id) for id in self.store.ids()},
            "states": {row.id: str(row.state) for row in self.ledger.questions.corrections()},
            "transitions": [
                [t.kind, t.id, t.old, t.new, t.actor, t.at] for t in self.ledger.questions.transitions()
            ],
        }

    def close(self) -> None:
        self.ledger.close()


def staged(store: Path, version: str, model: Path) -> dict[str, str]:
    """sha256 of each weight as the plugin rebuilds it from the files."""
    manifest = admit(store, version, sys.maxsize, None, set())
    tensors = stage_version(store, manifest, Checkpoint(model), torch.float32).tensors
    return {name: tensor_sha256(tensor) for name, tensor in tensors.items()}


def apart(recorded: World, replayed: World, version: str) -> dict[str, float]:
    """‖W − W'‖ / ‖W − W₀‖ of each weight W of a version and W' of the replayed one."""
    base, far = replayed.editor.base_weights(), {}
    then, now = recorded.store.load_factors(version), replayed.store.load_factors(version)
    for name, factors in then.items():
        old, new = materialise(base[name], *factors), materialise(base[name], *now[name])
        far[name] = float((old - new).norm() / (old - base[name]).norm())
    return far


def unlike(recorded: World, replayed: World, version: str) -> list[str]:
    """Factors, keys and values of a version that were not replayed bit for bit."""
    then, now = ({**w.store.load_state(version).columns} for w in (recorded, replayed))
    for tensors, world in ((then, recorded), (now, replayed)):
        tensors |= {
            f"{n}/{i}": x for n, ab in world.store.load_factors(version).items() for i, x in enumerate(ab)
        }
    return [name for name, tensor in then.items() if name not in now or not torch.equal(tensor, now[name])]


def opened(world: World, model: Path) -> dict[str, Any]:
    """What is said of the directory as it was left; the command line comes first and migrates its ledger."""
    said = {"asked": asked(main, world.settings.state_dir)}
    world.open()
    said |= world.told()
    store = world.settings.store_dir
    said["staged"] = {version: staged(store, version, model) for version in world.store.ids()}
    world.close()
    return said


def played(world: World, inputs: list[dict[str, Any]], first: int = 0) -> dict[str, Any]:
    said = {"runs": play(world, inputs, first), **world.told()}
    world.close()
    return said | {"audit": asked(main, world.settings.state_dir)["audit"]}


def work_on(history: str, work: Path) -> None:
    recorded = json.loads((HERE / f"{history}.json").read_text())
    settings, inputs = recorded["settings"], recorded["inputs"]
    with tarfile.open(HERE / f"{history}.tar.xz") as tar:
        tar.extractall(work / "kept", filter="data")
    (work / "again").mkdir()
    model = save_model(work / "model", recorded["seed"])
    kept, again = (World(work / at, model, settings) for at in ("kept/state", "again"))
    found: dict[str, Any] = {"made_on": fingerprint(), "opened": opened(kept, model)}
    found["went_on"] = played(kept, GOES_ON, len(inputs))
    found["replayed"] = played(again, inputs)
    versions = recorded["told"]["manifests"]
    found["replayed"]["apart"] = {version: apart(kept, again, version) for version in versions}
    found["replayed"]["unlike"] = {version: unlike(kept, again, version) for version in versions}
    (work / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    work_on(sys.argv[1], Path(sys.argv[2]))
