"""The row of the restart table, from what clients heard."""

import os
import subprocess
import sys

import psutil
import pytest

from benchmarks.service.interruptions import Heard, outcome
from benchmarks.service.restarts import Parts, cases, with_row
from tests.programs import free_port
from tests.waiting import until

LIVE = {"version": "v000007", "text": "Rome"}


def heard(*answers):
    """At so many seconds, status, version, text; each was asked half a second before."""
    return [Heard(at - 0.5, at, status, version, text) for at, status, version, text in answers]


def test_an_answer_from_base_weights_is_counted_and_ends_the_wait_later():
    told = heard(
        (9.0, 200, "default", "Paris"),  # before anything was killed
        (10.5, 200, "v000007", "Rome."),
        (11.0, 0, "", ""),
        (20.0, 503, "", ""),
        (21.0, 200, "default", "Paris"),
        (24.0, 200, "v000007", "Rome"),
        (25.0, 200, "v000007", "Rome"),
    )
    row = outcome(told, 10.0, {"vllm": 20.0, "broker": 12.0}, **LIVE)
    assert (row["answers"], row["default_answers"], row["other_answers"]) == (4, 1, 1)
    assert (row["refused"], row["unreachable"]) == (1, 1)
    assert row["live_after_seconds"] == 4.0
    assert row["back_seconds"] == {"vllm": 10.0, "broker": 2.0}


def test_answers_that_never_ceased_were_back_at_once():
    row = outcome(
        heard((10.5, 200, "v000007", "Rome"), (11.0, 200, "v000007", "Rome")), 10.0, {"api": 13.0}, **LIVE
    )
    assert row["live_after_seconds"] == 0.0
    assert row["default_answers"] == row["other_answers"] == 0


def test_the_live_label_over_another_answer_counts_as_another_answer():
    told = heard((10.5, 200, "v000007", "Paris"), (12.0, 200, "v000007", "Rome"))
    row = outcome(told, 10.0, {"vllm": 10.0}, **LIVE)
    assert (row["default_answers"], row["other_answers"], row["live_after_seconds"]) == (0, 1, 2.0)


def test_a_live_version_that_never_came_back_has_no_time():
    assert outcome(heard((10.5, 0, "", "")), 10.0, {"vllm": 10.0}, **LIVE)["live_after_seconds"] is None


def test_each_part_alone_and_each_pair_or_what_is_chosen():
    assert len(set(map(frozenset, cases([])))) == 15
    assert cases(["vllm,broker", "api"]) == [("vllm", "broker"), ("api",)]
    with pytest.raises(ValueError, match="'redis': is none of vllm"):
        cases(["vllm,redis"])


def test_a_case_that_is_tried_again_takes_the_place_of_its_row():
    rows = [{"killed": ["vllm", "api"], "answers": 1}, {"killed": ["api"], "answers": 2}]
    again = {"killed": ["api", "vllm"], "answers": 3}
    assert with_row(rows, again) == [rows[1], again]


def test_a_worker_is_not_back_while_the_broker_is_away():
    up = {"redis_url": f"redis://127.0.0.1:{free_port()}/0"}
    assert Parts(up, None, None)._workers_answer() is False


def test_a_process_that_ended_by_itself_is_passed_over():
    """When the broker is killed, a worker may end before it is killed."""
    code = "import sys, time; print('up', flush=True); time.sleep(float(sys.argv[-1]))"
    words = [sys.executable, "-c", code, "reaper.py", "--queue"]
    gone = subprocess.Popen([*words, "0"])
    until(lambda: psutil.Process(gone.pid).status() == psutil.STATUS_ZOMBIE)
    with subprocess.Popen([*words, "60"], stdout=subprocess.PIPE) as there:
        assert there.stdout is not None
        there.stdout.readline()
        found = Parts({"pid": os.getpid()}, None, None)._reapers("worker")
        there.kill()
    gone.wait()
    assert [each.pid for each in found] == [there.pid]
