"""Composition root of the Celery side: settings → Celery app, ledger, applier. Opens nothing at import."""

import functools
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import celeryd_after_setup, worker_ready

from daemon.ledger import Ledger
from daemon.settings import Settings, load_settings

if TYPE_CHECKING:
    from daemon.applier import Applier
    from daemon.ledger_tables import CorrectionRow
    from daemon.proof import Proof
    from daemon.update import Monitoring
    from editing.editor import Editor

log = logging.getLogger("factd")

INTAKE_QUEUE, APPLY_QUEUE = "corrections", "apply"


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration; the reason stands beside each entry."""
    timeout = settings.visibility_timeout_seconds
    transport = {
        # Redis gives an unacknowledged message to another worker after this; the shortest value of all
        # apps on a broker counts, so it is set in each of the three places that Celery reads.
        "visibility_timeout": timeout,
        # The sweep for lost messages runs every 5 s; with the defaults recovery takes about 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
    }
    return {
        "broker_url": settings.redis_url,
        # A producer can read the id or the refusal; the record itself is the ledger.
        "result_backend": settings.redis_url,
        "result_expires": 86400,
        "broker_transport_options": transport,
        "result_backend_transport_options": {"visibility_timeout": timeout},
        "visibility_timeout": timeout,
        # A message counts as done only after its row is committed: a killed worker loses none.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A message that raises is refused for good, never redelivered: no crash loop.
        "task_acks_on_failure": True,
        "task_acks_on_timeout": True,
        # No hoarding: a message that this worker is not working on belongs to whoever is free.
        "worker_prefetch_multiplier": 1,
        # One task a process: the model is one, and `-P solo` never forks after CUDA was started.
        "worker_concurrency": 1,
        # Must end before the message is handed out again (enforced by pools other than solo).
        "task_time_limit": timeout // 2,
        # A running update may finish when the worker is told to stop; start workers with
        # REMAP_SIGTERM=SIGQUIT so that SIGTERM means this.
        "worker_soft_shutdown_timeout": 30.0,
        # After a lost connection the message comes again; the first run would be a duplicate.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "broker_connection_retry_on_startup": True,
        # Pickle would run code from the queue.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # For exporters and Flower.
        "task_track_started": True,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # A producer's correction must not wait behind minutes of editing.
        "task_routes": {
            "factd.submit": {"queue": INTAKE_QUEUE},
            "factd.apply": {"queue": APPLY_QUEUE},
        },
        "task_default_queue": INTAKE_QUEUE,
        "timezone": "UTC",
        "imports": ("daemon.tasks",),
    }


class Services:
    """What the tasks work with, each made at first use and kept for the life of the process."""

    @functools.cached_property
    def settings(self) -> Settings:
        return load_settings()

    @functools.cached_property
    def ledger(self) -> Ledger:
        self.settings.state_dir.mkdir(parents=True, exist_ok=True)
        return Ledger.open(self.settings.ledger_url)

    @functools.cached_property
    def applier(self) -> "Applier":
        return build_applier(self.settings, self.ledger)


def build_applier(settings: Settings, ledger: Ledger) -> "Applier":
    """Opens the model (minutes when it was not prepared before) and connects the replicas."""
    from daemon.applier import Applier
    from daemon.serving import VllmReplica
    from daemon.store import Store

    editor = open_editor(settings, by_tenths(log.info))
    token = settings.admin_token.get_secret_value() if settings.admin_token else ""
    key = settings.serving_api_key.get_secret_value() if settings.serving_api_key else None
    replicas = [VllmReplica(url, token, key) for url in settings.replicas]
    monitoring = build_monitoring(settings, editor)
    store = Store(settings.store_dir)
    proof = build_proof(editor)
    return Applier(ledger, store, editor, replicas, monitoring=monitoring, settings=settings, proof=proof)


def build_proof(editor: Any) -> "Proof":
    """Compares replicas with the editor's model on each batch and on the watched probes' last words."""
    from daemon.proof import Passage, Proof
    from monitoring.probes import default_probes
    from monitoring.scoring import Scorer

    def score(pairs: Sequence[tuple[str, str]]) -> list[Passage]:
        scorer = Scorer(editor.model, editor.tokenizer)
        encoded = [scorer.encode(prompt, target) for prompt, target in pairs]
        scores = scorer.score(encoded)
        return [Passage(e.ids, e.first, -s.nll) for e, s in zip(encoded, scores, strict=True) if s.tokens]

    parts = [prompt.rsplit(" ", 2) for prompt in default_probes().watched]
    return Proof(score, [(part[0], " ".join(part[1:])) for part in parts])


def open_editor(settings: Settings, progress: Callable[[str, float], None]) -> "Editor":
    """The editor that the settings describe; measures on the unedited model what is not stored yet.

    Raises:
        EditError: the model cannot be used, or an option is unknown.
    """
    from editing.editor import Editor

    return Editor.open(
        settings.model,
        state_dir=settings.statistics,
        method=settings.method,
        placement=settings.placement,
        anchor=settings.anchor,
        protect=settings.protect,
        dtype=settings.dtype,
        corpus=settings.corpus,
        progress=progress,
    )


def by_tenths(say: Callable[[str], object]) -> Callable[[str, float], None]:
    """Progress of the model's preparation for a log: a line for each tenth of a stage."""
    last: dict[str, int] = {}

    def progress(stage: str, fraction: float) -> None:
        tenth = int(10 * fraction)
        if tenth != last.get(stage):
            last[stage] = tenth
            say(f"preparing the model: {stage} {10 * tenth} %")

    return progress


