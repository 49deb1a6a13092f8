"""The supervisor's patience with children that end."""

from types import SimpleNamespace

from daemon.core.settings import Settings
from daemon.supervise import up


class Child:
    """Has always just ended."""

    returncode, log, starts = 1, "child.log", 0

    def running(self):
        return False

    def stop(self):
        pass

    def start(self):
        self.starts += 1


def test_the_pause_doubles_and_begins_anew_after_a_good_run(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(up, "time", SimpleNamespace(monotonic=lambda: now))
    services, child = up.Up(Settings(state_dir=tmp_path)), Child()
    services._children["child"] = child
    pauses = []
    for _ in range(7):
        services._restart_the_dead()
        pauses.append(services._retry_at["child"] - now)
        now = services._retry_at["child"] - 0.5
        services._restart_the_dead()  # not yet
        now += 1
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
    assert child.starts == services.restarts["child"] == 7
    now += 200
    services._restart_the_dead()
    assert services._retry_at["child"] - now == 2


def test_what_cannot_be_started_again_keeps_nobody_else_waiting(tmp_path):
    told = []
    services, broken, sound = up.Up(Settings(state_dir=tmp_path), told.append), Child(), Child()
    broken.start = lambda: (_ for _ in ()).throw(OSError("No space left on device"))
    services._valkey = SimpleNamespace(running=lambda: False, start=broken.start)
    services._children |= {"broken": broken, "sound": sound}
    services._restart_the_dead()
    assert sound.starts == 1
    assert sum("No space left" in line for line in told) == 2


def test_a_supervisor_that_cannot_even_say_so_looks_again(tmp_path, monkeypatch):
    looks = []

    def look():
        looks.append(1)
        if len(looks) == 3:
            services._stopping.set()
        raise RuntimeError("anything")

    services = up.Up(Settings(state_dir=tmp_path), lambda _text: (_ for _ in ()).throw(OSError("full")))
    services.running = SimpleNamespace(redis_url="redis://127.0.0.1:1/0")
    services._restart_the_dead = look
    monkeypatch.setattr(up, "WATCH_EVERY_SECONDS", 0.0)
    services._watch()
    assert len(looks) == 3
