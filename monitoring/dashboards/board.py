"""What Grafana's dashboards show; `monitoring.dashboards.grafana` says how Grafana wants it.

Panels of measures take title, description, unit and alert from `monitoring.registry`; their lines are the
registry's bounds, before calibration.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.measure import PREFIX
from monitoring.metrics import METRICS, STATE_VALUES
from monitoring.registry import FLOORS, measure_named

HERE = '{instance=~"$instance"}'
COLOURS = {"ok": "green", "warn": "orange", "limit": "red", "unknown": "purple"}

_SPECS = {spec.name: spec for spec in METRICS}
#: Grafana's names of our units.
_UNITS = {"ratio": "none", "nats": "none", "share": "percentunit"}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: (PromQL, legend) pairs.
        unit: Grafana's id of it.
        kind: timeseries, stat, table or state-timeline.
        bounds: the measure whose warning and limit are drawn.
        alert: whose entry of the runbook is linked.
        states: number → (text, colour), for values that stand for states.
    """

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "none"
    kind: str = "timeseries"
    bounds: str | None = None
    alert: str | None = None
    states: tuple[tuple[str, str], ...] = ()


def _gauge(name: str, title: str, **more: Any) -> Panel:
    """A panel of one gauge, with the meaning of its metric."""
    spec = _SPECS[name]
    legend = f"{spec.label} {{{{{spec.label}}}}}" if spec.label else "{{instance}}"
    more = {"unit": "s" if name.endswith("_seconds") else "none"} | more
    return Panel(title, spec.meaning, ((f"{PREFIX}{name}{HERE}", legend),), **more)


def _measure(name: str) -> Panel:
    """A panel of a measure, with the lines of its warning and limit."""
    measure = measure_named(name)
    bounds = name if name in FLOORS else None
    return _gauge(name, measure.heading, unit=_UNITS[measure.unit], bounds=bounds, alert=measure.alert)


def _increase(name: str, title: str, **more: Any) -> Panel:
    """A panel of what a counter rose by."""
    spec = _SPECS[name]
    legend = f"{{{{{spec.label}}}}}" if spec.label else "{{instance}}"
    query = f"increase({PREFIX}{name}{HERE}[$__rate_interval])"
    return Panel(title, spec.meaning, ((query, legend),), **more)


def _since(name: str, title: str, description: str, **more: Any) -> Panel:
    query = f"time() - ({PREFIX}{name}{HERE} > 0)"
    return Panel(title, description, ((query, "{{instance}}"),), unit="s", **more)


_VERSION = _gauge("version", "Live version", kind="stat")
_PAUSED = _gauge(
    "paused",
    "Queue",
    kind="state-timeline",
    alert="FactdPausedByGuard",
    states=(("runs", "green"), ("paused", "red")),
)
_FORECAST = _gauge("edits_until_limit", "Corrections until the nearest limit", alert="FactdLimitNear")
_GUARD_STATE = _gauge(
    "guard_state",
    "Measures",
    kind="state-timeline",
    alert="FactdMeasurementMissing",
    states=tuple((state, COLOURS[state]) for state in sorted(STATE_VALUES, key=lambda s: STATE_VALUES[s])),
)
_ROLLBACKS = _increase("rollbacks_total", "Rollbacks", alert="FactdRolledBack")
_STEPS = _increase("ladder_steps_total", "Steps of the guard", alert="FactdPausedByGuard")
_QUEUE = _gauge("queue_depth", "Waiting", alert="FactdStalled")
_OLDEST = _gauge("oldest_pending_seconds", "Age of the oldest that waits", alert="FactdStalled")
_FIRING = Panel(
    "Alerts that fire",
    "Alerts of deploy/prometheus/rules.yml that fire now; the runbook has an entry for each.",
    (('ALERTS{alertname=~"Factd.+", alertstate="firing"}', "{{alertname}}"),),
    kind="table",
)

STABILITY = (
    _VERSION,
    _FORECAST,
    _GUARD_STATE,
    _measure("weight_norm_ratio"),
    _measure("spectral_norm_ratio"),
    _measure("subspace_similarity"),
    _measure("probe_kl_nats"),
    _measure("probe_perplexity_ratio"),
    _measure("canary_ratio"),
    _measure("canary_chat_ratio"),
    _measure("retention_ratio"),
    _measure("retention_chat_ratio"),
    Panel(
        "Retention by age",
        "Share of sampled earlier corrections still answered: the oldest, the newest, and some by hash.",
        tuple((f"{PREFIX}retention_{age}_ratio{HERE}", age) for age in ("oldest", "random", "newest")),
        unit="percentunit",
        bounds="retention_oldest_ratio",
        alert="FactdForgetting",
    ),
    _measure("value_norm_ratio"),
    _measure("activation_norm_ratio"),
    _measure("activation_subspace_similarity"),
    _measure("layer_share"),
    _measure("drift"),
    _measure("stable_rank_ratio"),
    _measure("entropy_rank_ratio"),
    _measure("singular_vector_similarity"),
    _measure("gap_aware_similarity"),
    _measure("contact_ratio"),
    _measure("key_drift_ratio"),
    _measure("corpus_energy_ratio"),
    _measure("key_error_ratio"),
)

