"""The shipped daemon of the benchmarks: its settings, its clock, its weights."""

from benchmarks.shipped.applying import STEP_SECONDS, Clock, ShippedSettings
from benchmarks.shipped.faults import add_noise
from benchmarks.streams import Step
from daemon.core.settings import Settings
from monitoring.verdict import Verdict
from tests.benchmarks.shipped.conftest import of_the_model


def test_settings_are_as_shipped_whatever_the_environment_says(monkeypatch):
    shipped = {
        name: field.get_default(call_default_factory=True) for name, field in Settings.model_fields.items()
    }
    monkeypatch.setenv("FACTD_DATABASE_URL", "sqlite:////somewhere/ledger.sqlite3")
    monkeypatch.setenv("FACTD_GUARD_COMPACT_VERSIONS", "1")
    monkeypatch.setenv("FACTD_THRESHOLDS", '{"probe_kl_nats_limit": 9.0}')
    found = ShippedSettings.but()
    assert found.model_dump(exclude={"state_dir"}) == {n: v for n, v in shipped.items() if n != "state_dir"}


def test_a_step_lasts_longer_than_the_cool_down_and_the_watch_interval():
    shipped = ShippedSettings.but()
    assert shipped.guard_watch_seconds < STEP_SECONDS
    assert shipped.guard_cooldown_seconds < STEP_SECONDS


def test_the_clock_goes_on_by_what_is_skipped_and_never_back():
    clock = Clock()
    start = clock()
    clock.skip(100.0)
    clock.skip(-50.0)
    assert clock() >= start + 100.0


def test_a_step_that_waits_for_a_retry_skips_the_wait(open_trial, records):
    def foggy(_shipped):
        return lambda *_: Verdict("inconclusive", ("probe_kl_nats is missing",), (), {})

    trial, _editor = open_trial(foggy)
    trial.post(Step((records[0],)))
    assert trial.daemon.ledger.questions.get(records[0].fact.id).state == "dead"
    assert len(trial.daemon.versions()) == trial.daemon.settings.max_attempts


def test_weights_that_somebody_else_changed_are_restored_before_anything_is_written(open_trial, records):
    trial, editor = open_trial(of_the_model)
    trial.post(Step(tuple(records[:2])))
    served = trial.daemon.replica.served().sha256
    add_noise(editor, 2.0, seed=1)
    assert editor.weight_hashes() != served
    trial.post(Step())
    assert editor.weight_hashes() == served
    add_noise(editor, 2.0, seed=1)
    trial.post(Step((records[2],)))
    assert trial.row()["worst_published_perplexity_ratio"] < 2
    assert trial.row()["refused_at"] is None
    assert trial.row()["good_live_ratio"] == 1