def build_monitoring(settings: Settings, editor: Any) -> "Monitoring":
    """Measures and judges against the baseline, which is measured once."""
    from daemon.update import Monitoring
    from monitoring.baseline import open_baseline
    from monitoring.forecast import FEWEST_POINTS, edits_until_limit, forecasts, to_json
    from monitoring.measure import Memory, measure
    from monitoring.measurements import Measurements
    from monitoring.probes import default_probes
    from monitoring.verdict import judge

    probes, memory = default_probes(), Memory()
    baseline = open_baseline(editor, probes, settings.statistics / "baselines")
    thresholds = baseline.thresholds(settings.thresholds)

    def measured(batch: Sequence["CorrectionRow"], earlier: Sequence["CorrectionRow"], ratio: float | None):
        cases = [case(row) for row in batch]
        sample = settings.measure_sample
        old = [case(row) for row in earlier]
        return measure(editor, baseline, cases, old, ratio, probes, sample, memory)

    def judged(measurements: Measurements, previous: dict[str, Any] | None):
        before = Measurements.from_json(previous) if previous else None
        return judge(measurements, thresholds, before, time.time())

    def foreseen(history: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        series = [(edits, Measurements.from_json(stored)) for edits, stored in history]
        found = forecasts(series, thresholds)
        if edits_until_limit(series, found) is None:
            few = f"{len(series)} of {FEWEST_POINTS} versions measured since the last compaction"
            return {"known": False, "nearest": f"nothing yet: {few}", "forecasts": []}
        return {"known": True, **to_json(found)}

    return Monitoring(measured, judged, foreseen)


def case(row: "CorrectionRow") -> Any:
    """A correction as monitoring asks about it; paraphrases and neighbours may have the subject's slot."""
    from monitoring.measurements import Case

    def fill(text: str) -> str:
        return text.replace("{}", row.subject)

    paraphrases = tuple(fill(text) for text in row.paraphrases)
    neighbours = tuple((fill(n["prompt"]), n["answer"]) for n in row.neighbours)
    return Case(row.id, row.text, row.target, row.was, paraphrases, neighbours)


celery = Celery("factd")
# Called when the configuration is first needed, so importing this module reads no environment.
celery.add_defaults(lambda: celery_settings(load_settings()))
services = Services()


def _takes(queue: str, app: Celery) -> bool:
    return queue in app.amqp.queues.consume_from


@celeryd_after_setup.connect(weak=False)
def _open_model(instance: Any = None, **_: Any) -> None:
    """An apply worker is ready only when its model is; an intake worker never loads one."""
    if instance.app is celery and _takes(APPLY_QUEUE, celery):
        try:
            services.applier  # noqa: B018  # opens it
        except Exception as error:
            # A signal would log it and let the worker start without a model.
            log.exception("the model cannot be opened")
            raise SystemExit(1) from error


@worker_ready.connect(weak=False)
def _ring_by_itself(sender: Any = None, **_: Any) -> None:
    """Reconciles at start and while idle: replicas that restarted, corrections whose retry is due."""
    if sender.app is celery and _takes(APPLY_QUEUE, celery):
        from daemon.tasks import ring

        every = max(1.0, services.settings.retry_seconds)
        ring(celery)
        sender.timer.call_repeatedly(every, ring, (celery,), {"expires": every})
