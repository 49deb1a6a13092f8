"""What Grafana's dashboards show; `monitoring.dashboards.grafana` says how Grafana wants it.

Descriptions are the meanings of `monitoring.metrics`; lines are the default limits of `monitoring.verdict`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.metrics import GUARD_VALUES, METRICS, PREFIX
from monitoring.verdict import GUARDS

HERE = '{instance=~"$instance"}'
COLOURS = {"ok": "green", "warn": "orange", "limit": "red", "unknown": "purple"}

#: measure of the guard → the alert whose runbook entry its panel links to
ALERTS = {
    "weight_norm_ratio": "FactdWeightNormHigh",
    "spectral_norm_ratio": "FactdSpectralNormHigh",
    "subspace_similarity": "FactdSubspaceTurned",
    "probe_kl_nats": "FactdProbesMoved",
    "probe_perplexity_ratio": "FactdPerplexityHigh",
    "retention_ratio": "FactdForgetting",
}
_SPECS = {spec.name: spec for spec in METRICS}
_GUARDED = {guard.name for guard in GUARDS}


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        queries: (PromQL, legend) pairs.
        unit: Grafana's id of it.
        kind: timeseries, stat, table or state-timeline.
        bounds: the guard whose warning and limit are drawn.
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


def _measure(name: str, title: str, **more: Any) -> Panel:
    """A panel of one gauge, with the meaning of its metric and the lines of its guard."""
    spec = _SPECS[name]
    legend = f"{spec.label} {{{{{spec.label}}}}}" if spec.label else "{{instance}}"
    more = {"unit": _unit(name), "alert": ALERTS.get(name)} | more
    bounds = name if name in _GUARDED else None
    return Panel(title, spec.meaning, ((f"{PREFIX}{name}{HERE}", legend),), bounds=bounds, **more)


def _unit(name: str) -> str:
    if name.endswith("_seconds"):
        return "s"
    shares = ("efficacy", "paraphrase", "neighbourhood", "retention", "canary", "contact", "layer_share")
    return "percentunit" if name.startswith(shares) else "none"


def _increase(name: str, title: str, **more: Any) -> Panel:
    """A panel of what a counter rose by."""
    spec = _SPECS[name]
    legend = f"{{{{{spec.label}}}}}" if spec.label else "{{instance}}"
    query = f"increase({PREFIX}{name}{HERE}[$__rate_interval])"
    return Panel(title, spec.meaning, ((query, legend),), **more)


def _since(name: str, title: str, description: str, **more: Any) -> Panel:
    query = f"time() - ({PREFIX}{name}{HERE} > 0)"
    return Panel(title, description, ((query, "{{instance}}"),), unit="s", **more)


_VERSION = _measure("version", "Live version", kind="stat")
_PAUSED = _measure(
    "paused",
    "Queue",
    kind="state-timeline",
    alert="FactdPausedByGuard",
    states=(("runs", "green"), ("paused", "red")),
)
_FORECAST = _measure("edits_until_limit", "Corrections until the nearest limit", alert="FactdLimitNear")
_GUARD_STATE = _measure(
    "guard_state",
    "Guards",
    kind="state-timeline",
    alert="FactdMeasurementMissing",
    states=tuple((state, COLOURS[state]) for state in sorted(GUARD_VALUES, key=lambda s: GUARD_VALUES[s])),
)
_ROLLBACKS = _increase("rollbacks_total", "Rollbacks", alert="FactdRolledBack")
_STEPS = _increase("ladder_steps_total", "Steps of the guard", alert="FactdPausedByGuard")
_QUEUE = _measure("queue_depth", "Waiting", alert="FactdStalled")
_OLDEST = _measure("oldest_pending_seconds", "Age of the oldest that waits", alert="FactdStalled")
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
    _measure("weight_norm_ratio", "Weight norm over the base's"),
    _measure("spectral_norm_ratio", "Largest singular value over the base's"),
    _measure("subspace_similarity", "Overlap of dominant subspaces (LS)"),
    _measure("probe_kl_nats", "Unrelated answers: KL from the base, nats"),
    _measure("probe_perplexity_ratio", "Perplexity of held text over the base's"),
    _measure("canary_ratio", "Free answers kept (audits)"),
    _measure("retention_ratio", "Retention"),
    Panel(
        "Retention by age",
        "Share of sampled earlier corrections still answered: the oldest, the newest, and some by hash.",
        tuple((f"{PREFIX}retention_{age}_ratio{HERE}", age) for age in ("oldest", "random", "newest")),
        unit="percentunit",
        bounds="retention_oldest_ratio",
        alert="FactdForgetting",
    ),
    _measure("value_norm_ratio", "Value norm over the anchor"),
    _measure("activation_norm_ratio", "Norm of hidden states over the base's"),
    _measure("activation_subspace_similarity", "Overlap of the main directions of hidden states"),
    _measure("layer_share", "Share of each layer's MLP"),
    _measure("drift", "Drift from the base"),
    _measure("stable_rank_ratio", "Stable rank over the base's"),
    _measure("entropy_rank_ratio", "Entropy rank over the base's (audits)"),
    _measure("singular_vector_similarity", "Overlap of single singular vectors (SS)"),
    _measure("gap_aware_similarity", "SS with swaps allowed"),
    _measure("contact_ratio", "Change within the dominant subspace"),
    _measure("key_drift_ratio", "Change of outputs on ordinary text"),
    _measure("corpus_energy_ratio", "Energy on ordinary text over the base's"),
    _measure("key_error_ratio", "Distance of live facts from their values"),
)

CORRECTIONS = (
    _increase("corrections_total", "Ends of corrections", alert="FactdCorrectionsDead"),
    _QUEUE,
    _OLDEST,
    _measure("efficacy_ratio", "Efficacy of the last batch"),
    _measure("paraphrase_ratio", "Paraphrases of the last batch"),
    _measure("neighbourhood_ratio", "Neighbourhood of the last batch"),
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
    _measure("served_version", "Version of each replica", alert="FactdReplicaOutOfSync"),
    _measure(
        "replica_in_sync",
        "Replicas",
        kind="state-timeline",
        alert="FactdReplicaOutOfSync",
        states=(("out of sync", "red"), ("in sync", "green")),
    ),
    _measure("publish_seconds", "Time of the last publication"),
    _measure("pause_seconds", "Pause of generation at the last publication"),
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
        "Guards past a limit",
        "How many guards of each instance were past their limit at the last verdict.",
        _each(f"sum by (instance) ({PREFIX}guard_state == bool {GUARD_VALUES['limit']})"),
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
