"""The environment is read once; faults are told together; secrets stay hidden."""

import pytest

from daemon.errors import SettingsError
from daemon.lifecycle import TRANSITIONS, State, check_transition
from daemon.settings import load_settings


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


def test_every_state_has_a_row_and_final_states_stay():
    assert set(TRANSITIONS) == set(State)
    with pytest.raises(Exception, match="is rejected and cannot become live"):
        check_transition("correction x", State.REJECTED, State.LIVE)
