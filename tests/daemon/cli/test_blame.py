"""From a version to its corrections, and from a text to corrections and versions."""

import json

import pytest
from typer.testing import CliRunner

from daemon.cli.ask.blame import blame_text, blame_version
from daemon.cli.main import app
from daemon.core.errors import UnknownIdError


@pytest.fixture
def history(world):
    """v1: France, Peru. v2: Peru superseded. v3: France retracted."""
    world.post("France", "Lyon", source="wiki")
    world.post("Peru", "Cusco")
    world.run()
    world.post("Peru", "Lima")
    world.run()
    world.ledger.intake.request("retract", "id-France-Lyon", actor="operator")
    world.run()
    return world.ledger


def found(ledger, text):
    return [(row["id"], row["versions"]) for row in blame_text(ledger, text)["corrections"]]


def test_a_version_names_its_facts_and_who_wrote_them(history):
    held = [(row["id"], row["since"]) for row in blame_version(history, "v000002")["corrections"]]
    assert held == [("id-Peru-Lima", "v000002"), ("id-France-Lyon", "v000001")]
    assert blame_version(history, "v000003")["removed"] == ["id-France-Lyon"]
    assert blame_version(history, "v000000")["corrections"] == []
    with pytest.raises(UnknownIdError):
        blame_version(history, "v000009")


def test_a_text_names_corrections_and_the_versions_that_were_live_with_them(history):
    assert found(history, "lyon") == [("id-France-Lyon", ["v000001", "v000002"])]
    assert found(history, "Peru") == [
        ("id-Peru-Cusco", ["v000001"]),
        ("id-Peru-Lima", ["v000002", "v000003"]),
    ]
    assert found(history, "The capital of Peru is Lima, they say.")[0][0] == "id-Peru-Lima"
    assert found(history, "capital of France") == [("id-France-Lyon", ["v000001", "v000002"])]
    assert found(history, "Per") == []
    assert found(history, "(") == []


def test_the_command_prints_json_and_exits_3_when_nothing_is_known(history, world):
    run = CliRunner().invoke
    state = ["--state", str(world.root)]
    shown = run(app, ["blame", "Lyon", "--json", *state])
    assert shown.exit_code == 0
    (row,) = json.loads(shown.stdout)["corrections"]
    assert (row["source"], row["state"], row["matched"]) == ("wiki", "retracted", ["target"])
    assert json.loads(run(app, ["blame", "default", "--json", *state]).stdout)["version"] == "v000000"
    assert "id-Peru-Lima" in run(app, ["blame", "v000002", *state]).stdout
    assert run(app, ["blame", "Atlantis", *state]).exit_code == 3
    assert run(app, ["blame", "v000009", *state]).exit_code == 3
