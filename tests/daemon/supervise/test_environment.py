"""What the children of `factd up` are told."""

from daemon.core.settings import load_settings
from daemon.supervise.environment import addresses, environment
from daemon.supervise.running import Tokens


def told(tmp_path):
    settings = load_settings(state_dir=tmp_path)
    return environment(settings, addresses(settings, "redis://b/0"), Tokens("submit", "admin"))


def test_the_callers_own_tuning_wins(tmp_path, monkeypatch):
    chosen = {"OMP_NUM_THREADS": "5", "MALLOC_TRIM_THRESHOLD_": "1", "HF_HUB_OFFLINE": "0"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert chosen.items() <= told(tmp_path).items()


def test_an_address_that_up_has_chosen_wins_over_the_callers(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "another")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    env = told(tmp_path)
    assert (env["FACTD_ADMIN_TOKEN"], env["FACTD_REDIS_URL"]) == ("admin", "redis://b/0")
    assert int(env["OMP_NUM_THREADS"]) >= 1
