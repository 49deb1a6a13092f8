"""Composition root of the Celery side: settings → Celery app, ledger, applier. Opens nothing at import."""

import functools
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import celeryd_after_setup, worker_ready, worker_shutting_down

from daemon.core.errors import SettingsError
from daemon.core.names import Queue
from daemon.core.progress import Progress, by_tenths
from daemon.core.settings import Settings, load_settings
from daemon.intake.intake import Room
from daemon.intake.redelivery import GiveBack
from daemon.intake.stream import StreamThread
from daemon.intake.valve import Valve
from daemon.ledger.ledger import Ledger

if TYPE_CHECKING:
    from daemon.apply.applier import Applier
    from daemon.apply.update import Monitoring
    from daemon.apply.value_workers import Fleet
    from daemon.ledger.tables import CorrectionRow
    from daemon.publish.proof import Proof
    from editing.editor import Editor
    from editing.install import Installation
    from editing.values.options import ValueOptions
    from monitoring.verdict import Thresholds

log = logging.getLogger("factd")


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
        # No soft shutdown and no REMAP_SIGTERM: with `-P solo` its pause would stop the very task that it
        # waits for. SIGTERM as it is lets the task at hand end and takes no other.
        "worker_soft_shutdown_timeout": 0.0,
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
        "task_routes": settings.names.routes,
        "task_default_queue": settings.names.queue("corrections"),
        "timezone": "UTC",
        "imports": ("daemon.tasks",),
    }


def _say(text: str) -> None:
    log.info("preparing the model: %s", text)


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
    def room(self) -> Room:
        return Room(self.ledger, self.settings.max_pending)

    @functools.cached_property
    def valve(self) -> Valve:
        return Valve(self.room, self.settings.names.queue("corrections"))

    @functools.cached_property
    def stream(self) -> StreamThread:
        from daemon.tasks import ring

        url, names = self.settings.redis_url, self.settings.names
        return StreamThread(url, self.ledger, self.room, lambda: ring(celery), names.stream)

    @functools.cached_property
    def applier(self) -> "Applier":
        return build_applier(self.settings, self.ledger)

    @functools.cached_property
    def values(self) -> "tuple[Installation, ValueOptions]":
        """What a value worker needs: the unedited model's statistics, and how values are found."""
        return open_installation(self.settings, by_tenths(_say))


def build_applier(settings: Settings, ledger: Ledger) -> "Applier":
    """Opens the model (minutes when it was not prepared before) and connects the replicas."""
    from daemon.apply.applier import Applier
    from daemon.publish.replicas import open_replicas
    from daemon.versions.store import Store
    from monitoring.measuring.scoring import Scorer

    editor = open_editor(settings, by_tenths(_say))
    replicas = open_replicas(settings, Scorer(editor.model, editor.tokenizer).greedy)
    monitoring = build_monitoring(settings, editor)
    store = Store(settings.store_dir)
    if settings.value_workers:
        editor.install.elsewhere = fleet(settings, editor)
    # A directory computes nothing that could be compared.
    proof = None if settings.publish == "checkpoint" else build_proof(editor)
    return Applier(ledger, store, editor, replicas, monitoring=monitoring, settings=settings, proof=proof)


def build_proof(editor: Any) -> "Proof":
    """Compares replicas with the editor's model on each batch and on the watched probes' last words."""
    from daemon.publish.proof import Passage, Proof
    from monitoring.measuring.probes import default_probes
    from monitoring.measuring.scoring import Scorer

    def score(pairs: Sequence[tuple[str, str]]) -> list[Passage]:
        scorer = Scorer(editor.model, editor.tokenizer)
        encoded = [scorer.encode(prompt, target) for prompt, target in pairs]
        scores = scorer.score(encoded)
        return [Passage(e.ids, e.first, -s.nll) for e, s in zip(encoded, scores, strict=True) if s.tokens]

    parts = [prompt.rsplit(" ", 2) for prompt in default_probes().watched]
    return Proof(score, [(part[0], " ".join(part[1:])) for part in parts])


