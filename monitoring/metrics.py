"""Every Prometheus metric of the project, and the only module that imports prometheus_client.

One process exports them all: it reads the ledger at each scrape and hands over a `StatusSnapshot`.
Nothing is kept between snapshots, so a value that is not measured any more is exported as NaN and
never as an old value, and counters are the ledger's totals, which survive restarts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.durations import Durations
from monitoring.measure import PREFIX
from monitoring.measurements import Measurements
from monitoring.registry import JUDGED, LAYER_MEASURES, MEASURES, SCALAR_MEASURES
from monitoring.verdict import State

#: Ends of a correction's life (design: life of a correction). Others are counted as "other".
OUTCOMES = ("live", "rejected", "already_known", "superseded", "retracted", "rolled_back", "dead", "other")
QUEUES = ("corrections", "apply", "review")
#: Of an update, in order (daemon.apply.update), and `pause`, the replicas' part of `publish`.
STAGES = ("before_answers", "edit", "measure", "write", "canary", "publish", "pause", "confirm", "other")
LADDER_STEPS = (
    *("refuse", "quarantine", "hold", "rollback", "compact", "consolidate", "pause"),
    *("would_refuse", "would_hold", "would_rollback", "would_compact", "would_consolidate"),
    "would_pause",
    "other",
)
PAUSERS = ("operator", "guard")
#: Work that a process beside the applier prepares.
BACKGROUND_JOBS = ("compact", "consolidate")
#: Kinds of worker that nothing goes on without.
WORKERS = ("intake", "apply")
ROLLBACK_REASONS = ("operator", "alert", "guard", "publish_failed", "canary_failed", "other")

#: Value of `guard_state` for each state of a measure.
STATE_VALUES: dict[State, int] = {"ok": 0, "warn": 1, "limit": 2, "unknown": 3}


@dataclass(frozen=True)
class MetricSpec:
    """Name without prefix, type, label (at most one), and meaning of a metric."""

    name: str
    kind: str
    label: str | None
    meaning: str


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("corrections_total", "counter", "outcome", "Corrections that have ended in this state."),
    MetricSpec("queue_depth", "gauge", "queue", "Corrections or operations that wait."),
    MetricSpec(
        "oldest_pending_seconds", "gauge", None, "Age of the oldest correction that waits; 0 if none."
    ),
    MetricSpec("update_stage_seconds", "histogram", "stage", "Time taken by each stage of an update."),
    *(MetricSpec(m.name, "gauge", "layer" if m.kind == "layer" else None, m.meaning) for m in MEASURES),
    MetricSpec(
        "nas_skipped_total", "counter", None, "Corrections skipped because their value was an outlier."
    ),
    MetricSpec(
        "edits_until_limit", "gauge", None, "Forecast of the nearest limit; +Inf if none is approached."
    ),
    MetricSpec(
        "guard_state",
        "gauge",
        "guard",
        "State of a measure at the guard's last verdict: 0 ok, 1 warn, 2 limit, 3 unknown.",
    ),
    MetricSpec("ladder_steps_total", "counter", "step", "Steps of the guard; `would_` in a dry run."),
    MetricSpec("paused", "gauge", "actor", "1 while the queue is paused by this one, else 0."),
    MetricSpec(
        "measured_timestamp_seconds", "gauge", None, "When the live version was last measured; NaN if never."
    ),
    MetricSpec("version", "gauge", None, "Number of the live version."),
    MetricSpec(
        "served_version", "gauge", "replica", "Number of the version a replica serves; NaN if unknown."
    ),
    MetricSpec("replica_in_sync", "gauge", "replica", "1 if the replica serves the live version, else 0."),
    MetricSpec(
        "worker_alive", "gauge", "worker", "1 if a worker of this kind gave a sign of life lately, else 0."
    ),
    MetricSpec(
        "background_progress_ratio",
        "gauge",
        "job",
        "How far the work prepared in the background is, 0 to 1; NaN while there is none.",
    ),
    MetricSpec("publish_seconds", "gauge", None, "Time of the last publication, staging included."),
    MetricSpec("pause_seconds", "gauge", None, "Pause of the replicas' schedulers at the last publication."),
    MetricSpec("rollbacks_total", "counter", "reason", "Rollbacks of the live version."),
    MetricSpec("last_success_timestamp_seconds", "gauge", None, "When an update last went live; 0 if never."),
)


@dataclass(frozen=True)
class StatusSnapshot:
    """What the exporter reads from the ledger and the replicas at one scrape.

    Attributes:
        outcomes: outcome → number of corrections ever ended so; total, never reset.
        queue_depth: queue → rows that wait.
        oldest_pending_seconds: age of the oldest waiting correction; 0 when none waits.
        stage_seconds: stage → how long it took in all updates of the ledger.
        measurements: of the live version; None when it was never measured.
        layers: edited layers, so that a missing value shows as NaN.
        states: judged measure → its state at the last verdict.
        edits_until_limit: monitoring.forecast.edits_until_limit; None while there is too little to see.
        steps: step of the guard's ladder → how often it was ever taken.
        paused_by: kind of actor who has paused the queue; None while it runs.
        nas_skipped: corrections ever skipped as outliers.
        version: number of the live version; None when unknown.
        served_versions: replica → number it serves; None when it cannot be asked.
        in_sync: replica → serves the live version.
        workers: kind of worker → whether one gave a sign of life lately.
        background: job → how far it is, 0 to 1; jobs that do not run are left out.
        publish_seconds, pause_seconds: of the last publication; None before the first.
        rollbacks: reason → number ever.
        last_success_timestamp_seconds: epoch time; None when no update went live yet.
    """

    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    queue_depth: Mapping[str, int] = field(default_factory=dict[str, int])
    oldest_pending_seconds: float | None = 0.0
    stage_seconds: Mapping[str, Durations] = field(default_factory=dict[str, Durations])
    measurements: Measurements | None = None
    layers: Sequence[int] = ()
    states: Mapping[str, State] = field(default_factory=dict[str, State])
    edits_until_limit: float | None = None
    steps: Mapping[str, int] = field(default_factory=dict[str, int])
    paused_by: str | None = None
    nas_skipped: int = 0
    version: int | None = None
    served_versions: Mapping[str, int | None] = field(default_factory=dict[str, int | None])
    in_sync: Mapping[str, bool] = field(default_factory=dict[str, bool])
    workers: Mapping[str, bool] = field(default_factory=dict[str, bool])
    background: Mapping[str, float] = field(default_factory=dict[str, float])
    publish_seconds: float | None = None
    pause_seconds: float | None = None
    rollbacks: Mapping[str, int] = field(default_factory=dict[str, int])
    last_success_timestamp_seconds: float | None = None


class Metrics(Collector):
    """Exports the last snapshot. Registers itself with the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._snapshot = StatusSnapshot()
        registry.register(self)

    def update(self, snapshot: StatusSnapshot) -> None:
        """Replaces everything that is exported; an assignment, so a scrape sees one snapshot whole."""
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        values = _values(self._snapshot)
        for spec in METRICS:
            if spec.kind == "histogram":
                yield _histogram(spec, self._snapshot.stage_seconds)
            else:
                yield _family(spec, values[spec.name])


