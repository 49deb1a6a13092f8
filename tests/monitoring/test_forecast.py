import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitoring.forecast import (
    FEWEST_POINTS,
    Forecast,
    edits_until_limit,
    forecast,
    forecasts,
    to_json,
)
from monitoring.measurements import Measurements
from monitoring.thresholds import Thresholds

EDITS = 1000.0  # the limit is reached here
LAWS = {
    "exponential": (lambda n: np.exp(math.log(3) * n / EDITS), 3.0),
    "linear": (lambda n: 1 + 0.5 * n / EDITS, 1.5),
    "bounded": (lambda n: 1 + 0.5 * (1 - np.exp(-1.5 * n / EDITS)) / (1 - math.exp(-1.5)), 1.5),
}
NOISE = 0.005


def half_way(law: str, seed: int, noise: float = NOISE, points: int = 40):
    n = np.linspace(EDITS / 2 / points, EDITS / 2, points)
    values = LAWS[law][0](n) + noise * np.random.default_rng(seed).standard_normal(points)
    return list(zip(n, values, strict=True))


@pytest.mark.parametrize("law", LAWS)
def test_without_noise_law_and_edits_are_found(law):
    found = forecast(half_way(law, 0, noise=0), LAWS[law][1])
    assert found.law == law
    assert found.edits == pytest.approx(EDITS / 2, rel=0.01)
    assert found.low <= EDITS / 2 <= found.high


@pytest.mark.parametrize("law", LAWS)
def test_half_way_with_noise_it_is_within_a_quarter_and_the_interval_covers(law):
    found = [forecast(half_way(law, seed), LAWS[law][1]) for seed in range(12)]
    assert sum(abs(f.edits / (EDITS / 2) - 1) <= 0.25 for f in found) >= 11
    assert sum(f.low <= EDITS / 2 <= f.high for f in found) >= 9


#: (LS, ‖W − W₀‖ / ‖W₀‖) of layer 8 after 20, 40, … 480 facts of the default on SmolLM2 (docs/experiments.md).
RECORDED = (
    *((0.968, 0.130), (0.908, 0.197), (0.869, 0.237), (0.828, 0.275), (0.801, 0.303), (0.778, 0.328)),
    *((0.750, 0.353), (0.730, 0.375), (0.714, 0.394), (0.694, 0.416), (0.670, 0.439), (0.658, 0.456)),
    *((0.643, 0.474), (0.623, 0.495), (0.609, 0.512), (0.585, 0.531), (0.573, 0.546), (0.556, 0.561)),
    *((0.543, 0.577), (0.531, 0.591), (0.517, 0.605), (0.504, 0.620), (0.496, 0.632), (0.488, 0.644)),
)


@pytest.mark.parametrize("measure", [0, 1], ids=["subspace_similarity", "drift"])
@pytest.mark.parametrize("half", [9, 10, 11, 12])
def test_half_way_on_a_recorded_stream_it_is_within_a_quarter(measure, half):
    series = [(20.0 * (i + 1), values[measure]) for i, values in enumerate(RECORDED)]
    found = forecast(series[:half], series[2 * half - 1][1], high_is_bad=measure == 1)
    assert found.law == "root"
    assert found.edits == pytest.approx(20 * half, rel=0.25)


#: Perplexity of held-out text and norm of the weight after 20, 40, … 400 edits of plain MEMIT without an
#: anchor, which had then collapsed (docs/experiments.md).
COLLAPSED = (
    *((1.048, 1.123), (1.152, 1.258), (1.166, 1.358), (1.255, 1.457), (1.325, 1.523)),
    *((1.425, 1.611), (1.465, 1.671), (1.516, 1.725), (1.620, 1.765), (1.881, 1.837)),
    *((1.867, 1.888), (1.990, 1.949), (2.084, 1.999), (2.232, 2.065), (2.311, 2.111)),
    *((2.507, 2.158), (2.574, 2.211), (2.695, 2.257), (2.881, 2.305), (3.102, 2.355)),
)


@pytest.mark.parametrize(
    ("which", "measure", "law"), [(0, "perplexity_ratio", "linear"), (1, "weight_norm_ratio", "root")]
)
@pytest.mark.parametrize("half", [8, 9, 10])
def test_half_way_to_a_recorded_collapse_it_is_within_a_quarter(which, measure, law, half):
    series = [(20.0 * (i + 1), values[which]) for i, values in enumerate(COLLAPSED)]
    found = forecast(series[:half], series[2 * half - 1][1], measure=measure)
    assert (found.law, found.value) == (law, pytest.approx(series[half - 1][1]))
    assert found.edits == pytest.approx(20 * half, rel=0.25)


