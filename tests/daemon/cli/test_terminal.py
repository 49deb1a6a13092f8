"""What real `factd` processes print: on odd terminals, into pipes, and of what old ledgers hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.core.messages import Correction
from daemon.core.text import hidden

ROOT = Path(__file__).parents[3]
#: What a ledger from before may hold: it clears the screen, and turns the text around.
HOSTILE = "Evil\x9b2J\u202elive\u2028x"


@pytest.fixture
def factd(world):
    """A function: runs a command on the world's ledger in a process of its own; the broker is away."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")}
    own |= {"FACTD_STATE_DIR": str(world.root), "FACTD_REDIS_URL": "redis://127.0.0.1:1/0"}

    def run(*arguments, encoding="utf-8", **more):
        argv = [sys.executable, "-m", "daemon.cli", *arguments]
        done = subprocess.run(argv, cwd=ROOT, env=own | more, capture_output=True, timeout=120, check=False)
        assert b"Traceback" not in done.stderr, done.stderr.decode(encoding)
        return done.returncode, done.stdout.decode(encoding), done.stderr.decode(encoding)

    run.environment = own
    return run


def hostile(world) -> str:
    """A row as factd wrote it before it looked for such characters."""
    old = Correction.model_construct(subject=HOSTILE, prompt="The head of {} is", target="x", reason=HOSTILE)
    return world.ledger.intake.submit(old, "old")


@pytest.mark.parametrize("command", [["facts"], ["status", "old"], ["blame", "Evil"], ["facts", "--json"]])
def test_an_old_row_cannot_move_the_terminal(world, factd, command):
    hostile(world)
    world.run()
    assert world.states() == {"old": "live"}
    code, out, _ = factd(*command, COLUMNS="200")
    assert code == 0
    assert "\\u009b2J\\u202elive" in out
    assert hidden(out.replace("\n", "")) is None
    if "--json" in command:
        assert json.loads(out)[0]["subject"] == HOSTILE


def test_an_error_cannot_move_the_terminal(factd):
    code, out, err = factd("status", HOSTILE, "--json")
    assert code == 3
    assert hidden((out + err).replace("\n", "")) is None


def test_a_correction_with_a_hidden_character_is_refused_before_it_is_sent(factd):
    code, _, err = factd("post", "--subject", "A\u202eB", "--prompt", "The head of {} is", "--target", "x")
    assert code == 2
    assert "U+202E (right-to-left override), at character 2" in err


def test_the_spelling_of_an_old_ledger_is_the_same_subject(world):
    old = Correction.model_construct(subject="Zu\u0308rich", prompt="The head of {} is", target="old")
    world.ledger.intake.submit(old, "old")
    world.run()
    world.post("Z\u00fcrich", "new", "new", prompt="The head of {} is")
    world.run()
    assert world.states() == {"old": "superseded", "new": "live"}
    world.check_agreement()


@pytest.mark.parametrize("name", ["a b%20c", "q?x=1%2F#é~日本", 'quo"te\\'])
def test_the_ledger_is_in_the_state_directory_whatever_its_name(world_at, factd, tmp_path, name):
    state = tmp_path / "parent" / name
    state.mkdir(parents=True)
    world = world_at(state)
    world.post("France", "Lyon", "id-1")
    world.close()
    assert [path.name for path in state.parent.iterdir()] == [name]
    assert (state / "ledger.sqlite3").exists()
    assert json.loads(factd("status", "id-1", "--json", FACTD_STATE_DIR=str(state))[1])["target"] == "Lyon"
    checks = json.loads(factd("doctor", "--json", FACTD_STATE_DIR=str(state))[1])["checks"]
    found = {check["name"]: check for check in checks}
    assert found["ledger"]["ok"]
    assert found["ledger"]["found"] == f"{state / 'ledger.sqlite3'}: opens"


def test_doctor_says_what_no_start_could_use(factd, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "ledger.sqlite3").write_text("no database" * 100)
    wrong = {
        "state directory": [tmp_path / "file" / "x", tmp_path / ("n" * 300)],
        "ledger": [tmp_path / "bad"],
    }
    for name, folders in wrong.items():
        for folder in folders:
            code, out, _ = factd("doctor", "--json", FACTD_STATE_DIR=str(folder))
            assert code != 0
            assert not next(check for check in json.loads(out)["checks"] if check["name"] == name)["ok"]
