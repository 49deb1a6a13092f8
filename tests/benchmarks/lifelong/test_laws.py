"""Collapse, growth and NAS's factor, on rows made by hand."""

import math

import pytest

from benchmarks.lifelong.laws import Ending, collapse, exponent, laws

BARE, NAS = "memit:single:none:none:moment_weight=1", "memit:single:nas:none:moment_weight=1"


def row(edits, ratio=1.1, s=85.0, norm=1.2, method=BARE, seconds=1.0):
    told = {"method": method, "stream": "churn", "edits": edits, "perplexity_ratio": ratio, "s": s}
    return told | {"weight_norm_ratio_max": norm, "seconds": seconds, "more": {"value_norm": float(edits)}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"ratio": 3.0}, ""),
        ({"ratio": 3.01}, "perplexity"),
        ({"ratio": math.nan}, "perplexity"),
        ({"ratio": None}, "perplexity"),
        ({"s": 59.9}, "S is 59.9"),
        ({"seconds": 60.0}, "minutes"),
    ],
)
def test_a_stream_ends_at_collapse_or_when_its_time_is_over(changes, why):
    told = Ending(s=60.0, seconds=60.0)(row(10, **changes))
    assert bool(told) == bool(why)
    assert why in told


def test_collapse_is_the_first_checkpoint_past_it():
    rows = [row(300, 4.0), row(100), row(200, 3.5), row(400)]
    assert collapse(rows, Ending()) == (200, 100)
    assert collapse(rows[1:2], Ending()) == (None, 100)
    # A stream that ran out of time has not collapsed.
    assert collapse([row(100, seconds=99.0)], Ending(seconds=60.0)) == (None, 100)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.7])
def test_the_exponent_of_a_power_law_is_found(power):
    rows = [row(t, norm=1 + 0.003 * t**power) for t in (20, 60, 200, 600)]
    assert exponent(rows) == pytest.approx(power)


def test_no_law_is_fitted_to_too_few_points_or_to_a_norm_that_shrinks():
    assert exponent([row(20), row(40)]) is None
    assert exponent([row(t, norm=0.9) for t in (20, 40, 60)]) is None
    assert exponent([row(20), row(40), row(60, norm=None)]) is None


def test_an_anchored_method_is_told_beside_the_same_one_without():
    rows = [row(100), row(200, 3.5), row(100, method=NAS), row(600, 3.2, method=NAS)]
    endings = {"churn": Ending()}
    bare, anchored = laws(rows, endings)
    assert bare["nas_factor"] is None
    assert (anchored["nas_factor"], anchored["at_least"]) == (3.0, False)
    assert (bare["value_norm_first"], bare["value_norm_last"]) == (100.0, 200.0)
    standing = laws([*rows[:3], row(500, 2.0, method=NAS)], endings)[1]
    assert (standing["collapse_at"], standing["nas_factor"], standing["at_least"]) == (None, 2.5, True)
    # Where the one without an anchor still stands there is no factor.
    assert laws([rows[0], *rows[2:]], endings)[1]["nas_factor"] is None
