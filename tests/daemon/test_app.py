"""The composition root, with a tiny model and no replica."""

from types import SimpleNamespace

import pytest
from sqlalchemy.exc import DatabaseError, IntegrityError, InternalError

from daemon import app, tasks
from daemon.app import build_applier
from daemon.core.settings import Settings
from daemon.intake import intake
from daemon.intake.doorbell import Doorbell
from daemon.ledger.ledger import Ledger
from tests.tiny_models import save_checkpoint

PROBES = {"measure_sample": 4, "anchor": "none"}


def test_the_applier_of_the_settings_opens_a_model_and_runs(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "tiny")
    settings = Settings(state_dir=tmp_path / "state", model=str(checkpoint), dtype="float32", **PROBES)
    settings.state_dir.mkdir()
    ledger = Ledger.open(settings.ledger_url)
    report = build_applier(settings, ledger).run()
    assert (report.live, report.held) == ("v000000", None)


def test_a_message_waits_for_a_ledger_that_only_reads_and_not_for_one_that_refuses_it(monkeypatch):
    faults = [InternalError("", {}, Exception("read-only")), DatabaseError("", {}, Exception("malformed"))]

    def submit(_ledger, id, _parse, _actor):
        if faults:
            raise faults.pop(0)
        return id

    monkeypatch.setattr(intake, "submit_or_refuse", submit)
    monkeypatch.setattr(intake, "time", SimpleNamespace(sleep=lambda _seconds: None))
    monkeypatch.setitem(vars(tasks.services), "ledger", None)
    monkeypatch.setitem(vars(tasks.services), "settings", Settings())
    assert tasks._record("one", dict) == "one"
    faults.append(IntegrityError("", {}, Exception("twice")))
    with pytest.raises(IntegrityError):
        tasks._record("two", dict)


def test_an_intake_worker_takes_nothing_before_it_has_a_ledger(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    services = app.Services()
    services.settings = Settings(state_dir=tmp_path / "file")
    monkeypatch.setattr(app, "services", services)
    monkeypatch.setattr(app, "_takes", lambda queue: queue == "corrections")
    with pytest.raises(SystemExit):
        app._open(SimpleNamespace(app=app.celery))


def test_a_doorbell_that_nobody_answers_does_not_stay(monkeypatch):
    sent = []
    celery = SimpleNamespace(send_task=lambda name, **how: sent.append((name, how["expires"])))
    doorbell = Doorbell(celery)
    doorbell.ring()
    doorbell.ring(5.0)
    assert sent == [("factd.apply", 60), ("factd.apply", 5.0)]
