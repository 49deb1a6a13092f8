"""What is served is asked of the replicas, and said before anything else: status, API, metrics, doctor."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from daemon.cli.ask import status as status_command
from daemon.cli.exits import Exit
from daemon.cli.main import app
from daemon.cli.run import doctor as doctor_command
from daemon.http.status_page import numbers_only, page_view, snapshot, truth_of
from daemon.ledger.heartbeats import ALIVE_SECONDS, WORKERS, Heartbeat
from daemon.ledger.journal import Journal
from daemon.ledger.lease import Lease
from daemon.ledger.ledger import Ledger
from daemon.ledger.record.disproved import record_disproved
from daemon.publish.stub import StubServing
from daemon.supervise.doctor import check_served


@pytest.fixture
def served(world):
    """The world with a live version, two replicas that serve it, and both workers alive."""
    world.measure_really()
    world.post("A", "B")
    world.run()
    world.replicas = [StubServing(name="http://one"), StubServing(name="http://two")]
    for replica in world.replicas:
        replica.publish("v000001", 1)
    Heartbeat(world.ledger.database, WORKERS).beat()
    return world


@pytest.fixture
def factd(served, monkeypatch):
    """A function: `factd …` on the world; returns exit code and lines."""
    monkeypatch.setenv("FACTD_STATE_DIR", str(served.root))
    for module in (status_command, doctor_command):
        monkeypatch.setattr(module, "open_reports", lambda _settings: served.replicas)
    opened = SimpleNamespace(open=lambda url: Ledger.open(url, lambda: served.now))
    monkeypatch.setattr("daemon.cli.ledger.Ledger", opened)
    monkeypatch.setattr(doctor_command, "Ledger", opened)
    monkeypatch.setattr(doctor_command, "examine", lambda *_: [])

    def run(*words):
        done = CliRunner().invoke(app, words)
        return done.exit_code, done.stdout

    return run


def said(world):
    view = page_view(world.ledger, world.replicas)
    return view["mismatches"], {each["name"]: each["state"] for each in view["replicas"]}


def test_when_all_serve_the_live_version_nothing_is_said(served, factd):
    assert said(served) == ([], {"http://one": "in_sync", "http://two": "in_sync"})
    code, out = factd("status")
    assert (code, "MISMATCH" in out) == (Exit.OK, False)
    assert "http://two serves v000001 (in_sync)" in " ".join(out.replace("│", " ").split())
    assert factd("doctor")[0] == Exit.OK


def test_a_replica_that_lost_its_edits_is_the_first_line_and_the_exit_code(served, factd):
    served.replicas[1].restart()
    code, out = factd("status")
    assert code == Exit.OUT_OF_SYNC
    assert out.startswith("MISMATCH  the ledger's live version is v000001, replica http://two serves default")
    code, out = factd("status", "--json")
    view = json.loads(out)
    assert (code, view["replicas"][1]["serves"], view["replicas"][1]["in_sync"]) == (7, "default", False)
    assert view["live"] == "v000001"
    assert factd("doctor")[0] == Exit.OUT_OF_SYNC
    assert snapshot(served.ledger, served.replicas).in_sync == {"0": True, "1": False}


def test_one_correction_is_told_without_asking_servers(served, factd):
    served.replicas[0].alive = False
    assert factd("status", "id-A-B")[0] == Exit.OK


def test_a_replica_that_is_silent_is_told_so(served, factd):
    served.replicas[0].alive = False
    sentences, states = said(served)
    assert states["http://one"] == "silent"
    assert "http://one does not answer its health check" in sentences[0]
    assert factd("status")[0] == Exit.OUT_OF_SYNC


def test_a_replica_that_computes_something_else_is_no_more_in_sync(served, factd):
    """The applier found it out; the replica itself says that all is well."""
    with Lease(served.ledger.database, 30) as lease:
        with Journal(served.ledger.database, lease.fence).writing() as c:
            record_disproved(c, {"http://two": "2 of 5 matrices do not multiply"})
    wrong = "replica http://two says that it serves v000001 and computes something else: 2 of 5 matrices"
    assert said(served)[0][0].startswith(wrong)
    assert said(served)[1] == {"http://one": "in_sync", "http://two": "disproved"}
    code, out = factd("status")
    assert (code, out.startswith(f"MISMATCH  {wrong}")) == (Exit.OUT_OF_SYNC, True)
    assert factd("doctor")[0] == Exit.OUT_OF_SYNC
    assert snapshot(served.ledger, served.replicas).in_sync == {"0": True, "1": False}
    quiet = numbers_only(page_view(served.ledger, served.replicas))
    assert quiet["mismatches"] == ["replica 1 says that it serves v000001 and computes something else"]
    with Lease(served.ledger.database, 30) as lease:
        with Journal(served.ledger.database, lease.fence).writing() as c:
            record_disproved(c, {})
    assert said(served)[0] == []


def test_a_version_on_its_way_is_no_mismatch(served):
    served.post("C", "D")
    with Lease(served.ledger.database, 30) as lease:
        version = Journal(served.ledger.database, lease.fence).plan(["id-C-D"])
    served.replicas[0].publish(version.id, 1)
    assert said(served) == ([], {"http://one": "publishing", "http://two": "in_sync"})


def test_the_unedited_model_is_right_where_nothing_is_live(world):
    world.replicas = [StubServing(name="new")]
    assert said(world)[1] == {"new": "in_sync"}


def test_where_no_replica_is_named_nothing_is_claimed(served, factd):
    served.replicas = []
    code, out = factd("status")
    assert code == Exit.OUT_OF_SYNC
    assert "what is served is not known" in out.splitlines()[0]


def test_workers_that_give_no_sign_are_named(served, factd):
    served.now += ALIVE_SECONDS + 1
    code, out = factd("status")
    assert code == Exit.OUT_OF_SYNC
    lines = out.splitlines()
    assert "no intake worker gives a sign of life" in lines[0]
    assert "no apply worker gives a sign of life" in lines[1]
    assert snapshot(served.ledger, []).workers == {"intake": False, "apply": False}
    Heartbeat(served.ledger.database, ["apply"]).beat()
    assert snapshot(served.ledger, []).workers == {"intake": False, "apply": True}


def test_the_doctor_names_what_to_mend(served):
    served.replicas[1].restart()
    served.now += ALIVE_SECONDS + 1
    truth = truth_of(served.ledger, served.replicas, served.ledger.questions.status())
    broken = {check.name: check for check in check_served(truth) if not check.ok}
    assert set(broken) == {"serves: http://two", "worker: intake", "worker: apply"}
    assert "serves default, v000001 is live" in broken["serves: http://two"].found
    assert "factd worker --queue apply" in broken["worker: apply"].mend


def test_without_a_token_no_address_and_no_error_is_told(served):
    served.replicas[0].restart()
    served.replicas[1].alive = False
    view = numbers_only(page_view(served.ledger, served.replicas))
    assert "http://" not in json.dumps(view)
    assert view["mismatches"] == [
        "the ledger's live version is v000001, replica 0 serves default",
        "the ledger's live version is v000001, replica 1 serves something that it does not tell",
    ]
