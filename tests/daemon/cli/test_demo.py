"""The demo's own bookkeeping; that it works is observed by running it."""

import os

import pytest

from daemon.cli.demo.demo import fresh
from daemon.core.settings import Settings
from daemon.supervise.processes import ProcessError
from daemon.supervise.running import Running, announce


def test_a_demo_starts_from_an_empty_ledger_and_keeps_what_was_measured(tmp_path):
    settings = Settings(state_dir=tmp_path)
    (tmp_path / "installed").mkdir()
    (tmp_path / "demo" / "store").mkdir(parents=True)
    own = fresh(settings)
    assert own.state_dir == tmp_path / "demo"
    assert not own.state_dir.exists()
    assert own.statistics == tmp_path
    assert (tmp_path / "installed").exists()


def test_a_running_demo_is_left_alone(tmp_path):
    running = Running(
        pid=os.getpid(),
        model="m",
        redis_url="redis://x",
        database_url="sqlite://",
        api_url="http://x",
        vllm_url="http://x",
        tokens_file="t",
        served_model="m",
    )
    (tmp_path / "demo" / "run").mkdir(parents=True)
    announce(tmp_path / "demo", running)
    with pytest.raises(ProcessError, match="runs on"):
        fresh(Settings(state_dir=tmp_path))
    assert (tmp_path / "demo" / "run").exists()
