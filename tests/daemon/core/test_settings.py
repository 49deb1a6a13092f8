"""The environment is read once; faults are told together; secrets stay hidden."""

import os

import pytest

from daemon.core.errors import SettingsError
from daemon.core.lifecycle import TRANSITIONS, State, check_transition
from daemon.core.settings import Settings, load_settings
from daemon.supervise.running import Running, announce, settings_for


def test_replicas_are_a_comma_separated_list(monkeypatch):
    monkeypatch.setenv("FACTD_REPLICAS", "http://a:1/, http://b:2")
    assert load_settings().replicas == ("http://a:1", "http://b:2")


def test_all_faults_are_told_at_once_and_secrets_are_masked(monkeypatch):
    monkeypatch.setenv("FACTD_ADMIN_TOKEN", "sesame")
    assert "sesame" not in repr(load_settings())
    monkeypatch.setenv("FACTD_BATCH_SIZE", "many")
    monkeypatch.setenv("FACTD_API_PORT", "-1")
    with pytest.raises(SettingsError, match=r"FACTD_API_PORT[\s\S]*FACTD_BATCH_SIZE"):
        load_settings()


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_token_is_none(monkeypatch, empty):
    for name in ("ADMIN_TOKEN", "SUBMIT_TOKEN", "SERVING_API_KEY"):
        monkeypatch.setenv(f"FACTD_{name}", empty)
    settings = load_settings()
    assert (settings.admin_token, settings.submit_token, settings.serving_api_key) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FACTD_THRESHOLDS", '{"probe_kl_nats_limit": NaN}', "probe_kl_nats_limit is NaN"),
        ("FACTD_THRESHOLDS", '{"probe_kl_limit": 1}', "'probe_kl_limit' is none of .*probe_kl_nats_limit"),
        ("FACTD_REPLICAS", "[1]", "FACTD_REPLICAS"),
    ],
)
def test_what_would_switch_something_off_in_silence_is_refused(monkeypatch, name, value, said):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        load_settings()


def test_secrets_come_from_files_and_a_variable_wins(monkeypatch, tmp_path):
    (tmp_path / "factd_admin_token").write_text("from a file\n")
    (tmp_path / "factd_redis_url").write_text("redis://:word@broker:6379/0")
    monkeypatch.setenv("FACTD_SECRETS_DIR", str(tmp_path))
    settings = load_settings()
    assert settings.admin_token is not None
    assert settings.admin_token.get_secret_value() == "from a file"
    assert settings.redis_url == "redis://:word@broker:6379/0"
    assert "redis_url" in settings.model_fields_set
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://other:6379/0")
    assert load_settings().redis_url == "redis://other:6379/0"
    assert load_settings(redis_url="redis://mine:6379/0").redis_url == "redis://mine:6379/0"


def test_a_directory_of_secrets_that_is_not_there_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setenv("FACTD_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"FACTD_SECRETS_DIR = .*nowhere.*mount the secrets there"):
        load_settings()
    monkeypatch.setenv("FACTD_SECRETS_DIR", "")
    assert load_settings().admin_token is None


def test_every_state_has_a_row_and_final_states_stay():
    assert set(TRANSITIONS) == set(State)
    with pytest.raises(Exception, match="is rejected and cannot become live"):
        check_transition("correction x", State.REJECTED, State.LIVE)


def test_addresses_that_may_hold_passwords_are_not_in_repr():
    settings = Settings(redis_url="redis://:secret@h", database_url="postgresql://u:secret@h/d")
    assert "secret" not in repr(settings)


def test_a_named_model_has_a_directory_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("FACTD_NAME", "poems")
    monkeypatch.delenv("FACTD_STATE_DIR", raising=False)  # make sets it
    with pytest.raises(SettingsError, match=r"FACTD_NAME = 'poems': .*set FACTD_STATE_DIR"):
        load_settings()
    settings = load_settings(state_dir=tmp_path)
    assert settings.names.queue("corrections") == "corrections.poems"
    assert settings.names.stream == "factd:poems:corrections"
    monkeypatch.setenv("FACTD_NAME", "a.b")
    with pytest.raises(SettingsError, match="small letters"):
        load_settings(state_dir=tmp_path)


def test_a_command_for_a_running_instance_takes_its_name(tmp_path, monkeypatch):
    monkeypatch.delenv("FACTD_NAME", raising=False)
    running = Running(
        os.getpid(), "m", "redis://h:1/0", "sqlite://", "http://a", "http://v", "t", name="poems"
    )
    announce(tmp_path, running)
    assert settings_for(tmp_path).names.stream == "factd:poems:corrections"
