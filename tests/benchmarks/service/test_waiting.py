"""What is timed, on fakes: an applier in a thread, and a background process that is a thread."""

import itertools
import threading

import pytest

from benchmarks.service.waiting import Posted, Service, WaitError, corrections, measured, summary
from daemon.apply.background.job import Job
from daemon.apply.background.jobs import Jobs
from daemon.apply.background.process import work
from daemon.core.messages import Correction
from tests.daemon.conftest import World


class Thread(threading.Thread):
    """Stands in for the process: works when so many more corrections are live."""

    def __init__(self, world, folder, more):
        super().__init__()
        self.world, self.folder, self.ended = world, folder, threading.Event()
        self.enough = len(world.ledger.questions.facts()) + more
        self.start()

    def run(self):
        while len(self.world.ledger.questions.facts()) < self.enough:
            if self.ended.wait(0.02):
                return
        work(Job(self.folder), self.world.fakes.FakeEditor(), self.world.store)

    def poll(self):
        return None if self.is_alive() else 0

    def kill(self):
        self.ended.set()
        self.join()


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path, lease_seconds=3600.0)
    made.applier.jobs = Jobs(
        tmp_path / "background", made.editor.settings_hash, lambda folder: Thread(made, folder, 2), fewest=1
    )
    yield made
    made.applier.jobs.stop()
    made.close()


@pytest.fixture
def service(world):
    with Service(world.ledger, world.applier, pause=0.05) as made:
        yield made


@pytest.mark.parametrize("kind", ["compact", "consolidate"])
def test_waits_are_told_with_and_without_the_work(world, service, kind):
    posts = corrections()
    service.post(dict(itertools.islice(posts, 3)))
    found = measured(service, posts, kind, Posted(quiet=4, most=99, pause=0.05))
    alone, beside = found["rows"]
    assert (alone["beside"], alone["corrections"]) == (None, 4)
    assert beside["beside"] == kind
    # It was under way until two of them were live: these did not wait for it.
    assert beside["corrections"] == len(found["beside_seconds"]) >= 2
    assert found["work_seconds"] >= sum(found["beside_seconds"][:2])
    assert found["longer_p50_seconds"] == beside["p50_seconds"] - alone["p50_seconds"]
    assert set(found["stage_seconds"]) >= {"edit", "measure", "write", "publish", "confirm"}
    assert found["applier_seconds"] == sum(found["stage_seconds"].values()) > 0
    assert found["longer_longest_seconds"] == beside["longest_seconds"] - alone["longest_seconds"]
    (operation,) = world.ledger.questions.operations()
    assert (str(operation.kind), str(operation.state)) == (kind, "done")
    world.check_agreement()


def test_at_most_so_many_are_posted_beside_it(service):
    posts = corrections()
    service.post(dict(itertools.islice(posts, 2)))
    waits, seconds, _stages = service.beside(posts, "compact", most=2)
    assert len(waits) == 2
    assert seconds >= sum(waits)


def test_work_that_fails_is_no_measurement(service):
    posts = iter([("stiff", Correction(subject="A", prompt="The capital of {} is", target="stiff"))])
    service.post(dict(posts))
    with pytest.raises(WaitError, match="compact failed: compaction forgets"):
        service.beside(corrections(), "compact", 99)


def test_a_correction_that_is_refused_is_no_wait(service):
    with pytest.raises(WaitError, match="w1 is rejected, not live: does not answer"):
        service.post({"w1": Correction(subject="A", prompt="The capital of {} is", target="bad")})


def test_an_applier_that_ends_is_told_at_once(world, monkeypatch):
    def fails(_stopping):
        raise OSError("No space left on device")

    monkeypatch.setattr(world.applier, "run", fails)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with (
        Service(world.ledger, world.applier, pause=0.0) as service,
        pytest.raises(WaitError, match="No space left"),
    ):
        service.post(dict([next(corrections())]))


def test_a_row_has_intervals_where_there_are_enough_values():
    few, many = summary(None, [1.0, 3.0, 2.0]), summary("compact", [float(i) for i in range(1, 101)])
    assert (few["p50_seconds"], few["p50_low"], few["p50_high"]) == (2.0, None, None)
    assert (many["p50_seconds"], many["p50_low"], many["p50_high"]) == (50.0, 40.0, 61.0)
    assert (many["p95_seconds"], many["p95_low"], many["p95_high"]) == (95.0, 90.0, 100.0)
    assert many["longest_seconds"] == 100.0


def test_every_correction_is_of_a_slot_of_its_own():
    every = dict(corrections())
    assert len({(one.subject, one.prompt) for one in every.values()}) == len(every) > 200
