import math
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from monitoring.durations import Durations
from monitoring.measurements import Measurements
from monitoring.metrics import (
    METRICS,
    OUTCOMES,
    PAUSERS,
    PREFIX,
    QUEUES,
    ROLLBACK_REASONS,
    STAGES,
    STATE_VALUES,
    Metrics,
    StatusSnapshot,
)
from monitoring.reference import metrics_page
from monitoring.registry import JUDGED
from monitoring.verdict import STATES

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def exported():
    """A function: exports a snapshot and reads it back as {(sample name, label values): number}."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)

    def export(snapshot: StatusSnapshot | None = None) -> dict[tuple[str, str], float]:
        if snapshot is not None:
            metrics.update(snapshot)
        families = text_string_to_metric_families(generate_latest(registry).decode())
        return {
            (
                sample.name.removeprefix(PREFIX),
                ",".join(value for _, value in sorted(sample.labels.items())),
            ): sample.value
            for family in families
            for sample in family.samples
        }

    return export


def test_all_labels_are_there_from_the_start(exported):
    found = exported()
    assert all(found["corrections_total", outcome] == 0 for outcome in OUTCOMES)
    assert all(found["rollbacks_total", reason] == 0 for reason in ROLLBACK_REASONS)
    assert all(found["queue_depth", queue] == 0 for queue in QUEUES)
    assert all(found["guard_state", guard] == STATE_VALUES["unknown"] for guard in JUDGED)
    assert all(found["update_stage_seconds_count", stage] == 0 for stage in STAGES)
    assert all(found["paused", actor] == 0 for actor in PAUSERS)
    assert math.isnan(found["version", ""])
    assert math.isnan(found["measured_timestamp_seconds", ""])
    assert math.isnan(found["probe_kl_nats", ""])


def test_a_snapshot_is_exported_as_it_is(exported):
    found = exported(
        StatusSnapshot(
            outcomes={"live": 3, "rejected": 1},
            queue_depth={"corrections": 4},
            oldest_pending_seconds=12.5,
            stage_seconds={"edit": Durations.of([0.2, 0.3, 500.0])},
            measurements=Measurements(
                weight_norm_ratio={8: 1.25}, probe_kl_nats=0.03, efficacy_ratio=1.0, measured_at=1.6e9
            ),
            layers=(7, 8),
            states={"weight_norm_ratio": "warn"},
            paused_by="operator",
            nas_skipped=2,
            version=12,
            served_versions={"a": 12, "b": None},
            in_sync={"a": True, "b": False},
            publish_seconds=0.4,
            pause_seconds=0.02,
            rollbacks={"operator": 1},
            last_success_timestamp_seconds=1.7e9,
        )
    )
    assert found["corrections_total", "live"] == 3
    assert found["queue_depth", "corrections"] == 4
    assert found["oldest_pending_seconds", ""] == 12.5
    assert found["update_stage_seconds_count", "edit"] == 3
    assert found["update_stage_seconds_sum", "edit"] == pytest.approx(500.5)
    assert found["update_stage_seconds_bucket", "0.25,edit"] == 1
    assert found["update_stage_seconds_bucket", "300,edit"] == 2
    assert found["update_stage_seconds_bucket", "+Inf,edit"] == 3
    assert found["weight_norm_ratio", "8"] == 1.25
    assert math.isnan(found["weight_norm_ratio", "7"])
    assert found["probe_kl_nats", ""] == 0.03
    assert found["guard_state", "weight_norm_ratio"] == 1
    assert (found["paused", "operator"], found["paused", "guard"]) == (1, 0)
    assert found["measured_timestamp_seconds", ""] == 1.6e9
    assert found["nas_skipped_total", ""] == 2
    assert found["version", ""] == found["served_version", "a"] == 12
    assert math.isnan(found["served_version", "b"])
    assert (found["replica_in_sync", "a"], found["replica_in_sync", "b"]) == (1, 0)
    assert (found["publish_seconds", ""], found["pause_seconds", ""]) == (0.4, 0.02)
    assert found["rollbacks_total", "operator"] == 1
    assert found["last_success_timestamp_seconds", ""] == 1.7e9


def test_a_value_that_is_not_measured_any_more_becomes_nan(exported):
    exported(StatusSnapshot(measurements=Measurements(drift={8: 9.0}, probe_kl_nats=9.0), layers=(8,)))
    found = exported(StatusSnapshot(measurements=None, layers=(8,)))
    assert math.isnan(found["drift", "8"])
    assert math.isnan(found["probe_kl_nats", ""])
    found = exported(StatusSnapshot(measurements=Measurements(probe_kl_nats=math.nan)))
    assert math.isnan(found["probe_kl_nats", ""])
    assert ("drift", "8") not in found


def test_unknown_labels_are_gathered_under_other(exported):
    found = exported(
        StatusSnapshot(
            outcomes={"invented": 2, "other": 1},
            rollbacks={"invented": 4},
            stage_seconds={"invented": Durations.of([1.0])},
            queue_depth={"invented": 1},
        )
    )
    assert found["corrections_total", "other"] == 3
    assert found["rollbacks_total", "other"] == 4
    assert found["update_stage_seconds_count", "other"] == 1
    assert not any("invented" in label for _, label in found)


def test_names_carry_prefix_and_unit_and_labels_are_bounded():
    allowed = {None, "outcome", "queue", "stage", "layer", "guard", "step", "actor", "replica", "reason"}
    allowed |= {"worker", "job"}
    for metric in METRICS:
        assert re.fullmatch(r"[a-z_]+", metric.name)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.label in allowed
        assert metric.meaning.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert set(STATE_VALUES) == set(STATES)


def test_two_registries_do_not_mix():
    one, other = CollectorRegistry(), CollectorRegistry()
    Metrics(one).update(StatusSnapshot(version=1))
    Metrics(other).update(StatusSnapshot(version=2))
    assert b"factd_version 1.0" in generate_latest(one)
    assert b"factd_version 2.0" in generate_latest(other)


def test_the_page_is_the_one_in_docs():
    """To write it: python -c 'from monitoring.reference import metrics_page as p; print(p(), end="")'."""
    assert PAGE.read_text("utf-8") == metrics_page()
