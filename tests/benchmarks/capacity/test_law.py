"""The law finds what made the data, says how sure it is, and names the runs that it leaves out."""

import json
import math

import numpy as np
import pytest

from benchmarks.capacity import law
from benchmarks.errors import BenchError

DIRECTIONS = (384, 768, 1536, 1920, 3840, 4608, 7680, 13824)


def run(name, directions, facts, censored="", layers=1):
    horizon = {"facts": facts, "censored": censored}
    checkpoints = [{"edits": n, "filled": n / directions} for n in (25, 50, 100, 200, 400, 800)]
    own = {"run": name, "directions": directions, "layers": layers, "keys_per_column": directions / layers}
    return own | {"said": horizon, "checkpoints": checkpoints}


def synthetic(exponent=0.9, intercept=-2.0, spread=0.0, seed=0):
    noise = np.random.default_rng(seed).normal(0, spread, len(DIRECTIONS))
    return [math.exp(intercept + exponent * math.log(d) + e) for d, e in zip(DIRECTIONS, noise, strict=True)]


# -- horizons ---------------------------------------------------------------------------------------


def test_a_horizon_lies_on_the_line_in_log_edits():
    assert law.horizon([(100, 1.1), (400, 1.3)], 1.2).facts == pytest.approx(200)
    assert law.horizon([(100, 1.0), (400, 0.8)], 0.9, falling=True).facts == pytest.approx(200)


def test_a_measure_that_gets_better_again_is_pooled():
    # 0.94 and 0.96 are pooled to 0.95, so the fall from there to 0.85 is half over at 0.9.
    points = [(50, 0.98), (100, 0.94), (200, 0.96), (800, 0.85)]
    assert law.horizon(points, 0.9, falling=True).facts == pytest.approx(400)
    # A dip below the limit that the next checkpoint takes back is no horizon.
    dip = [(50, 0.98), (100, 0.89), (200, 0.95), (400, 0.91)]
    assert law.horizon(dip, 0.9, falling=True) == law.Horizon(None, law.NOT_REACHED)


def test_a_limit_that_is_not_passed_or_passed_at_once_has_no_horizon():
    assert law.horizon([(100, 1.0), (200, 1.2)], 1.2) == law.Horizon(None, law.NOT_REACHED)
    assert law.horizon([(100, 1.3), (200, 1.4)], 1.2) == law.Horizon(None, law.PAST_AT_ONCE)


# -- the law ----------------------------------------------------------------------------------------


def test_a_known_law_is_recovered():
    found = law.fitted(DIRECTIONS, synthetic())
    assert (found.intercept, found.exponent) == pytest.approx((-2.0, 0.9))
    assert found.spread == pytest.approx(0, abs=1e-9)
    assert found.facts(100_000) == pytest.approx([math.exp(-2 + 0.9 * math.log(100_000))] * 3)
    assert (found.runs, found.largest) == (8, 13824)


def test_the_interval_holds_nine_of_ten_new_runs_also_far_away():
    held = 0
    for seed in range(600):
        found = law.fitted(DIRECTIONS, synthetic(spread=0.3, seed=seed))
        new = np.random.default_rng(10_000 + seed).normal(-2 + 0.9 * math.log(70_000), 0.3)
        _, low, high = found.facts(70_000)
        held += low <= math.exp(new) <= high
    # Of 600 a true nine in ten give 540 ± 7.3.
    assert 517 <= held <= 563


def test_the_interval_widens_with_the_distance():
    found = law.fitted(DIRECTIONS, synthetic(spread=0.3))
    ratios = [high / low for _, low, high in map(found.facts, (math.exp(found.mean), 14_000, 140_000))]
    assert ratios == sorted(ratios)
    assert ratios[2] > 1.2 * ratios[0]


@pytest.mark.parametrize(("freedom", "t"), [(1, 6.3138), (2, 2.9200), (5, 2.0150), (7, 1.8946), (30, 1.6973)])
def test_students_t_is_that_of_the_tables(freedom, t):
    # 95 % quantiles, as printed in any table of the law.
    assert law.student(freedom) == pytest.approx(t, abs=2e-4)


def test_too_few_runs_or_runs_of_one_size_have_no_law():
    with pytest.raises(BenchError, match="3 runs have a horizon; the law needs 4"):
        law.fitted(DIRECTIONS[:3], synthetic()[:3])
    with pytest.raises(BenchError):
        law.fitted([100] * 5, [10, 11, 12, 13, 14])


# -- what is told of it -----------------------------------------------------------------------------


def told(runs, held_out="r7"):
    (found,) = law.laws(runs, ["said"], held_out)
    return found


def runs_of(facts):
    return [run(f"r{i}", d, n) for i, (d, n) in enumerate(zip(DIRECTIONS, facts, strict=True))]


def test_censored_runs_are_left_out_and_named():
    whole = told(runs_of(synthetic(spread=0.2)))
    censored = [run("far", 50_000, None, law.NOT_REACHED), run("tiny", 100, None, law.PAST_AT_ONCE)]
    found = told([*runs_of(synthetic(spread=0.2)), *censored])
    assert found["left_out"] == {"far": law.NOT_REACHED, "tiny": law.PAST_AT_ONCE}
    assert "far" not in found["runs"]
    assert found["law"] == whole["law"]


def test_the_run_held_out_is_told_by_the_others():
    facts = synthetic()
    facts[-1] *= 2
    held = told(runs_of(facts))["held_out"]
    # The others keep the law exactly, so they say half of what was measured, whatever that was.
    assert held["error"] == pytest.approx(-0.5)
    assert (held["measured"], held["inside"]) == (facts[-1], False)


def test_a_censored_run_that_was_held_out_has_no_error():
    runs = runs_of(synthetic(spread=0.1))
    runs[-1]["said"] = {"facts": None, "censored": law.NOT_REACHED}
    held = told(runs)["held_out"]
    assert (held["error"], held["inside"], held["censored"]) == (None, None, law.NOT_REACHED)
    assert held["low"] < held["estimate"] < held["high"]


def test_a_regressor_is_judged_by_the_runs_it_was_not_fitted_to():
    # Facts follow the layers' square and the keys: D cannot tell that, the two apart can.
    grid = [(layers, keys) for layers in (1, 2, 5) for keys in (100, 400, 1600)]
    runs = [run(f"{i}", n * k, float(n**2 * k), layers=n) for i, (n, k) in enumerate(grid)]
    tried = told(runs, "8")["tried"]
    assert tried["layers + keys_per_column"] == pytest.approx(0, abs=1e-9)
    assert tried["directions"] > 0.3


def test_a_fixed_share_filled_is_a_law_too():
    # Each fact fills one direction, and the limit is passed when a fifth are full.
    tried = told(runs_of([d / 5 for d in DIRECTIONS]))["tried"]
    assert tried["filled"] == pytest.approx(0, abs=1e-9)


def test_the_same_runs_give_the_same_bits():
    runs = runs_of(synthetic(spread=0.3))
    assert json.dumps(told(runs)) == json.dumps(told(runs))
