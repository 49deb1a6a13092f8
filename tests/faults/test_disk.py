"""A full disk and one that cannot be written: real file systems, small ones of their own."""

from contextlib import ExitStack

import pytest
from celery.exceptions import Reject
from celery.worker import state as worker_state
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from daemon import tasks
from daemon.cli.exits import Exit
from daemon.cli.main import app
from daemon.core.messages import parse_correction
from daemon.http.api import create_app
from daemon.intake import intake
from daemon.ledger.audit import audit

#: a row that needs pages of its own: what is left in pages that the database has already is no disk
LONG = ["long " * 190] * 20
BODY = {"subject": "S", "prompt": "The capital of {} is", "target": "t", "paraphrases": LONG}


def on_and_on(write):
    for _ in range(1000):
        write()


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_version_that_cannot_be_written_waits_and_the_old_one_stays(make_world, disk_of, tmp_path, fault):
    disk = disk_of(tmp_path / "store")
    world = make_world()
    world.post("A", "B")
    world.run()
    world.post("C", "D")
    if fault == "full":
        with disk.full():
            report = world.run()
    else:
        disk.remount("ro")
        report = world.run()
        disk.remount("rw")
    assert ("No space left" if fault == "full" else "Read-only") in report.held
    assert (report.live, world.store.ids()) == ("v000001", ["v000001"])
    assert world.states() == {"id-A-B": "live", "id-C-D": "validated"}
    world.check_agreement()
    world.now += world.settings.retry_seconds + 1
    assert world.run().held is None
    assert set(world.states().values()) == {"live"}
    world.check_agreement()


def test_a_ledger_that_is_full_acknowledges_nothing_that_it_has_not(world_at, disk_of, tmp_path):
    disk = disk_of(tmp_path / "ledger")
    world = world_at(
        tmp_path, database_url=f"sqlite:///{disk.folder / 'ledger.sqlite3'}", admin_token="secret"
    )
    world.post("A", "B")
    world.run()
    world.post("C", "D")
    kept = ["id-A-B", "id-C-D"]
    client = TestClient(create_app(world.settings, world.ledger, [], lambda: None))
    with disk.full():
        with pytest.raises(OperationalError, match="full"):
            on_and_on(lambda: kept.append(world.post(f"S{len(kept)}", "t", paraphrases=LONG)))
        answer = client.post("/v1/corrections", json=BODY, headers={"Authorization": "Bearer secret"})
        assert answer.status_code == 503
        assert "Retry-After" in answer.headers
        with pytest.raises(OperationalError, match="full"):
            on_and_on(world.run)
    assert list(world.states()) == kept
    assert audit(world.ledger.database.engine).valid
    world.open()
    world.run()
    assert set(world.states().values()) == {"live"}
    world.check_agreement()
    world.close()


def test_a_celery_message_waits_until_the_ledger_has_room(world_at, disk_of, tmp_path, monkeypatch):
    disk = disk_of(tmp_path / "ledger")
    world = world_at(tmp_path, database_url=f"sqlite:///{disk.folder / 'ledger.sqlite3'}")
    monkeypatch.setitem(vars(tasks.services), "ledger", world.ledger)
    monkeypatch.setitem(vars(tasks.services), "settings", world.settings)
    with ExitStack() as full:
        full.enter_context(disk.full())
        waits = []
        monkeypatch.setattr(intake.time, "sleep", lambda seconds: (waits.append(seconds), full.close()))
        assert tasks._record("one", lambda: parse_correction(BODY)) == "one"
    assert waits == [world.settings.retry_seconds]
    monkeypatch.setattr(worker_state, "should_stop", 0)
    with disk.full(), pytest.raises(Reject) as told:
        tasks._record("two", lambda: parse_correction(BODY | {"subject": "T"}))
    assert told.value.requeue
    assert world.states() == {"one": "validated"}
    world.close()


def test_a_state_directory_that_cannot_be_written_is_told_and_left_as_it_is(
    world_at, disk_of, tmp_path, monkeypatch
):
    disk = disk_of(tmp_path / "state")
    world = world_at(disk.folder)
    world.post("A", "B")
    world.run()
    world.close()
    monkeypatch.setenv("FACTD_STATE_DIR", str(disk.folder))
    disk.remount("ro")
    for words in (["post", "--subject", "S", "--prompt", "p {}", "--target", "t"], ["status"], ["versions"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == Exit.UNAVAILABLE, done.output
        assert "the ledger cannot be" in done.stderr
    with pytest.raises(OperationalError):
        world.open()
    disk.remount("rw")
    world.open()
    assert world.run().versions == []
    assert world.states() == {"id-A-B": "live"}
    world.check_agreement()
    world.close()
