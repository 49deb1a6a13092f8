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


#: Layers of each of them.
GRID = [
    run(f"r{i}", d, None, layers=n)
    for i, (d, n) in enumerate(zip(DIRECTIONS, (1, 1, 1, 5, 5, 3, 5, 9), strict=True))
]


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


def fitted(facts, names=("directions",)):
    return law.fitted(GRID, facts, names)


def test_a_known_law_is_recovered():
    found = fitted(synthetic())
    assert found.coefficients == pytest.approx((-2.0, 0.9))
    assert found.spread == pytest.approx(0, abs=1e-9)
    assert found.facts({"directions": 100_000}) == pytest.approx([math.exp(-2 + 0.9 * math.log(100_000))] * 3)
    assert (found.runs, found.largest) == (8, (13824.0,))


def test_a_known_law_of_two_regressors_is_recovered():
    facts = [
        math.exp(1 + 0.4 * math.log(run["layers"]) + 0.8 * math.log(run["keys_per_column"])) for run in GRID
    ]
    found = fitted(facts, ("layers", "keys_per_column"))
    assert found.coefficients == pytest.approx((1.0, 0.4, 0.8))
    assert found.largest == (9.0, 1536.0)
    one = {"layers": 5, "keys_per_column": 14_336}
    assert found.facts(one)[0] == pytest.approx(math.exp(1 + 0.4 * math.log(5) + 0.8 * math.log(14_336)))


def test_the_interval_holds_nine_of_ten_new_runs_also_far_away():
    held = 0
    for seed in range(600):
        found = fitted(synthetic(spread=0.3, seed=seed))
        new = np.random.default_rng(10_000 + seed).normal(-2 + 0.9 * math.log(70_000), 0.3)
        _, low, high = found.facts({"directions": 70_000})
        held += low <= math.exp(new) <= high
    # Of 600 a true nine in ten give 540 ± 7.3.
    assert 517 <= held <= 563


def test_the_interval_widens_with_the_distance():
    found = fitted(synthetic(spread=0.3))
    near = math.exp(np.log(DIRECTIONS).mean())
    ratios = [
        high / low for _, low, high in (found.facts({"directions": d}) for d in (near, 14_000, 140_000))
    ]
    assert ratios == sorted(ratios)
    assert ratios[2] > 1.2 * ratios[0]


@pytest.mark.parametrize(("freedom", "t"), [(1, 6.3138), (2, 2.9200), (5, 2.0150), (7, 1.8946), (30, 1.6973)])
def test_students_t_is_that_of_the_tables(freedom, t):
    # 95 % quantiles, as printed in any table of the law.
    assert law.student(freedom) == pytest.approx(t, abs=2e-4)


def test_too_few_runs_or_runs_of_one_size_have_no_law():
    with pytest.raises(BenchError, match="3 runs with a horizon are too few"):
        law.fitted(GRID[:3], synthetic()[:3], ("directions",))
    with pytest.raises(BenchError, match="too much alike, for a law of directions"):
        law.fitted([GRID[0]] * 5, [10, 11, 12, 13, 14], ("directions",))
    # Layers and keys that always go together cannot be told apart.
    together = [run("x", n * n, 1.0, layers=n) for n in (1, 2, 4, 8, 16, 32)]
    with pytest.raises(BenchError, match="a law of layers and keys_per_column"):
        law.fitted(together, [1, 2, 3, 4, 5, 6], ("layers", "keys_per_column"))


# -- what is told of it -----------------------------------------------------------------------------


def told(runs, held_out="r7", regressors=("directions",)):
    every = law.laws(runs, ["said"], held_out)
    return next(one for one in every if one["regressors"] == list(regressors))


def runs_of(facts):
    return [{**one, "said": {"facts": n, "censored": ""}} for one, n in zip(GRID, facts, strict=True)]


def test_censored_runs_are_left_out_and_named():
    whole = told(runs_of(synthetic(spread=0.2)))
    censored = [run("far", 50_000, None, law.NOT_REACHED), run("tiny", 100, None, law.PAST_AT_ONCE)]
    found = told([*runs_of(synthetic(spread=0.2)), *censored])
    assert found["left_out"] == {"far": law.NOT_REACHED, "tiny": law.PAST_AT_ONCE}
    assert (found["law"], found["error"]) == (whole["law"], whole["error"])


def test_where_too_few_runs_are_left_it_is_said_why_there_is_no_law():
    runs = [*runs_of(synthetic())[:3], *(run(f"far{i}", 10_000 + i, None, law.NOT_REACHED) for i in range(4))]
    found = told(runs)
    assert (found["law"], found["held_out"], found["error"]) == (None, None, None)
    assert "3 runs with a horizon are too few" in found["reason"]
    assert len(found["left_out"]) == 4


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


def test_regressors_are_judged_by_the_runs_they_were_not_fitted_to():
    # Facts follow the layers' square and the keys: their product cannot tell that, the two apart can.
    grid = [(layers, keys) for layers in (1, 2, 5) for keys in (100, 400, 1600)]
    runs = [run(f"{i}", n * k, float(n**2 * k), layers=n) for i, (n, k) in enumerate(grid)]
    assert told(runs, "8", ("layers", "keys_per_column"))["error"] == pytest.approx(0, abs=1e-9)
    assert told(runs, "8")["error"] > 0.3


def test_a_fixed_share_filled_is_a_law_too():
    # Each fact fills one direction, and the limit is passed when a fifth are full.
    assert told(runs_of([d / 5 for d in DIRECTIONS]))["filled"] == pytest.approx(0, abs=1e-9)
    assert told(runs_of(synthetic(exponent=0.5)))["filled"] > 0.3


def test_the_same_runs_give_the_same_bits():
    runs = runs_of(synthetic(spread=0.3))
    assert json.dumps(told(runs)) == json.dumps(told(runs))
