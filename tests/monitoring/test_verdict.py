import math
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.measurements import LAYER_MEASURES, CaseResult, Measurements
from monitoring.verdict import GUARD_NAMES, GUARDS, STALE_SECONDS, Thresholds, judge

HEALTHY = Measurements(
    weight_norm_ratio={7: 1.01, 8: 1.02},
    spectral_norm_ratio={7: 1.0, 8: 1.1},
    stable_rank_ratio={7: 1.0, 8: 1.0},
    subspace_similarity={7: 0.99, 8: 0.98},
    singular_vector_similarity={7: 0.9, 8: 0.9},
    drift={7: 0.1, 8: 0.1},
    value_norm_ratio=1.1,
    efficacy_ratio=1.0,
    paraphrase_ratio=0.9,
    neighbourhood_ratio=1.0,
    retention_ratio=1.0,
    retention_oldest_ratio=1.0,
    activation_norm_ratio={7: 1.0, 8: 1.0},
    activation_subspace_similarity={7: 1.0, 8: 1.0},
    canary_ratio=1.0,
    probe_kl_nats=0.01,
    probe_perplexity_ratio=1.01,
    cases={"a": CaseResult(True, "north", target="north"), "b": CaseResult(True, "south", target="south")},
)
LIMITS = Thresholds()
REQUIRED = [guard.name for guard in GUARDS if guard.required]


def with_value(m: Measurements, name: str, value: float | None) -> Measurements:
    if name in LAYER_MEASURES:
        return replace(m, **{name: {} if value is None else {7: getattr(m, name)[7], 8: value}})
    return replace(m, **{name: value})


def step(guard, level: float, size: float) -> float:
    return level + size if guard.high_is_bad else level - size


def test_a_healthy_version_is_accepted():
    verdict = judge(HEALTHY, LIMITS)
    assert verdict.outcome == "accepted"
    assert verdict.reasons == verdict.blamed == ()
    assert verdict.guards == dict.fromkeys(GUARD_NAMES, "ok")


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_warns_and_stops(guard):
    warn, limit = (getattr(LIMITS, f"{guard.name}_{kind}") for kind in ("warn", "limit"))
    warned = judge(with_value(HEALTHY, guard.name, step(guard, warn, 1e-3)), LIMITS)
    assert warned.outcome == "accepted"
    assert warned.guards[guard.name] == "warn"
    assert guard.name in warned.reasons[0]
    at_limit = judge(with_value(HEALTHY, guard.name, limit), LIMITS)
    assert at_limit.outcome == "accepted"
    past = judge(with_value(HEALTHY, guard.name, step(guard, limit, 1e-3)), LIMITS)
    assert past.outcome == "rejected"
    assert past.guards[guard.name] == "limit"
    assert f"{limit:g}" in past.reasons[0]
    assert guard.mend in past.reasons[0]


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, math.nan])
def test_a_required_measure_that_is_missing_is_inconclusive(name, value):
    verdict = judge(with_value(HEALTHY, name, value), LIMITS)
    assert verdict.outcome == "inconclusive"
    assert verdict.guards[name] == "unknown"
    assert any(name in reason for reason in verdict.reasons)


@pytest.mark.parametrize("guard", [g for g in GUARDS if not g.required], ids=lambda guard: guard.name)
def test_an_optional_measure_may_be_missing_but_not_nan(guard):
    assert judge(with_value(HEALTHY, guard.name, None), LIMITS).outcome == "accepted"
    assert judge(with_value(HEALTHY, guard.name, math.nan), LIMITS).outcome == "inconclusive"


def test_infinity_is_past_every_limit():
    assert judge(with_value(HEALTHY, "probe_perplexity_ratio", math.inf), LIMITS).outcome == "rejected"


def test_a_case_that_does_not_answer_is_blamed():
    cases = HEALTHY.cases | {"c": CaseResult(False, "Paris", target="Rome")}
    verdict = judge(replace(HEALTHY, cases=cases, efficacy_ratio=2 / 3), LIMITS)
    assert verdict.outcome == "rejected"
    assert verdict.blamed == ("c",)
    assert "'Paris' instead of 'Rome'" in verdict.reasons[0]


