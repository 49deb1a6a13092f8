"""The capacity benchmark on a tiny model: rows, resuming, and its command."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.capacity.capacity import (
    PLAN,
    capacity,
    facts_of,
    full,
    parsed,
    planned,
    stream_of,
    summary,
)
from benchmarks.errors import ChoiceError
from benchmarks.files import read_json
from daemon.cli.main import app

FEW = "memit-seq::none::steps=3,moment_weight=10,again=0"
TEXTS = ["A cat sat there. " * 4]


def quiet(_text: str) -> None: ...


@pytest.fixture
def asked_dir(data_dir, tmp_path):
    """The data folder with questions for the relation of its facts."""
    folder = tmp_path / "data"
    folder.mkdir()
    for path in data_dir.iterdir():
        (folder / path.name).symlink_to(path)
    questions = {"P127": {"given": ["Who owns {}?"], "asked": ["Whose is {}?"]}}
    (folder / "questions_dev.json").write_text(json.dumps(questions))
    return folder


@pytest.fixture
def stream(model, records):
    return stream_of(model, records, TEXTS, (2, 4), 2, 3)


def row(edits, said, ratio, **changes):
    told = {"run": "one", "layers": 2, "keys": 32, "columns": 2.0, "edits": edits, "said": said}
    told |= {"perplexity_ratio": ratio, "filled": 0.1, "asked": 9, "written": edits, "seconds": 1.0}
    parts = dict.fromkeys(("method", "placement", "anchor", "protect", "options"), "x")
    return {**parts, "dataset": "counterfact", "audit": [], **told, **changes}


def test_runs_are_told_with_their_directions(model, stream, tmp_path):
    chosen = [parsed(f"{FEW},layers=1-2"), parsed(f"{FEW},layers=2-2,keys=0.5")]
    found = capacity(model, stream, chosen, tmp_path, quiet)
    assert read_json(tmp_path / "capacity.json", None) == json.loads(json.dumps(found))
    sizes = {run["run"]: (run["layers"], run["keys"], run["directions"]) for run in found["runs"]}
    assert sizes == {str(chosen[0]): (2, 64, 128), str(chosen[1]): (1, 32, 32)}
    for run in found["runs"]:
        assert [one["edits"] for one in run["checkpoints"]] == [2, 4]
        assert [one["asked"] for one in run["checkpoints"]] == [2, 3]
        first, last = run["checkpoints"]
        assert 0 < first["filled"] < last["filled"] < 1


def test_a_run_goes_on_after_its_last_checkpoint(model, records, tmp_path):
    chosen = [parsed(f"{FEW},layers=1-2")]
    ends = (stream_of(model, records, TEXTS, marks, 2, 3) for marks in ((2,), (2, 4)))
    for stream in ends:
        resumed = capacity(model, stream, chosen, tmp_path / "resumed", quiet)
    whole = capacity(model, stream_of(model, records, TEXTS, (2, 4), 2, 3), chosen, tmp_path / "whole", quiet)
    assert untimed(resumed) == untimed(whole)


def untimed(found):
    kept = [{**one, "seconds": 0} for run in found["runs"] for one in run["checkpoints"]]
    return kept, [{**run, "checkpoints": 0} for run in found["runs"]], found["laws"], found["warnings"]


def test_horizons_are_read_off_the_checkpoints():
    rows = [row(100, 0.95, 1.0), row(400, 0.85, 1.3)]
    (run,) = summary(rows, "")["runs"]
    assert run["directions"] == 2 * 32 / 2
    assert run["said 90 %"] == {"facts": pytest.approx(200), "censored": ""}
    assert run["said 80 %"] == {"facts": None, "censored": "not reached"}
    assert run["perplexity ×1.2"]["facts"] == pytest.approx(100 * 4 ** (2 / 3))


def test_the_run_with_the_most_directions_is_held_out_unless_another_is_named():
    runs = [
        row(edits, 0.95 - (edits > n / 2), 1.0, run=f"r{n}", layers=n, filled=edits / n / 99)
        for n in (100, 200, 400, 800, 1600)
        for edits in (n / 10, n)
    ]
    law = summary(runs, "")["laws"][0]
    assert (law["limit"], law["held_out"]["run"]) == ("said 90 %", "r1600")
    assert summary(runs, "r200")["laws"][0]["held_out"]["run"] == "r200"
    # Each passes its limit at the same share of its directions.
    assert law["law"]["coefficients"][1] == pytest.approx(1)
    assert law["held_out"]["error"] == pytest.approx(0, abs=1e-6)
    (far, _) = (law for law in summary(runs, "")["laws"] if law["limit"] == "perplexity ×1.2")
    assert far["law"] is None
    assert set(far["left_out"]) == {run["run"] for run in runs}


def test_a_run_ends_when_all_limits_are_passed():
    assert full(row(100, 0.7, 1.3))
    assert not full(row(100, 0.79, 1.3))
    assert not full(row(100, 0.7, 1.19))
    assert full(row(100, 0.7, float("nan")))


def test_the_plan_ends_at_the_windows_last_layer(model):
    every = planned(model)
    assert len(every) == len({str(one) for one in every}) <= len(PLAN)
    last = {one.layers(model.loaded)[-1] for one in every}
    assert len(last) == 1
    assert {one.share for one in every} == {1.0, 0.5, 0.25}
    assert any(one.layers(model.loaded)[0] == 0 for one in every)


@pytest.mark.parametrize("share", ["0", "1.5", "1.2.3"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ChoiceError, match="keys is a share above 0"):
        parsed(f"{FEW},keys={share}")


def test_a_fact_of_the_stream_has_the_question_that_may_be_posted(model, asked_dir):
    facts = [record.fact for record in facts_of(model, asked_dir, 3)]
    assert [fact.questions for fact in facts] == [("Who owns {}?",)] * 3


def test_the_command_writes_its_file(checkpoint, state_dir, asked_dir, tmp_path, monkeypatch):
    for name in ("MODEL", "STATE_DIR", "CORPUS", "DTYPE"):
        monkeypatch.delenv(f"FACTD_{name}", raising=False)
    told = ["--model", checkpoint, "--state", state_dir, "--data", asked_dir, "--out", tmp_path]
    told += ["--text", asked_dir / "general_text.jsonl", "--checkpoints", "2", "--batch", "2"]
    told += ["--config", f"{FEW},layers=1-2,keys=0.5", "--documents", "1"]
    done = CliRunner().invoke(app, ["bench", "capacity", *map(str, told)])
    assert done.exit_code == 0, done.output
    (run,) = json.loads((tmp_path / "capacity.json").read_text())["runs"]
    assert run["run"] in done.stdout
