"""One table, from which all else derives."""

from dataclasses import fields

import pytest
import yaml

from monitoring.measurements import Measurements
from monitoring.metrics import METRICS
from monitoring.registry import (
    FLOORS,
    JUDGED,
    LAYER_MEASURES,
    MEASURES,
    OF_THE_BATCH,
    SCALAR_MEASURES,
    WEAR,
    measure_named,
)
from monitoring.thresholds import Thresholds
from tests.deploy.test_rules import RULES

BESIDES = {"counts", "cases", "again", "measured_at", "audited_at", "seconds"}


def test_every_measure_has_a_field_and_a_metric():
    names = [m.name for m in MEASURES]
    assert len(set(names)) == len(names)
    assert set(names) == {f.name for f in fields(Measurements)} - BESIDES
    empty = Measurements()
    assert {name for name in names if isinstance(getattr(empty, name), dict)} == set(LAYER_MEASURES)
    assert set(names) == {*LAYER_MEASURES, *SCALAR_MEASURES}
    metrics = {metric.name: metric for metric in METRICS}
    for measure in MEASURES:
        assert measure.metric == f"factd_{measure.name}"
        assert metrics[measure.name].meaning == measure.meaning
        assert metrics[measure.name].label == ("layer" if measure.kind == "layer" else None)


def test_shares_fall_and_count_cases():
    for measure in (m for m in MEASURES if m.kind == "share"):
        assert measure.unit == "share"
        assert not measure.high_is_bad


def test_what_stops_a_version_says_how_to_mend_it():
    for measure in MEASURES:
        assert bool(measure.bounds) == bool(measure.mend)
        assert not measure.required or measure.bounds
        assert not (measure.wear and measure.of_batch)


def test_names_of_before_the_registry():
    """Ledgers and settings hold them."""
    assert set(OF_THE_BATCH) == {
        "value_norm_ratio",
        "efficacy_ratio",
        "chat_efficacy_ratio",
        "paraphrase_ratio",
        "neighbourhood_ratio",
        "cases",
    }
    assert WEAR == (
        "weight_norm_ratio",
        "spectral_norm_ratio",
        "subspace_similarity",
        "probe_kl_nats",
        "probe_perplexity_ratio",
        "retention_ratio",
    )
    assert (*FLOORS, "efficacy_ratio") == JUDGED
    assert Thresholds().as_settings()["probe_kl_nats_limit"] == 0.3
    assert len(Thresholds().as_settings()) == 28


def test_alerts_named_here_are_in_the_rules():
    rules = [r for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for r in group["rules"]]
    named = {m.alert: m.name for m in MEASURES if m.alert}
    found = {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}
    for alert, name in named.items():
        assert name in found[alert]


def test_a_measure_is_found_by_its_name_and_no_other():
    assert measure_named("drift").name == "drift"
    with pytest.raises(KeyError):
        measure_named("drifts")


def test_settings_override_by_name_and_no_other():
    found = Thresholds().overridden({"probe_kl_nats_limit": 0.1})
    assert (found["probe_kl_nats"].warn, found["probe_kl_nats"].limit) == (0.2, 0.1)
    assert found["probe_perplexity_ratio"] == FLOORS["probe_perplexity_ratio"]
    with pytest.raises(ValueError, match="probe_kl_limit: no such threshold"):
        Thresholds().overridden({"probe_kl_limit": 0.1})