def test_a_perplexity_without_meaning_is_left_out():
    series = [(20.0 * (i + 1), values[0]) for i, values in enumerate(COLLAPSED)]
    broken = [*series[:5], (110.0, 0.0), (111.0, math.inf), (112.0, math.nan), *series[5:10]]
    assert forecast(broken, 3.0, measure="perplexity_ratio") == forecast(
        series[:10], 3.0, measure="perplexity_ratio"
    )


def test_single_spikes_do_not_move_it():
    clean = half_way("exponential", 1)
    spiked = [(n, 50.0 if i in (7, 23) else v) for i, (n, v) in enumerate(clean)]
    assert forecast(spiked, 3.0).edits == pytest.approx(forecast(clean, 3.0).edits, rel=0.1)


def test_a_falling_measure_is_forecast_towards_a_lower_limit():
    mirrored = [(n, 2 - v) for n, v in half_way("linear", 2)]
    upwards, downwards = forecast(half_way("linear", 2), 1.5), forecast(mirrored, 0.5, high_is_bad=False)
    assert downwards.edits == pytest.approx(upwards.edits, rel=1e-6)


def test_what_does_not_grow_or_was_hardly_measured_has_no_forecast():
    chance = np.random.default_rng(0)
    flat = [(n, 1 + 0.01 * chance.standard_normal()) for n in range(60)]
    assert forecast(flat, 1.5) is None
    assert forecast([(n, 1.0) for n in range(60)], 1.5) is None
    assert forecast([(n, 2 - n / 100) for n in range(60)], 3.0) is None
    growing = [(n, 1 + n / 100) for n in range(60)]
    assert forecast(growing[: FEWEST_POINTS - 1], 3.0) is None
    assert forecast([(5, v) for _, v in growing], 3.0) is None
    assert forecast([(n, math.nan) for n, _ in growing], 3.0) is None


def test_bounded_growth_below_the_limit_never_reaches_it():
    series = [(n, 1 + 0.2 * (1 - math.exp(-n / 20))) for n in range(100)]
    found = forecast(series, 1.5)
    assert found.law == "bounded"
    assert found.edits == found.high == math.inf
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["edits"] is None
    assert "stays below" in str(found)


def test_a_limit_that_is_passed_has_no_edits_left():
    assert forecast([(n, 1 + n / 10) for n in range(30)], 2.0).edits == 0


def test_a_long_series_is_thinned_and_gives_the_same():
    few, many = (forecast(half_way("exponential", 3, 0.002, points), 3.0) for points in (60, 3000))
    assert many.edits == pytest.approx(few.edits, rel=0.05)


points = st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6) | st.just(math.nan)), max_size=40)


@settings(max_examples=50, deadline=None)
@given(points, st.floats(-1e6, 1e6), st.booleans())
def test_it_is_never_nan_and_the_interval_holds_the_forecast(series, limit, high_is_bad):
    found = forecast(sorted(series, key=lambda p: p[0]), limit, high_is_bad)
    if found is not None:
        assert 0 <= found.low <= found.edits <= found.high


def history(versions: int, growth: float):
    return [
        (10 * i, Measurements(weight_norm_ratio={4: 1.0, 5: 1 + growth * i}, probe_kl_nats=growth * i / 4))
        for i in range(versions)
    ]


def test_the_gauge_is_the_nearest_of_all_limits():
    limits = Thresholds()
    found = forecasts(history(20, 0.01), limits)
    assert [f.measure for f in found] == ["weight_norm_ratio", "probe_kl_nats"]
    assert found[0].edits == pytest.approx((0.5 - 0.19) / 0.001, rel=0.01)
    assert edits_until_limit(history(20, 0.01), found) == found[0].edits
    assert to_json(found)["nearest"] == str(found[0])
    assert edits_until_limit(history(20, 0.0), forecasts(history(20, 0.0), limits)) == math.inf
    assert edits_until_limit(history(3, 0.01), forecasts(history(3, 0.01), limits)) is None
    assert "no measure" in to_json([])["nearest"]


def test_a_forecast_reads_as_a_sentence():
    one = Forecast("probe_kl_nats", "exponential", 0.1, 0.5, 120.4, 90.2, math.inf)
    assert str(one) == "probe_kl_nats reaches 0.5 in 120 edits (90 to never), exponential growth"


def test_forecasting_loads_no_torch():
    modules = "monitoring.forecast, monitoring.policy, monitoring.measuring.schedule"
    script = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
