import math
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.measurements import CaseResult, Measurements
from monitoring.registry import JUDGED, LAYER_MEASURES, SPLIT, WATCHED
from monitoring.shares import Counted
from monitoring.thresholds import Thresholds
from monitoring.verdict import STALE_SECONDS, judge, reasons_for

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
REQUIRED = [measure.name for measure in WATCHED if measure.required]


def with_value(m: Measurements, name: str, value: float | None) -> Measurements:
    if name in LAYER_MEASURES:
        return replace(m, **{name: {} if value is None else {7: getattr(m, name)[7], 8: value}})
    return replace(m, **{name: value})


def step(measure, level: float, size: float) -> float:
    return level + size if measure.high_is_bad else level - size


def test_a_healthy_version_is_accepted():
    verdict = judge(HEALTHY, LIMITS)
    assert verdict.outcome == "accepted"
    assert verdict.reasons == verdict.blamed == ()
    assert verdict.states == dict.fromkeys(JUDGED, "ok")


@pytest.mark.parametrize("measure", WATCHED, ids=lambda measure: measure.name)
def test_each_measure_warns_and_stops(measure):
    warn, limit = LIMITS[measure.name].warn, LIMITS[measure.name].limit
    warned = judge(with_value(HEALTHY, measure.name, step(measure, warn, 1e-3)), LIMITS)
    assert warned.outcome == "accepted"
    assert warned.states[measure.name] == "warn"
    assert measure.name in warned.reasons[0]
    at_limit = judge(with_value(HEALTHY, measure.name, limit), LIMITS)
    assert at_limit.outcome == "accepted"
    past = judge(with_value(HEALTHY, measure.name, step(measure, limit, 1e-3)), LIMITS)
    assert past.outcome == "rejected"
    assert past.states[measure.name] == "limit"
    assert f"{limit:g}" in past.reasons[0]
    assert measure.mend in past.reasons[0]


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, math.nan])
def test_a_required_measure_that_is_missing_is_inconclusive(name, value):
    verdict = judge(with_value(HEALTHY, name, value), LIMITS)
    assert verdict.outcome == "inconclusive"
    assert verdict.states[name] == "unknown"
    assert any(name in reason for reason in verdict.reasons)