def fleet(settings: Settings, editor: "Editor") -> "Fleet":
    """Asks value workers through the broker.

    Raises:
        SettingsError: values of the method depend on what is in the model already.
    """
    from daemon.apply.value_workers import Fleet

    if not editor.options.unedited or editor.method.bars:
        raise SettingsError(
            f"FACTD_VALUE_WORKERS = true: values of FACTD_METHOD = {settings.method!r} depend on the facts "
            "already written, so nobody else can find them; use memit-seq or nse, or unset it"
        )
    seconds = settings.value_workers_seconds
    # A message older than that has long been worked off by the applier itself.
    return Fleet(lambda named: celery.send_task("factd.values", kwargs=named, expires=seconds), seconds)


def open_installation(settings: Settings, progress: Progress) -> "tuple[Installation, ValueOptions]":
    """The unedited model with its statistics, and the method's value options.

    Raises:
        EditError: the model cannot be used.
    """
    from editing.install import Installation
    from editing.methods import numbers_of
    from editing.model.loaded import load_model

    loaded = load_model(settings.model, settings.statistics, settings.dtype)
    install = Installation(loaded, settings.statistics, settings.corpus, progress, settings.tokens)
    return install, numbers_of(settings.method, loaded).values


def open_editor(settings: Settings, progress: Progress) -> "Editor":
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
        tokens=settings.tokens,
        progress=progress,
    )


def build_monitoring(settings: Settings, editor: Any) -> "Monitoring":
    """Measures and judges against the baseline, which is measured once."""
    from daemon.apply.update import Monitoring
    from monitoring.measurements import Measurements
    from monitoring.measuring.baseline import open_baseline
    from monitoring.measuring.measure import Memory, measure
    from monitoring.measuring.probes import default_probes
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

    return Monitoring(measured, judged, functools.partial(foresee, thresholds))


def foresee(thresholds: "Thresholds", history: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """What `daemon.apply.ladder.Foresee` says, with the levels in force: guard → [warn, limit]."""
    from monitoring.forecast import FEWEST_POINTS, edits_until_limit, forecasts, to_json
    from monitoring.measurements import Measurements
    from monitoring.verdict import GUARDS

    series = [(edits, Measurements.from_json(stored)) for edits, stored in history]
    found = forecasts(series, thresholds)
    kinds = ("warn", "limit")
    limits = {guard.name: [getattr(thresholds, f"{guard.name}_{kind}") for kind in kinds] for guard in GUARDS}
    if edits_until_limit(series, found) is None:
        few = f"{len(series)} of {FEWEST_POINTS} versions measured since the last compaction"
        return {"known": False, "nearest": f"nothing yet: {few}", "forecasts": [], "limits": limits}
    return {"known": True, **to_json(found), "limits": limits}


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
celery.steps["consumer"].add(GiveBack)  # pyright: ignore[reportOptionalSubscript]
services = Services()


#: What a worker of a queue opens before it takes messages: a property of `Services`.
OPENED: dict[Queue, str] = {"corrections": "ledger", "apply": "applier", "values": "values"}


def _takes(queue: Queue) -> bool:
    return services.settings.names.queue(queue) in celery.amqp.queues.consume_from


@celeryd_after_setup.connect(weak=False)
def _open(instance: Any = None, **_: Any) -> None:
    """An apply or value worker is ready only when its model is; an intake worker never loads one. It takes
    no message before it has a ledger: one that cannot be opened would cost every message it took."""
    if instance.app is celery:
        try:
            for queue, name in OPENED.items():
                if _takes(queue):
                    getattr(services, name)
        except Exception as error:
            # A signal would log it and let the worker start without.
            log.exception("the model or the ledger cannot be opened")
            raise SystemExit(1) from error


@worker_ready.connect(weak=False)
def _ring_by_itself(sender: Any = None, **_: Any) -> None:
    """Reconciles at start and while idle: replicas that restarted, corrections whose retry is due."""
    if sender.app is celery and _takes("apply"):
        from daemon.tasks import ring

        every = max(1.0, services.settings.retry_seconds)
        ring(celery)
        sender.timer.call_repeatedly(every, ring, (celery,), {"expires": every})


@worker_ready.connect(weak=False)
def _take_in(sender: Any = None, **_: Any) -> None:
    """An intake worker reads the stream too, and stops taking while the ledger is full."""
    if sender.app is celery and _takes("corrections"):
        services.valve.watch(sender)
        services.stream.start()


@worker_shutting_down.connect(weak=False)
def _stop_taking(sender: Any = None, **_: Any) -> None:
    if "stream" in vars(services):
        services.stream.stop()
