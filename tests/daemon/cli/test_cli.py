"""The command line as a user calls it: exit codes, messages, and that bad input changes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from monitoring.capacity import Room

ROOT = Path(__file__).parents[3]
GOOD = {"subject": "the Eiffel Tower", "prompt": "The city where {} stands is", "target": "Rome"}
#: Nothing listens there: posting must fail as unavailable, never as a crash.
NO_BROKER = "redis://127.0.0.1:1/0"


@pytest.fixture
def factd(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FACTD_")}
    environment |= {"FACTD_STATE_DIR": str(tmp_path / "state"), "FACTD_REDIS_URL": NO_BROKER}

    def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daemon", *arguments],
            cwd=ROOT,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def _fields(**changes: str) -> list[str]:
    return [part for name, value in (GOOD | changes).items() for part in (f"--{name}", value)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (_fields(prompt="no slot here"), "prompt"),
        (_fields(prompt="{} and {}"), "prompt"),
        (_fields(target=""), "target"),
        (_fields()[:4], "target"),
    ],
)
def test_bad_fields_exit_2_and_name_the_field(factd, tmp_path, arguments, named):
    done = factd("post", *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "next:" in done.stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (json.dumps(GOOD | {"subject": 7}), "subject"),
        (json.dumps(GOOD | {"target": "x" * 10_000_000}), "target"),
        (json.dumps(GOOD | {"colour": "red"}), "colour"),
        ('{"subject": "a", "subject": "b", "prompt": "x {}", "target": "t"}', "subject"),
        ('{"subject": ', "JSON"),
    ],
)
def test_bad_line_of_a_file_exits_2_and_posts_nothing(factd, tmp_path, line, named):
    path = tmp_path / "corrections.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + line + "\n")
    done = factd("post", "--file", str(path), "--json")
    assert done.returncode == 2
    assert "line 2" in done.stderr
    assert named in done.stderr
    assert len(done.stderr) < 2000
    assert json.loads(done.stdout)["problems"][0]["line"] == 2
    assert not (tmp_path / "state").exists()


def test_posting_without_a_broker_is_unavailable(factd):
    done = factd("post", *_fields())
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_missing_file_is_bad_input(factd):
    assert factd("post", "--file", "/nowhere.jsonl").returncode == 2


def test_questions_without_a_ledger_are_unavailable(factd):
    done = factd("status")
    assert done.returncode == 4
    assert "factd up" in done.stderr


def test_unknown_ids_are_not_found(factd, tmp_path):
    from daemon.ledger.ledger import Ledger

    (tmp_path / "state").mkdir()
    Ledger.open(f"sqlite:///{tmp_path / 'state' / 'ledger.sqlite3'}").close()
    assert factd("status", "nothing").returncode == 3
    assert factd("rollback", "v000099").returncode == 3
    assert factd("retract", "nothing").returncode == 3
    assert json.loads(factd("versions", "--json").stdout)["live"] == "v000000"
    assert json.loads(factd("facts", "--json").stdout) == []


def test_compact_carries_on_in_the_applier_and_tells_the_result(factd, make_world, tmp_path):
    (tmp_path / "state").mkdir()
    world = make_world(state_dir=tmp_path / "state")
    world.post("A", "stiff")
    world.run()
    assert "stiff" in factd("facts").stdout
    done = factd("compact", "--why", "spring", "--timeout", "0", "--json")
    assert done.returncode == 0
    view = json.loads(done.stdout)
    assert (view["kind"], view["state"], view["why"]) == ("compact", "pending", "spring")
    world.run()
    assert world.ledger.questions.operation(view["operation"]).reason == "compaction forgets"
    status = json.loads(factd("status", "--json").stdout)
    assert status["last_step"]["step"] == "refuse"
    assert status["forecast"].startswith("nothing yet")


def test_status_tells_how_much_room_there_is_once_a_version_was_measured(factd, make_world, tmp_path):
    (tmp_path / "state").mkdir()
    world = make_world(state_dir=tmp_path / "state")
    assert json.loads(factd("status", "--json").stdout)["room"] is None
    assert "room" in factd("status").stdout
    room = Room(180, 90, 360, "it is full", 1.0).to_json()
    told = {"known": False, "nearest": "nothing yet", "forecasts": [], "room": room}
    world.applier.monitoring = world.applier.monitoring._replace(foresee=lambda _history: told)
    world.post("A", "fine")
    world.run()
    assert json.loads(factd("status", "--json").stdout)["room"] == room
    assert "room for about 180 facts" in factd("status").stdout


def test_help_documents_every_exit_code(factd):
    done = factd("post", "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert "0 ok, 1 failed, 2 bad input, 3 not found, 4 unavailable" in text


def test_doctor_says_what_to_mend(factd):
    done = factd("doctor", "--json")
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode in (1, 4)
    assert all(check["mend"] for check in checks if not check["ok"])