CORRECTIONS = (
    _increase("corrections_total", "Ends of corrections", alert="FactdCorrectionsDead"),
    _QUEUE,
    _OLDEST,
    _measure("efficacy_ratio"),
    _measure("chat_efficacy_ratio"),
    _measure("paraphrase_ratio"),
    _measure("neighbourhood_ratio"),
    _increase("nas_skipped_total", "Skipped as outliers"),
    Panel(
        "Time of each stage, mean",
        _SPECS["update_stage_seconds"].meaning,
        (
            (
                f"sum by (stage) (rate({PREFIX}update_stage_seconds_sum{HERE}[$__rate_interval]))"
                f" / sum by (stage) (rate({PREFIX}update_stage_seconds_count{HERE}[$__rate_interval]))",
                "{{stage}}",
            ),
        ),
        unit="s",
    ),
    Panel(
        "Time of each stage, 95 %",
        _SPECS["update_stage_seconds"].meaning + " Interpolated between the bounds of the histogram.",
        (
            (
                "histogram_quantile(0.95, sum by (le, stage) "
                f"(rate({PREFIX}update_stage_seconds_bucket{HERE}[$__rate_interval])))",
                "{{stage}}",
            ),
        ),
        unit="s",
    ),
    _STEPS,
    _PAUSED,
    _FIRING,
)

SERVING = (
    _VERSION,
    _gauge("served_version", "Version of each replica", alert="FactdReplicaOutOfSync"),
    _gauge(
        "replica_in_sync",
        "Replicas",
        kind="state-timeline",
        alert="FactdReplicaOutOfSync",
        states=(("out of sync", "red"), ("in sync", "green")),
    ),
    _gauge(
        "worker_alive",
        "Workers",
        kind="state-timeline",
        states=(("away", "red"), ("alive", "green")),
    ),
    _gauge("background_progress_ratio", "Work in the background, share done"),
    _gauge("publish_seconds", "Time of the last publication"),
    _gauge("pause_seconds", "Pause of generation at the last publication"),
    _ROLLBACKS,
    _since(
        "last_success_timestamp_seconds",
        "Since something went live",
        "Time since an update last went live. Long is harmless unless corrections wait.",
        alert="FactdStalled",
    ),
    _since(
        "measured_timestamp_seconds",
        "Since the live version was measured",
        "Time since the live version was last measured; every ten minutes unless set otherwise.",
        alert="FactdMeasurementStale",
    ),
    _FIRING,
)


def _each(expression: str) -> tuple[tuple[str, str], ...]:
    return ((expression, "{{instance}}"),)


FLEET = (
    Panel(
        "Instances",
        "1 where Prometheus reaches the API process of a model.",
        _each('up{job="factd"}'),
        kind="state-timeline",
        alert="FactdAbsent",
        states=(("away", "red"), ("answers", "green")),
    ),
    Panel("Live versions", _SPECS["version"].meaning, _each(f"{PREFIX}version"), kind="stat"),
    _FIRING,
    Panel(
        "Replicas in sync",
        "Share of each instance's replicas that serve its live version.",
        _each(f"avg by (instance) ({PREFIX}replica_in_sync)"),
        unit="percentunit",
        alert="FactdReplicaOutOfSync",
    ),
    Panel(
        "Measures past a limit",
        "How many measures of each instance were past their limit at the last verdict.",
        _each(f"sum by (instance) ({PREFIX}guard_state == bool {STATE_VALUES['limit']})"),
    ),
    Panel(
        "Worst weight norm over the base's",
        "The worst layer of each instance.",
        _each("factd:weight_norm_ratio:max"),
        bounds="weight_norm_ratio",
        alert="FactdWeightNormHigh",
    ),
    Panel(
        "Corrections that wait",
        "Of each instance.",
        _each(f'{PREFIX}queue_depth{{queue="corrections"}}'),
        alert="FactdStalled",
    ),
    Panel(
        "Live facts a minute",
        "Corrections that went live, of each instance.",
        _each(f'60 * rate({PREFIX}corrections_total{{outcome="live"}}[$__rate_interval])'),
    ),
    Panel(
        "Rollbacks",
        "Of each instance, whatever the reason.",
        _each(f"sum by (instance) (increase({PREFIX}rollbacks_total[$__rate_interval]))"),
        alert="FactdRolledBack",
    ),
)

DASHBOARDS: dict[str, Sequence[Panel]] = {
    "stability": STABILITY,
    "corrections": CORRECTIONS,
    "serving": SERVING,
    "fleet": FLEET,
}

#: (name, query, title of a mark, colour). A minute is wider than the usual scrape interval.
ANNOTATIONS = (
    ("Versions", f"changes({PREFIX}version{HERE}[1m]) > 0", "another version is live", "blue"),
    ("Rollbacks", f"increase({PREFIX}rollbacks_total{HERE}[1m]) > 0", "rolled back: {{reason}}", "red"),
)
