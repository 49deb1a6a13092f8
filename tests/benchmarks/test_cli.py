"""`factd bench` as a user calls it."""

import json

import pytest
from typer.testing import CliRunner

from daemon.cli.main import app

FEW = "steps=2"


@pytest.fixture
def bench(checkpoint, state_dir, data_dir, monkeypatch):
    for name in ("MODEL", "STATE_DIR", "CORPUS", "DTYPE"):
        monkeypatch.delenv(f"FACTD_{name}", raising=False)
    monkeypatch.setenv("FACTD_ANCHOR", "none")

    def run(command, *arguments):
        told = ["--model", str(checkpoint), "--state", str(state_dir), "--data", str(data_dir)]
        return CliRunner().invoke(app, ["bench", command, *told, *map(str, arguments)])

    return run


def test_horizon_writes_json_and_plots(bench, data_dir, tmp_path):
    text = data_dir / "general_text.jsonl"
    done = bench(
        *("horizon", "--out", tmp_path, "--text", text, "--batch", 2, "--checkpoints", "2,4", "--json"),
        *("--config", "memit::none", "--values", FEW),
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "horizon.json").read_text())
    assert (tmp_path / "horizon.png").exists()
    assert "counterfact: 4 facts" in done.stderr


def test_speed_prints_a_table(bench, tmp_path):
    done = bench("speed", "--out", tmp_path, "--edits", 2, "--serial-edits", 1, "--values", FEW)
    assert done.exit_code == 0, done.output
    assert "serial procedure" in done.stdout
    assert json.loads((tmp_path / "speed.json").read_text())["edits"] == 2


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config", "memmit"], "memmit"),
        (["--checkpoints", "many"], "--checkpoints"),
        (["--values", "colour=red"], "colour"),
        (["--text", "/nowhere.jsonl"], "--text"),
    ],
)
def test_bad_options_exit_2_and_name_the_option(bench, tmp_path, arguments, named):
    done = bench("horizon", "--out", tmp_path / "out", *arguments)
    assert done.exit_code == 2
    assert named in done.stderr
    assert not (tmp_path / "out").exists()


def test_values_measures_a_real_worker_and_simulates_many(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("FACTD_METHOD", "nse")
    told = ["--model", checkpoint, "--state", tmp_path / "state", "--out", tmp_path, "--workers", 1]
    done = CliRunner().invoke(app, ["bench", "values", *map(str, told), "--edits", "8", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "values.json").read_text())
    assert json.loads(done.stdout) == result
    assert len(result["task_seconds"]) == 2
    assert [row["workers"] for row in result["measured"]] == [1]
    assert {row["workers"] for row in result["simulated"]} >= {8, 64}
    assert all(cost > 0 for cost in result["costs_seconds"].values())


def test_measures_times_a_layer_of_the_shape_asked_for(tmp_path):
    done = CliRunner().invoke(app, ["bench", "measures", "--out", str(tmp_path), "--shape", "24x48"])
    assert done.exit_code == 0, done.output
    assert "of the update of one fact" in done.stdout
    assert json.loads((tmp_path / "measures.json").read_text())["shape"] == [24, 48]
    wrong = CliRunner().invoke(app, ["bench", "measures", "--out", str(tmp_path), "--shape", "24"])
    assert wrong.exit_code == 2
    assert "4096x14336" in wrong.stderr
