"""A whole daemon core on fakes, in a temporary directory."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.daemon.postgresql import server

_HERE = Path(__file__).parent


def _fakes():
    # tests/ is not a package (import-mode=importlib); the crash script imports the same file by path.
    spec = importlib.util.spec_from_file_location("factd_test_fakes", _HERE / "fakes.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault("factd_test_fakes", module)
    spec.loader.exec_module(module)
    return module


fakes = _fakes()


class World:
    """Ledger, store, editor, replicas, applier; `open` is a new process on the same disk."""

    def __init__(self, root: Path, replicas: int = 1, **settings):
        from daemon.core.settings import Settings

        self.root, self.now, self.count = root, 1000.0, replicas
        # The clock stands still: nothing would ever have waited long enough.
        own = {"state_dir": root, "retry_seconds": 5.0, "batch_wait_seconds": 0.0}
        self.settings = Settings(**(own | settings))
        self.fakes = fakes
        self.open()

    def open(self):
        from daemon.apply.applier import Applier
        from daemon.apply.measuring import Monitoring
        from daemon.ledger.ledger import Ledger
        from daemon.versions.store import Store

        self.ledger = Ledger.open(self.settings.ledger_url, lambda: self.now)
        self.store = Store(self.settings.store_dir)
        self.editor = fakes.FakeEditor()
        self.replicas = [
            fakes.DiskServing(self.settings.store_dir, self.root / f"replica{i or ''}.json", f"disk{i or ''}")
            for i in range(self.count)
        ]
        self.replica = self.replicas[0]
        self.applier = Applier(
            self.ledger,
            self.store,
            self.editor,
            self.replicas,
            monitoring=Monitoring(fakes.fake_measure, fakes.fake_judge, fakes.fake_foresee),
            settings=self.settings,
            proof=fakes.fake_proof(self.editor),
        )
        return self

    def measure_really(self):
        """Measurements are the real thing, of made-up weights; the guard accepts them and warns of one."""
        from monitoring.measurements import Measurements

        def measure(batch, earlier, _ratio):
            grown = 1.0 + 0.1 * (len(batch) + len(earlier))
            return Measurements(weight_norm_ratio={4: 1.0, 8: grown}, subspace_similarity={4: 0.9, 8: 0.95})

        accepted = fakes.FakeVerdict("accepted", states={"weight_norm_ratio": "warn"})
        fake = self.applier.monitoring
        self.applier.monitoring = fake._replace(measure=measure, judge=lambda *_: accepted)

    def post(self, subject, target, id=None, prompt="The capital of {} is", **more):
        from daemon.core.messages import parse_correction

        body = {"subject": subject, "prompt": prompt, "target": target, **more}
        return self.ledger.intake.submit(parse_correction(body), id or f"id-{subject}-{target}")

    def run(self):
        return self.applier.run()

    def steps(self):
        """The guard's ladder: (step, on what)."""
        return [(t.new, t.id) for t in self.ledger.questions.transitions(kind="guard")]

    def states(self):
        return {row.id: row.state.value for row in self.ledger.questions.corrections()}

    def check_agreement(self):
        live = self.ledger.questions.live_version()
        served = self.replica.served()
        assert served.version == live or (live == "v000000" and served.version == "default")
        # In any order: a fact may have been written again behind newer ones.
        assert sorted(self.store.load_state(live).ids) == sorted(self.ledger.questions.fact_ids(live))
        assert sorted(row.id for row in self.ledger.questions.facts()) == sorted(
            self.ledger.questions.fact_ids(live)
        )
        if live != "v000000":
            assert self.editor.weight_hashes() == self.store.weight_sha256(live) == dict(served.sha256)
        else:
            assert not self.editor.state.facts

    def close(self):
        self.ledger.close()


@pytest.fixture(scope="session")
def world_at():
    """World itself, for tests that choose the folder."""
    return World


@pytest.fixture
def world(tmp_path, database_url):
    made = World(tmp_path, database_url=database_url)
    yield made
    made.close()


@pytest.fixture
def make_world(tmp_path, database_url):
    made = []

    def make(**settings):
        made.append(World(tmp_path, database_url=database_url, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(scope="session")
def postgresql():
    """Empties the database of a server of its own and returns the URL."""
    with server() as empty:
        yield empty


@pytest.fixture(params=["sqlite", "postgresql"])
def either_database(request, tmp_path):
    """The URL of an empty database, of one kind and of the other."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.sqlite3'}"
    return request.getfixturevalue("postgresql")()


@pytest.fixture
def database_url():
    """The ledger of `world`; a module whose tests hold for both kinds overrides it with `either_database`."""
    return None
