"""What the editor of a worker is told, from the settings."""

from types import SimpleNamespace

import pytest

from daemon.apply import building
from daemon.apply.building import build_monitoring, consolidation_of
from daemon.core.errors import SettingsError
from daemon.core.settings import load_settings
from editing.consolidation.numbers import ConsolidationNumbers
from monitoring.capacity import Room
from monitoring.thresholds import Thresholds

LAYERS = (4, 5, 6)


def test_what_nobody_sets_of_a_consolidation_is_its_own_default():
    plain = ConsolidationNumbers(LAYERS)
    assert plain.changed(**consolidation_of(load_settings())) == plain


@pytest.mark.parametrize(("told", "layers"), [("5, 4", (4, 5)), ("[6]", (6,)), ("", LAYERS)])
def test_what_is_set_of_a_consolidation_are_its_numbers(monkeypatch, told, layers):
    monkeypatch.setenv("FACTD_CONSOLIDATION_LAYERS", told)
    monkeypatch.setenv("FACTD_CONSOLIDATION_EPOCHS", "2")
    monkeypatch.setenv("FACTD_CONSOLIDATION_RATE", "1e-5")
    found = ConsolidationNumbers(LAYERS).changed(**consolidation_of(load_settings()))
    assert found == ConsolidationNumbers(layers, epochs=2, rate=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("LAYERS", "first"), ("EPOCHS", "0"), ("RATE", "0"), ("RATE", "inf"), ("RATE", "nan")]
)
def test_what_is_no_number_of_a_consolidation_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"FACTD_CONSOLIDATION_{name}", value)
    with pytest.raises(SettingsError, match=f"FACTD_CONSOLIDATION_{name}"):
        load_settings()


@pytest.mark.parametrize("room", [Room(180, 90, 360, "it is full", 1.0), None])
def test_the_forecast_says_how_much_room_there_is(monkeypatch, room):
    monkeypatch.setattr(
        building, "open_baseline", lambda *_: SimpleNamespace(thresholds=lambda _: Thresholds())
    )
    monkeypatch.setattr(building, "asking_of", lambda *_: None)
    monkeypatch.setattr(building, "room_of", lambda _editor: room)
    told = build_monitoring(load_settings(), SimpleNamespace()).foresee([])
    assert told["room"] == (room and room.to_json())
    assert told["nearest"].startswith("nothing yet")
