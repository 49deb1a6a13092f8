"""The servers of `make gpu`, on a processor: all but the device itself."""

import pytest

from benchmarks.families.measured import AGREES, CORRECTIONS, SIZES, VECTORS, edited
from benchmarks.families.tiny import save_checkpoint
from benchmarks.service import in_place
from benchmarks.service.gpu import Steps, served
from benchmarks.service.in_place import CPU, MUST, Trial, decoded_apart

pytest.importorskip("vllm")
pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(900)]


def test_a_correction_is_put_in_place_proved_taken_back_and_its_pause_told(tmp_path, monkeypatch):
    model = save_checkpoint(tmp_path / "model", "llama", vectors=VECTORS, **SIZES)
    decoded, stale = in_place.decoded, list[float]()

    def decoded_twice(replica, prompt):
        """Also from the base's weights, as by a graph that keeps them."""
        answer, fence = decoded(replica, prompt), replica.served().fence
        replica.publish("v000000", fence)
        kept = decoded(replica, prompt)
        replica.publish("v000001", fence)
        stale.append(decoded_apart(replica, prompt, kept))
        return answer

    monkeypatch.setattr(in_place, "decoded", decoded_twice)
    trial = Trial(lambda: edited(model, tmp_path / "state", "llama"), CORRECTIONS, "float32", graphs=False)
    done = Steps(CPU, tmp_path, print)
    done.do("in place", served(trial, CPU, tmp_path / "vllm.log"))
    (row,) = done.rows
    assert row["reason"] is None
    assert all(row[name] for name in MUST)
    assert 0 < row["pause_p50_ms"] <= row["pause_longest_ms"]
    assert row["decoded_difference_nats"] < AGREES < stale[0]
    assert row["max_difference_nats"] < AGREES
    assert row["device_bytes"] == 0


def test_a_server_that_does_not_start_is_the_reason(tmp_path):
    model = save_checkpoint(tmp_path / "model", "llama", vectors=VECTORS, **SIZES)
    editor = edited(model, tmp_path / "state", "llama")
    done = Steps(CPU, tmp_path, print)
    done.do(
        "in place",
        served(Trial(lambda: editor, CORRECTIONS, "no-such-dtype", graphs=False), CPU, tmp_path / "log"),
    )
    assert "vLLM ended with status" in done.rows[0]["reason"]
