"""What real `factd` processes print: on odd terminals, into pipes, and of what old ledgers hold."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from daemon.core.messages import Correction
from daemon.core.text import hidden
from daemon.intake.stream import STREAM
from daemon.supervise.doctor import check_state_dir
from daemon.supervise.embedded import EmbeddedValkey
from tests.waiting import until

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


def test_doctor_tells_the_truth_about_the_ledger(factd, tmp_path):
    (tmp_path / "b%20d").mkdir()
    (tmp_path / "b%20d" / "ledger.sqlite3").write_text("no database" * 100)
    code, out, _ = factd("doctor", "--json", FACTD_STATE_DIR=str(tmp_path / "b%20d"))
    found = next(check for check in json.loads(out)["checks"] if check["name"] == "ledger")
    assert (code, found["ok"]) == (1, False)
    assert "not a database" in found["found"]


def test_doctor_says_which_state_directory_no_start_could_use(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "x", tmp_path / ("n" * 300)):
        assert not check_state_dir(folder).ok


def test_a_name_in_another_script_is_shown_on_every_terminal(world, factd):
    name = "\u65e5\u672c \U0001f5fb"  # the mountain lies beyond U+FFFF: JSON writes it as two halves
    world.post(name, "Ky\u014dto", "id-1")
    world.run()
    code, out, _ = factd("facts", "--json", encoding="latin-1", PYTHONIOENCODING="latin-1")
    assert (code, json.loads(out)[0]["subject"]) == (0, name)
    code, out, _ = factd("facts", encoding="latin-1", PYTHONIOENCODING="latin-1", COLUMNS="0")
    assert code == 0
    assert "\\u65e5\\u672c" in out


def test_a_reader_that_goes_away_is_no_fault(world, factd):
    for number in range(300):  # more than a pipe holds, also as a table
        world.post(f"S{number} {'long ' * 30}", "fine")
    argv = [sys.executable, "-m", "daemon.cli", "corrections", "--limit", "300"]
    options = {"cwd": ROOT, "env": factd.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for more in ([], ["--json"]):
        with subprocess.Popen([*argv, *more], **options) as process:
            assert process.stdout.read(1)
            process.stdout.close()
            assert (process.stderr.read(), process.wait(60)) == (b"", 0)


@pytest.mark.parametrize("module", ["daemon", "daemon.cli", "daemon.cli.main"])
def test_the_command_line_can_be_run_as_a_module(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, check=True)
    assert b"corrections" in done.stdout


def test_a_file_of_bad_lines_is_told_in_twenty_lines(factd, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"subject": 1}\n' * 5000)
    code, out, err = factd("post", "--file", str(file), "--json")
    told = json.loads(out)
    assert (code, len(told["problems"]), told["more"]) == (2, 20, 14980)
    assert "and 14980 more problems" in err
    assert len(err.splitlines()) < 25


def test_what_waits_and_what_was_refused_is_listed(world, factd):
    world.post("France", "Lyon", "live", source="desk")
    world.run()
    world.post("Z\u00fcrich", "x", "waits", source="feed")
    world.ledger.intake.refuse("bad", "message = 1: no", actor="celery")

    def ids(*options):
        code, out, _ = factd("corrections", "--json", *options)
        assert code == 0
        return [row["id"] for row in json.loads(out)]

    assert ids() == ["live", "waits", "bad"]
    assert ids("--limit", "1") == ["bad"]
    assert ids("--state", "waiting", "--state", "rejected") == ["waits", "bad"]
    assert ids("--source", "desk") == ["live"]
    assert ids("--subject", "Zu\u0308rich") == ["waits"]
    code, _, err = factd("corrections", "--state", "wating")
    assert code == 2
    assert "waiting, received" in err
    _, out, _ = factd("corrections", COLUMNS="200")
    assert "message = 1: no" in out


def _has_open(pid: int, name: str) -> bool:
    folder = Path(f"/proc/{pid}/fd")
    with suppress(FileNotFoundError):  # closed while we looked
        return any(os.readlink(fd).endswith(name) for fd in folder.iterdir())
    return False


def test_ctrl_c_says_what_was_posted(world, factd, tmp_path):
    argv = [sys.executable, "-m", "daemon", "post", "--subject", "A", "--prompt", "The head of {} is"]
    argv += ["--target", "x", "--wait", "--json"]
    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        own = factd.environment | {"FACTD_REDIS_URL": valkey.url}
        # A shell's background jobs, and so what they start, ignore it.
        heed = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        options = {"cwd": ROOT, "env": own, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with (
            subprocess.Popen(argv, preexec_fn=heed, **options) as process,
            Redis.from_url(valkey.url) as redis,
        ):
            # It opens the ledger twice: to see whether there is room, and to wait.
            until(lambda: redis.xlen(STREAM) == 1 and _has_open(process.pid, "ledger.sqlite3"))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    (id,) = json.loads(out)["ids"]
    assert process.returncode == 130
    assert id in err.decode()
    assert "factd status" in err.decode()
