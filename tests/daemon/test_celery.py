"""The real queue: a producer that knows only Celery, a real broker, a real intake worker process."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from celery import Celery

from daemon.embedded import EmbeddedValkey
from daemon.ledger import Ledger

ROOT = Path(__file__).parents[2]
GOOD = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def broker(tmp_path):
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey.url


@pytest.fixture
def worker(broker, tmp_path):
    environment = os.environ | {"FACTD_STATE_DIR": str(tmp_path), "FACTD_REDIS_URL": broker}
    command = [sys.executable, "-m", "celery", "-A", "daemon.app:celery", "worker"]
    command += ["-Q", "corrections", "-P", "solo", "--loglevel", "INFO"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
    yield process
    process.terminate()
    process.wait(30)


def test_a_foreign_producer_posts_and_a_bad_message_is_refused(broker, worker, tmp_path):
    app = Celery(broker=broker, backend=broker)
    id = str(uuid.uuid4())
    posted = app.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert posted.get(timeout=60) == id
    again = app.send_task("factd.submit", [GOOD], queue="corrections", task_id=id)
    assert again.get(timeout=60) == id
    bad = app.send_task("factd.submit", [GOOD | {"prompt": "no slot"}], queue="corrections")
    with pytest.raises(Exception, match=r"prompt = 'no slot': .*exactly one"):
        bad.get(timeout=60)
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    assert {row.id: row.state.value for row in ledger.corrections()} == {id: "validated", bad.id: "rejected"}
    ledger.close()
    app.close()


def test_the_intake_side_does_not_import_torch():
    code = "import sys, daemon.tasks; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
