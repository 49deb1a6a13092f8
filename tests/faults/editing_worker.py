"""The applier of a worker that edits for real: ledger, store and editor are the daemon's own. The judge is a
fake, and so is the replica, which serves what the store holds."""

from daemon.apply.applier import Applier
from daemon.apply.building import open_editor
from daemon.apply.measuring import Monitoring
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.versions.store import Store
from tests.daemon.fakes import DiskServing, fake_foresee, fake_judge, fake_measure


def build_applier(settings: Settings, ledger: Ledger) -> Applier:
    return Applier(
        ledger,
        Store(settings.store_dir),
        open_editor(settings, lambda _stage, _fraction: None),
        [DiskServing(settings.store_dir, settings.state_dir / "replica.json")],
        monitoring=Monitoring(fake_measure, fake_judge, fake_foresee),
        settings=settings,
    )
