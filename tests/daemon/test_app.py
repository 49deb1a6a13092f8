"""The composition root, with a tiny model and no replica."""

from daemon.app import build_applier
from daemon.ledger import Ledger
from daemon.settings import Settings
from tests.tiny_models import save_checkpoint

PROBES = {"measure_sample": 4, "anchor": "none"}


def test_the_applier_of_the_settings_opens_a_model_and_runs(tmp_path):
    checkpoint = save_checkpoint(tmp_path / "tiny")
    settings = Settings(state_dir=tmp_path / "state", model=str(checkpoint), dtype="float32", **PROBES)
    settings.state_dir.mkdir()
    ledger = Ledger.open(settings.ledger_url)
    report = build_applier(settings, ledger).run()
    assert (report.live, report.held) == ("v000000", None)