_Labelled = Mapping[str, float]


def _values(s: StatusSnapshot) -> dict[str, _Labelled]:
    """Metric name → label value → number; the key "" where a metric has no label. Without histograms."""
    found: dict[str, _Labelled] = {
        "corrections_total": _bounded(s.outcomes, OUTCOMES),
        "queue_depth": {queue: s.queue_depth.get(queue, 0) for queue in QUEUES},
        "oldest_pending_seconds": {"": _number(s.oldest_pending_seconds)},
        "edits_until_limit": {"": _number(s.edits_until_limit)},
        "nas_skipped_total": {"": s.nas_skipped},
        "guard_state": {name: STATE_VALUES[s.states.get(name, "unknown")] for name in JUDGED},
        "ladder_steps_total": _bounded(s.steps, LADDER_STEPS),
        "paused": dict.fromkeys(PAUSERS, 0) | ({_pauser(s.paused_by): 1} if s.paused_by else {}),
        "version": {"": _number(s.version)},
        "served_version": {replica: _number(v) for replica, v in s.served_versions.items()},
        "replica_in_sync": {replica: float(flag) for replica, flag in s.in_sync.items()},
        "worker_alive": {worker: float(s.workers.get(worker, False)) for worker in WORKERS},
        "background_progress_ratio": {job: _number(s.background.get(job)) for job in BACKGROUND_JOBS},
        "publish_seconds": {"": _number(s.publish_seconds)},
        "pause_seconds": {"": _number(s.pause_seconds)},
        "rollbacks_total": _bounded(s.rollbacks, ROLLBACK_REASONS),
        "last_success_timestamp_seconds": {"": s.last_success_timestamp_seconds or 0.0},
    }
    m = s.measurements or Measurements()
    found["measured_timestamp_seconds"] = {"": _number(m.measured_at)}
    for name in LAYER_MEASURES:
        by_layer: dict[int, float] = getattr(m, name)
        layers = sorted({*s.layers, *by_layer})
        found[name] = {str(layer): _number(by_layer.get(layer)) for layer in layers}
    return found | {name: {"": _number(getattr(m, name))} for name in SCALAR_MEASURES}


def _family(spec: MetricSpec, values: _Labelled) -> Metric:
    labels = [spec.label] if spec.label else []
    kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    family = kind(PREFIX + spec.name, spec.meaning, labels=labels)
    for label, value in values.items():
        family.add_metric([label] if labels else [], value)
    return family


def _histogram(spec: MetricSpec, values: Mapping[str, Durations]) -> Metric:
    family = HistogramMetricFamily(PREFIX + spec.name, spec.meaning, labels=[spec.label or ""])
    grouped: dict[str, Durations] = dict.fromkeys(STAGES, Durations())
    for stage, durations in values.items():
        known = stage if stage in grouped else "other"
        grouped[known] += durations
    for stage, durations in grouped.items():
        family.add_metric([stage], durations.cumulative(), sum_value=durations.seconds)
    return family


def _bounded(counts: Mapping[str, int], allowed: Sequence[str]) -> _Labelled:
    """Counts by label with every allowed label present and all unknown ones under "other"."""
    bounded = dict.fromkeys(allowed, 0)
    for label, count in counts.items():
        bounded[label if label in bounded else "other"] += count
    return bounded


def _pauser(kind: str) -> str:
    """Whoever is not the guard is an operator, as the label has it."""
    return kind if kind in PAUSERS else "operator"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