def test_a_case_that_damages_its_neighbours_is_blamed():
    cases = HEALTHY.cases | {"c": CaseResult(True, "Rome", neighbourhood=0.0, target="Rome")}
    verdict = judge(replace(HEALTHY, cases=cases, neighbourhood_ratio=0.4), LIMITS)
    assert verdict.outcome == "rejected"
    assert verdict.blamed == ("c",)


def test_what_500_good_edits_leave_of_the_weights_is_no_alarm():
    """Recorded: the default on SmolLM2, docs/experiments.md."""
    worn = replace(
        HEALTHY,
        weight_norm_ratio={8: 1.114},
        spectral_norm_ratio={8: 1.063},
        subspace_similarity={8: 0.512},
        probe_kl_nats=0.155,
        probe_perplexity_ratio=1.14,
    )
    verdict = judge(worn, Thresholds())
    assert verdict.outcome == "accepted"
    assert [name for name, state in verdict.guards.items() if state == "warn"] == [
        "subspace_similarity",
        "probe_perplexity_ratio",
    ]


def test_an_update_without_new_corrections_needs_no_efficacy():
    empty = replace(HEALTHY, cases={}, efficacy_ratio=None, value_norm_ratio=None)
    assert judge(empty, LIMITS).outcome == "accepted"
    assert judge(replace(HEALTHY, efficacy_ratio=None), LIMITS).outcome == "inconclusive"


def test_a_version_that_mends_a_damaged_one_is_let_through():
    damaged = with_value(HEALTHY, "weight_norm_ratio", 3.0)
    better = with_value(HEALTHY, "weight_norm_ratio", 2.0)
    assert judge(better, LIMITS).outcome == "rejected"
    assert judge(better, LIMITS, previous=damaged).outcome == "accepted"
    assert judge(better, LIMITS, previous=damaged).guards["weight_norm_ratio"] == "warn"
    assert judge(damaged, LIMITS, previous=better).outcome == "rejected"
    assert judge(better, LIMITS, previous=Measurements()).outcome == "rejected"


values = st.none() | st.floats()


@given(st.dictionaries(st.sampled_from([g.name for g in GUARDS]), values), st.booleans())
def test_accepted_means_that_all_is_known_and_within_limits(changes, answers):
    m = HEALTHY
    for name, value in changes.items():
        m = with_value(m, name, value)
    m = replace(m, cases={"a": CaseResult(answers, "x", target="y")})
    verdict = judge(m, LIMITS)
    if verdict.outcome == "accepted":
        assert answers
        assert set(verdict.guards.values()) <= {"ok", "warn"}
        assert all(m_value is not None for name in REQUIRED for m_value in [getattr(m, name)])
    if not answers:
        assert verdict.outcome == "rejected"


def test_thresholds_are_ordered_and_each_is_used():
    names = {f.name for f in fields(Thresholds)}
    assert names == {f"{guard.name}_{kind}" for guard in GUARDS for kind in ("warn", "limit")}
    for guard in GUARDS:
        warn, limit = (getattr(LIMITS, f"{guard.name}_{kind}") for kind in ("warn", "limit"))
        assert (warn < limit) if guard.high_is_bad else (warn > limit)


def test_judging_and_metrics_load_no_torch():
    script = (
        "import sys, monitoring.verdict, monitoring.metrics, monitoring.measuring.probes; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_stale_measurements_decide_nothing():
    measured = replace(HEALTHY, measured_at=1000.0)
    assert judge(measured, LIMITS, now=1000.0 + STALE_SECONDS).outcome == "accepted"
    for m, now in ((measured, 1001.0 + STALE_SECONDS), (measured, 999.0), (HEALTHY, 1000.0)):
        verdict = judge(m, LIMITS, now=now)
        assert verdict.outcome == "inconclusive"
        assert "measure again" in verdict.reasons[0]
        assert set(verdict.guards.values()) == {"unknown"}
