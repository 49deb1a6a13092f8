"""The supervisor's patience with children that end."""

from types import SimpleNamespace

from daemon import up
from daemon.settings import Settings


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