@pytest.mark.parametrize("measure", [m for m in WATCHED if not m.required], ids=lambda measure: measure.name)
def test_an_optional_measure_may_be_missing_but_not_nan(measure):
    assert judge(with_value(HEALTHY, measure.name, None), LIMITS).outcome == "accepted"
    assert judge(with_value(HEALTHY, measure.name, math.nan), LIMITS).outcome == "inconclusive"


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
    """Recorded: the default on SmolLM2, docs/log/guard.md."""
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
    assert [name for name, state in verdict.states.items() if state == "warn"] == [
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
    assert judge(better, LIMITS, previous=damaged).states["weight_norm_ratio"] == "warn"
    assert judge(damaged, LIMITS, previous=better).outcome == "rejected"
    assert judge(better, LIMITS, previous=Measurements()).outcome == "rejected"


values = st.none() | st.floats()


@given(st.dictionaries(st.sampled_from([m.name for m in WATCHED]), values), st.booleans())
def test_accepted_means_that_all_is_known_and_within_limits(changes, answers):
    m = HEALTHY
    for name, value in changes.items():
        m = with_value(m, name, value)
    m = replace(m, cases={"a": CaseResult(answers, "x", target="y")})
    verdict = judge(m, LIMITS)
    if verdict.outcome == "accepted":
        assert answers
        assert set(verdict.states.values()) <= {"ok", "warn"}
        assert all(m_value is not None for name in REQUIRED for m_value in [getattr(m, name)])
    if not answers:
        assert verdict.outcome == "rejected"


def test_thresholds_are_ordered_and_each_is_used():
    assert set(LIMITS.as_settings()) == {f"{m.name}_{kind}" for m in WATCHED for kind in ("warn", "limit")}
    for measure in WATCHED:
        warn, limit = LIMITS[measure.name].warn, LIMITS[measure.name].limit
        assert (warn < limit) if measure.high_is_bad else (warn > limit)


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
        assert set(verdict.states.values()) == {"unknown"}


def with_share(name: str, hits: int, asked: int) -> Measurements:
    counts = {name: Counted(hits, asked)}
    return replace(HEALTHY, **{name: hits / asked}, counts=counts)


def test_one_fact_of_nine_may_be_chance_and_two_are_not():
    one, two = (judge(with_share("retention_ratio", hits, 9), LIMITS) for hits in (8, 7))
    assert (one.outcome, one.states["retention_ratio"]) == ("accepted", "warn")
    assert one.reasons[0].startswith("retention_ratio = 8 of 9 is below the limit 0.9, but so few cases")
    assert (two.outcome, two.states["retention_ratio"]) == ("rejected", "limit")
    assert two.reasons[0].startswith("retention_ratio = 7 of 9 is below the limit 0.9; retract")


@pytest.mark.parametrize(
    ("hits", "asked"), [(3, 9), (6, 9), (0, 1), (0, 2), (1, 2), (3, 4), (28, 32), (0, 32)]
)
def test_clear_damage_is_refused_however_few_were_asked(hits, asked):
    assert judge(with_share("retention_ratio", hits, asked), LIMITS).outcome == "rejected"


@pytest.mark.parametrize("hits", [0, 1])
def test_neighbours_that_were_all_lost_are_refused(hits):
    verdict = judge(with_share("neighbourhood_ratio", 0, hits + 1), LIMITS)
    assert verdict.states["neighbourhood_ratio"] == "limit"


def test_without_counts_the_share_itself_decides():
    """So were versions judged that are in older ledgers."""
    assert judge(replace(HEALTHY, retention_ratio=8 / 9), LIMITS).outcome == "rejected"


def test_counts_of_one_share_excuse_no_other():
    m = replace(with_share("retention_oldest_ratio", 8, 9), retention_ratio=8 / 9)
    assert judge(m, LIMITS).states["retention_ratio"] == "limit"


def test_a_share_that_chance_excuses_does_not_excuse_the_next():
    """The version before was not past its limit, so that a worse one cannot hide behind it."""
    excused, worse = with_share("retention_ratio", 8, 9), with_share("retention_ratio", 7, 9)
    assert judge(worse, LIMITS, previous=excused).outcome == "rejected"
    assert judge(worse, LIMITS, previous=worse).states["retention_ratio"] == "warn"


ORDER = ("ok", "warn", "limit")


@given(
    st.sampled_from(["retention_ratio", "neighbourhood_ratio", "retention_oldest_ratio"]),
    st.integers(1, 300),
    st.none() | st.integers(0, 300),
)
def test_fewer_hits_are_never_judged_better(name, asked, before):
    previous = None if before is None else with_share(name, min(before, asked), asked)
    found = [judge(with_share(name, hits, asked), LIMITS, previous).states[name] for hits in range(asked + 1)]
    ranks = [ORDER.index(state) for state in found]
    assert ranks == sorted(ranks, reverse=True)


@given(st.sampled_from(["retention_ratio", "neighbourhood_ratio"]), st.integers(1, 300), st.data())
def test_the_bound_only_ever_excuses_and_never_more_than_a_warning(name, asked, data):
    m = with_share(name, data.draw(st.integers(0, asked)), asked)
    bound, plain = judge(m, LIMITS).states[name], judge(replace(m, counts={}), LIMITS).states[name]
    assert bound == plain or (plain, bound) == ("limit", "warn")


def test_a_mean_over_cases_is_shown_with_its_count():
    m = replace(HEALTHY, paraphrase_ratio=0.25, counts={"paraphrase_ratio": Counted(3, 7)})
    assert judge(m, LIMITS).reasons[0].startswith("paraphrase_ratio = 0.25 (3 of 7 in all) is below")


def test_the_reasons_for_a_correction_name_no_other_of_its_batch():
    bad = {id: CaseResult(False, "Paris", target="Rome") for id in ("c", "d")}
    measured = replace(HEALTHY, cases=HEALTHY.cases | bad, probe_kl_nats=9.0, efficacy_ratio=0.5)
    verdict = judge(measured, LIMITS)
    mine = reasons_for("c", verdict.reasons, list(measured.cases))
    assert len(verdict.reasons) == len(mine) + 1
    assert any(reason.startswith("correction c answers 'Paris'") for reason in mine)
    assert not any("correction d" in reason for reason in mine)
    assert any(reason.startswith("probe_kl_nats") for reason in mine)


def test_a_correction_that_was_alone_is_not_told_to_go_alone():
    alone = replace(HEALTHY, cases={"c": CaseResult(False, "Paris", target="Rome")}, probe_kl_nats=9.0)
    together = replace(alone, cases=alone.cases | HEALTHY.cases)
    told = {len(m.cases): "; ".join(judge(m, LIMITS).reasons) for m in (alone, together)}
    assert "an update of its own" in told[3]
    assert "of its own" not in told[1]
    assert SPLIT not in told[1]
