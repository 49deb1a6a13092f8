"""Which measure warns: AUROC within strata, over all of them."""

import json

import pytest

from benchmarks.capacity.warning import pooled, strata, warnings
from benchmarks.lifelong.beliefs import MEASURES


def audited(edits, facts):
    """A checkpoint, from (id, said, key nearness, crowding, value norm) of each fact."""
    audit = [
        {"id": id, "prompt": said, **dict(zip(MEASURES, told, strict=True))} for id, said, *told in facts
    ]
    return {"edits": edits, "audit": audit}


def run(count=40, offset=0.0):
    """Facts with the largest nearness are lost, those with the smallest norm; crowding tells nothing."""
    before = [(f"f{i}", True, offset + i, i % 2, -i) for i in range(count)]
    after = [(f"f{i}", i < count - 8, offset + i, i % 2, -i) for i in range(count)]
    return [audited(200, after), audited(100, before)]


def test_a_measure_that_tells_all_one_that_tells_nothing_and_one_that_is_upside_down():
    near, crowded, norm = warnings([run()])
    assert (near["measure"], near["auroc"], near["low"]) == ("key_nearness", 1.0, 1.0)
    assert crowded["auroc"] == pytest.approx(0.5)
    assert crowded["low"] < 0.4
    assert crowded["high"] > 0.6
    assert norm["auroc"] == 0.0
    assert (near["lost"], near["of"], near["strata"]) == (8, 40, 1)


def test_facts_are_compared_within_their_run_only():
    # Were the runs mixed, kept facts of the second would lie above lost ones of the first.
    assert warnings([run(), run(offset=1000.0)])[0]["auroc"] == 1.0


def test_what_was_not_said_or_is_not_asked_again_is_no_loss():
    before = audited(
        50, [("a", False, 1, 1, 1), ("b", True, 1, 1, 1), ("c", True, 2, 1, 1), ("d", True, 3, 1, 1)]
    )
    after = audited(100, [("a", False, 1, 1, 1), ("b", True, 1, 1, 1), ("c", False, 2, 1, 1)])
    ((values, lost),) = strata([[before, after]])
    assert (values[:, 0].tolist(), lost.tolist()) == ([1, 2], [False, True])
    assert pooled([(values, lost)]) == [1.0, 0.5, 0.5]


def test_without_a_loss_there_is_nothing_to_tell():
    same = [("a", True, 1, 1, 1), ("b", True, 2, 1, 1)]
    assert warnings([[audited(50, same), audited(100, same)]]) == []


def test_the_same_runs_give_the_same_interval():
    assert json.dumps(warnings([run()])) == json.dumps(warnings([run()]))
