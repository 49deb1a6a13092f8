"""The apply worker of the storm: a real Celery worker; the model, its replica and the judge are fakes."""

import sys

import daemon.app
from daemon.apply.applier import Applier
from daemon.apply.measuring import Monitoring
from daemon.core.settings import Settings
from daemon.ledger.ledger import Ledger
from daemon.versions.store import Store
from tests.daemon.fakes import DiskServing, FakeEditor, fake_foresee, fake_judge, fake_measure, fake_proof


def build_applier(settings: Settings, ledger: Ledger) -> Applier:
    editor = FakeEditor()
    replica = DiskServing(settings.store_dir, settings.state_dir / "replica.json")
    return Applier(
        ledger,
        Store(settings.store_dir),
        editor,
        [replica],
        monitoring=Monitoring(fake_measure, fake_judge, fake_foresee),
        settings=settings,
        proof=fake_proof(editor),
    )


if __name__ == "__main__":
    daemon.app.build_applier = build_applier
    daemon.app.celery.worker_main(sys.argv[1:])
