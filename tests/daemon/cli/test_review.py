"""`factd review`: what is held, shown with its reasons, and decided by somebody else."""

import getpass
import json

import pytest
from typer.testing import CliRunner

from daemon.cli.exits import Exit
from daemon.cli.main import app
from daemon.core.messages import parse_correction
from daemon.intake.reading.lexicon import load_lexicon
from daemon.intake.trust.gate import SourceGate
from daemon.intake.trust.policies import Policy, Rules, Sources
from daemon.intake.trust.relating import Relations
from daemon.ledger.ledger import Ledger

BODY = {"prompt": "The director of {} is", "target": "Amara Singh"}


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://127.0.0.1:1/0")
    made = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
    made.intake.gate = SourceGate(Sources(Policy(policy="review"), Rules(), {}), Relations(load_lexicon()))
    yield made
    made.close()


def hold(ledger, id, actor="stream", **changes):
    return ledger.intake.submit(parse_correction({"subject": "Vale", **BODY, **changes}), id, actor=actor)


def run(*arguments):
    return CliRunner().invoke(app, ["review", *arguments])


def test_the_list_has_the_most_suspicious_first(ledger):
    hold(ledger, "a")
    hold(ledger, "b", subject="Oak", target="12 May 2021")
    done = run("list", "--json")
    assert done.exit_code == 0
    assert [(one["id"], one["score"]) for one in json.loads(done.stdout)] == [("b", 2.0), ("a", 1.0)]
    assert "2 held for review" in run("list").stdout


def test_one_is_shown_with_who_posted_it_and_each_finding(ledger):
    hold(ledger, "b", target="12 May 2021")
    view = json.loads(run("show", "b", "--json").stdout)
    assert (view["posted_by"], [one["rule"] for one in view["findings"]]) == (
        "stream",
        ["untrusted", "wrong_kind"],
    )
    assert "head" not in run("show", "b").stdout
    assert run("show", "nobody").exit_code == Exit.NOT_FOUND


def test_an_approval_and_a_rejection_are_recorded_with_their_reasons(ledger):
    hold(ledger, "a")
    hold(ledger, "b", subject="Oak")
    done = run("approve", "a", "--why", "the register says so")
    assert done.exit_code == 0
    assert "a is validated: approved by operator:" in done.stdout
    (rejected,) = json.loads(run("reject", "b", "--why", "a parody", "--json").stdout)
    assert (rejected["state"], rejected["reviewed_by"]) == ("rejected", f"operator:{getpass.getuser()}")
    assert run("approve", "a", "--why", "again").exit_code == Exit.BAD_INPUT
    assert run("approve", "b").exit_code == Exit.BAD_INPUT  # no reason


def test_who_posted_on_this_machine_may_not_approve(ledger):
    hold(ledger, "a", actor=f"operator:{getpass.getuser()}")
    done = run("approve", "a", "--why", "mine")
    assert done.exit_code == Exit.HELD
    assert "may not approve it" in done.stderr
    assert ledger.questions.get("a").state == "held"
