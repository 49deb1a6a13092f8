"""`factd import` and `factd follow` as they are called."""

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app

_file = Path(__file__).parents[1] / "intake" / "feeds" / "event_server.py"
_spec = importlib.util.spec_from_file_location("event_server", _file)
event_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(event_server)

FACT = {"subject": "France", "prompt": "The capital of {} is", "target": "Lyon"}


@pytest.fixture
def cli(world, monkeypatch):
    for name in [name for name in os.environ if name.startswith("FACTD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FACTD_STATE_DIR", str(world.root))
    monkeypatch.setenv("FACTD_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def report(done):
    view = json.loads(done.stdout)
    return {
        name: view[name] for name in ("taken", "known", "retracted", "unchanged", "refused") if view[name]
    }


@pytest.fixture
def sheet(tmp_path):
    file = tmp_path / "heads.csv"
    file.write_text("country,head\n" + "".join(f"Country {n},Person {n}\n" for n in range(30)) + "Nowhere,\n")
    return file


def test_a_file_is_imported_once(cli, world, sheet):
    how = ("import", sheet, "--format", "csv", "--column", "subject=country", "--column", "target=head")
    how += ("--set", "prompt=The head of state of {} is", "--source", "almanac")
    assert report(cli(*how, "--dry-run", "--json")) == {"taken": 30, "refused": 1}
    assert world.ledger.questions.corrections() == []
    first = cli(*how)
    assert first.exit_code == 1
    assert re.search(r"30 +│ taken", first.stdout)
    assert "line 32: target = (nothing): is missing" in first.stderr
    again = cli(*how, "--json")
    assert report(again) == {"known": 30, "refused": 1}
    assert json.loads(again.stdout)["problems"][0]["field"] == "target"
    assert {row.source for row in world.ledger.questions.corrections()} == {"almanac"}
    sheet.write_text(sheet.read_text() + "Elsewhere,Somebody\n")
    assert report(cli(*how, "--json")) == {"taken": 31, "refused": 1}  # another file is another import


def test_a_file_of_bad_records_shows_twenty_and_counts_the_rest(cli, world, tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text("\n".join(['{"subject": "A"}'] * 5000))
    done = cli("import", file, "--format", "jsonl", "--json")
    assert done.exit_code == 1
    view = json.loads(done.stdout)
    assert (view["refused"], len(view["problems"])) == (5000, 20)
    assert len(cli("import", file, "--format", "jsonl").stderr) < 5000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("none.csv", "--format", "csv"), "cannot be read"),
        (("x", "--format", "jsonl", "--column", "a=b"), "are for --format csv"),
        (("x", "--format", "csv", "--column", "colour=b"), "names no field"),
        (("x", "--format", "csv", "--delimiter", "::"), "is not one character"),
    ],
)
def test_what_cannot_be_imported_is_told_before_anything_is_read(cli, arguments, told):
    done = cli("import", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr


def test_a_full_queue_is_told_and_the_same_command_goes_on(cli, world, tmp_path, monkeypatch):
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps(FACT | {"subject": f"S{n}"}) + "\n" for n in range(1005)))
    monkeypatch.setenv("FACTD_MAX_PENDING", "1000")
    done = cli("import", file, "--format", "jsonl", "--json")
    assert (done.exit_code, report(done), json.loads(done.stdout)["complete"]) == (6, {"taken": 1000}, False)
    assert "run the same command again" in done.stderr
    monkeypatch.setenv("FACTD_MAX_PENDING", "2000")
    assert report(cli("import", file, "--format", "jsonl", "--json")) == {"known": 1000, "taken": 5}


def test_a_stream_is_followed_until_its_end(cli, world):
    bodies = [FACT | {"target": f"T{n}"} for n in range(20)]
    with event_server.serving(bodies, refuse=[401]) as server:
        refused = cli("follow", server.url)
        assert refused.exit_code == 1
        assert "cannot be followed: 401" in refused.stderr
        done = cli("follow", server.url, "--header", "Authorization: Bearer x", "--most", "15", "--json")
        view = json.loads(done.stdout)
        assert (done.exit_code, view["events"], view["taken"]) == (0, 15, 15)
        assert "20 events" not in cli("follow", server.url).stdout
    assert [row.target for row in world.ledger.questions.corrections()] == [f"T{n}" for n in range(20)]


def test_an_address_that_is_none_and_a_mapping_without_labels_are_told(cli, world):
    assert "is no address of a stream" in cli("follow", "stream.example").stderr
    done = cli("follow", "http://127.0.0.1:1/x", "--mapping", "wikimedia")
    assert (done.exit_code, "needs --labels" in done.stderr) == (2, True)
