"""The supervisor's patience with children that end."""

from types import SimpleNamespace

import pytest

from daemon.supervise import watching
from daemon.supervise.watching import Watcher


class Child:
    """Has always just ended."""

    returncode, log, starts = 1, "child.log", 0

    def running(self):
        return False

    def stop(self):
        pass

    def start(self):
        self.starts += 1


@pytest.fixture
def watcher_of():
    """A function: a watcher that does not run, of these children."""
    doorbell = SimpleNamespace(ring=lambda: None, close=lambda: None)
    return lambda children, valkey=None, say=lambda _text: None: Watcher(children, valkey, doorbell, say)


def test_the_pause_doubles_and_begins_anew_after_a_good_run(watcher_of, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: now))
    child = Child()
    watcher = watcher_of({"child": child})
    pauses = []
    for _ in range(7):
        watcher._restart_the_dead()
        pauses.append(watcher._retry_at["child"] - now)
        now = watcher._retry_at["child"] - 0.5
        watcher._restart_the_dead()  # not yet
        now += 1
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    assert child.starts == watcher.restarts["child"] == 7
    now += 200
    watcher._restart_the_dead()
    assert watcher._retry_at["child"] - now == 2


def test_what_cannot_be_started_again_keeps_nobody_else_waiting(watcher_of):
    told = []
    broken, sound = Child(), Child()
    broken.start = lambda: (_ for _ in ()).throw(OSError("No space left on device"))
    valkey = SimpleNamespace(running=lambda: False, start=broken.start)
    watcher_of({"broken": broken, "sound": sound}, valkey, told.append)._restart_the_dead()
    assert sound.starts == 1
    assert sum("No space left" in line for line in told) == 2


def test_a_supervisor_that_cannot_even_say_so_looks_again(watcher_of, monkeypatch):
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 3:
            watcher._stopping.set()
        raise RuntimeError("anything")

    watcher = watcher_of({}, say=lambda _text: (_ for _ in ()).throw(OSError("full")))
    watcher._restart_the_dead = look
    monkeypatch.setattr(watching, "WATCH_EVERY_SECONDS", 0.0)
    watcher._run()
    assert len(looks) == 3
