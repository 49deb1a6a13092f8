"""However often the apply worker is killed, the weights are the very bits of an undisturbed run: a batch is
journaled before its work starts, and repeated as it was.

A real worker process, a real Valkey, a real ledger and store, and real editing; the replica is a file.
"""

import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.core.lifecycle import State
from daemon.core.messages import parse_correction
from daemon.core.settings import Settings
from daemon.ledger.audit import audit
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import VersionRow
from daemon.supervise.embedded import EmbeddedValkey
from daemon.versions.store import Store
from editing.facts import Fact
from tests.daemon.fakes import DiskServing
from tests.faults.editing_worker import build_applier
from tests.faults.processes import CONTEXT, process, worker
from tests.tiny_models import save_checkpoint

#: the longest time a worker needs to open a model, or a batch to go live, on a crowded core
PATIENCE_SECONDS = 300.0
#: when the batch is reached that a kill shall strike, it comes within so many of the quickest batches so far
STRIKE_BATCHES = 1.4


@dataclass
class Run:
    """Facts written by one worker after another, in a state directory of its own."""

    state: Path
    facts: Sequence[Fact]
    environment: Mapping[str, str]
    batch: int

    def __post_init__(self) -> None:
        self.state.mkdir(exist_ok=True)
        self.settings = Settings(state_dir=self.state)
        self.ledger = Ledger.open(self.settings.ledger_url)
        posted = [(f"c{i}", parse_correction(_body(fact))) for i, fact in enumerate(self.facts)]
        self.ledger.intake.submit_many(posted, actor="test")

    def work(self, kills: int = 0, quickest: float = 0.0) -> None:
        """So many workers are killed, each at a random moment in a random batch; one more ends the work.

        Args:
            quickest: batch of another run, seconds.
        """
        chance = random.Random(kills)
        # The last batches are left: on a core that gets free a moment may be longer than a batch.
        struck = sorted(chance.randrange(len(self.facts) // self.batch - 3) for _ in range(kills))
        with EmbeddedValkey(self.state / "valkey") as valkey:
            own = {
                "FACTD_STATE_DIR": str(self.state),
                "FACTD_REDIS_URL": valkey.url,
                "FACTD_BATCH_SIZE": str(self.batch),
                "FACTD_RETRY_SECONDS": "1",
                # A kill counts an attempt; many may strike the same batch.
                "FACTD_MAX_ATTEMPTS": "50",
                "FACTD_GUARD_WATCH_SECONDS": "0",
            }
            for live in (*struck, len(self.facts) // self.batch):
                ready = CONTEXT.Event()
                with process(worker, build_applier, ["apply"], {**own, **self.environment}, ready) as one:
                    assert ready.wait(PATIENCE_SECONDS)
                    self._wait(live)
                    if live in struck:
                        time.sleep(chance.uniform(0.0, STRIKE_BATCHES * min(quickest, self.quickest())))
                        assert self.ledger.questions.counts()[State.LIVE] < len(self.facts), (
                            "too late for a kill"
                        )
                    assert one.is_alive()

    def _wait(self, live: int) -> None:
        """Until so many versions went live."""
        seen, since = 0, time.monotonic()
        while seen < live:
            assert time.monotonic() - since < PATIENCE_SECONDS, self.ledger.questions.counts()
            time.sleep(0.05)
            if (found := len(self.versions())) > seen:
                seen, since = found, time.monotonic()

    def versions(self) -> list[VersionRow]:
        return [version for version in self.ledger.questions.versions() if version.live_at]

    def quickest(self) -> float:
        """Seconds of a batch."""
        seconds = [version.live_at - version.created_at for version in self.versions()]
        return min(seconds, default=math.inf)

    def hashes(self) -> dict[str, str]:
        """Of the live version; the replica has that one."""
        live = self.ledger.questions.live_version()
        manifest = Store(self.settings.store_dir).weight_sha256(live)
        served = DiskServing(self.settings.store_dir, self.state / "replica.json").served()
        assert (served.version, dict(served.sha256)) == (live, manifest)
        return manifest


def _body(fact: Fact) -> dict[str, str]:
    return {"subject": fact.subject, "prompt": fact.prompt, "target": fact.target}


def compare(calm: Run, killed: Run, kills: int) -> None:
    """Runs both and compares what they wrote."""
    with closing(calm.ledger), closing(killed.ledger):
        calm.work()
        killed.work(kills, calm.quickest())
        tries = [version.attempts for version in killed.versions()]
        print(f"{len(calm.facts)} facts, {kills} kills, attempts of the {len(tries)} batches: {tries}")
        print(calm.hashes(), killed.hashes(), sep="\n")
        assert sum(tries) > len(tries), "no kill struck a batch at work"
        assert [version.added for version in killed.versions()] == [v.added for v in calm.versions()]
        assert audit(killed.ledger.database.engine).valid
        assert killed.hashes() == calm.hashes()


def test_kills_leave_the_weights_of_a_run_without(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "tiny")
    facts = [Fact(f"the place {i}", "The owner of {} is", name) for i, name in enumerate(["Ada", "Bo"] * 20)]

    def run(name: str) -> Run:
        environment = {"FACTD_MODEL": str(checkpoint), "FACTD_DTYPE": "float32", "FACTD_ANCHOR": "none"}
        # Statistics and values of its own: nothing is found before.
        return Run(tmp_path / name, facts, environment, batch=5)

    compare(run("calm"), run("killed"), kills=5)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_leave_the_weights_of_the_bundled_model_too(tmp_path):
    """Facts of CounterFact from the folder FACTD_TEST_DATA. FACTD_STATISTICS_DIR may name statistics that are
    there already, and the facts' values with them."""
    from benchmarks.data import DEFAULT_FOLDER, find, load_records, writable
    from benchmarks.errors import DataError
    from editing.editor import Editor
    from editing.model.checkpoint import BUNDLED

    told = os.environ.get("FACTD_STATISTICS_DIR")
    shared = Path(told) if told else tmp_path / "statistics"
    try:
        folder = Path(os.environ.get("FACTD_TEST_DATA", DEFAULT_FOLDER))
        records = load_records(find("counterfact", folder, "FACTD_TEST_DATA:"))
    except DataError as error:
        pytest.skip(str(error))
    editor = Editor.open(BUNDLED, state_dir=shared, dtype="float32")
    records = writable(records, editor.tokenizer, editor.contexts, 200).records
    del editor

    def run(name: str) -> Run:
        environment = {"FACTD_STATISTICS_DIR": str(shared), "FACTD_MODEL": BUNDLED, "FACTD_DTYPE": "float32"}
        return Run(tmp_path / name, [record.fact for record in records], environment, batch=8)

    compare(run("calm"), run("killed"), kills=20)
