"""Makes what the apply worker and the value workers work with: editor, replicas, measures, proof.

This module loads torch, so `daemon.app` imports it only in a worker that needs the model.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from daemon.apply.applier import Applier
from daemon.apply.asking import asking_of
from daemon.apply.background.jobs import Jobs
from daemon.apply.measuring import Monitoring
from daemon.apply.trust.screening import Screen, believes_of
from daemon.apply.value_workers import Fleet, answer
from daemon.core.errors import SettingsError
from daemon.core.progress import Progress
from daemon.core.settings import Settings
from daemon.intake.trust.policies import load_sources
from daemon.ledger.ledger import Ledger
from daemon.ledger.rows import CorrectionRow
from daemon.publish.proof import Proof
from daemon.publish.proving.noise import NoiseRecord
from daemon.publish.proving.passages import Passage
from daemon.publish.replicas import open_replicas
from daemon.versions.keys import accepted_keys, writers_key
from daemon.versions.store import Store
from editing.editor import Editor
from editing.forms import checked_kinds
from editing.install import Installation
from editing.methods import numbers_of
from editing.model.loaded import load_model
from editing.values.options import ValueOptions
from monitoring.forecast import FEWEST_POINTS, edits_until_limit, forecasts, to_json
from monitoring.measurements import Measurements
from monitoring.measuring.baseline import open_baseline
from monitoring.measuring.measure import Memory, measure
from monitoring.measuring.probes import default_probes
from monitoring.measuring.room import room_of
from monitoring.measuring.scoring import Scorer
from monitoring.thresholds import Thresholds
from monitoring.verdict import judge

#: Sends a Celery task by its name, as `Celery.send_task` does.
SendTask = Callable[..., Any]
#: The Celery task that finds values on the unedited model.
VALUES = "factd.values"
#: In the state directory: how far each replica was from the unedited model when it served that.
NOISE_FILE = "proof-noise.json"


def build_applier(settings: Settings, ledger: Ledger, progress: Progress, send: SendTask) -> Applier:
    """The applier of these settings. Opens the model: minutes when `factd init` has not prepared it.

    Args:
        send: sends tasks to value workers.
    """
    key = writers_key(settings)
    editor = open_editor(settings, progress)
    scorer = Scorer(editor.model, editor.tokenizer)
    replicas = open_replicas(settings, scorer.greedy, functools.partial(scorer.answers, chat=True))
    monitoring = build_monitoring(settings, editor)._replace(screen=build_screen(settings, scorer))
    if settings.value_workers:
        editor.install.elsewhere = fleet(settings, editor, send)
    record = NoiseRecord(settings.state_dir / NOISE_FILE, editor.base_hash)
    proof, store = build_proof(editor, record), Store(settings.store_dir, accepted_keys(settings), key)
    applier = Applier(ledger, store, editor, replicas, monitoring=monitoring, settings=settings, proof=proof)
    if settings.background and editor.method.valued:
        folder, numbers = settings.state_dir / "background", repr(editor.consolidation)
        applier.jobs = Jobs(folder, editor.settings_hash, consolidation=numbers)
    return applier


def open_editor(settings: Settings, progress: Progress) -> Editor:
    """The editor of these settings; measures on the unedited model what is not stored yet.

    Raises:
        EditError: the model cannot be used, or an option is unknown.
    """
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
        forms=settings.forms,
        consolidation=consolidation_of(settings),
        progress=progress,
    )


def consolidation_of(settings: Settings) -> dict[str, Any]:
    """The numbers of consolidations that an operator chooses, by name."""
    chosen: dict[str, Any] = {"epochs": settings.consolidation_epochs, "rate": settings.consolidation_rate}
    layers = settings.consolidation_layers
    return chosen | {"layers": layers} if layers else chosen


def build_screen(settings: Settings, scorer: Scorer) -> Screen | None:
    """Asks the model in memory how sure it is of old answers; None without a file of sources."""
    sources = load_sources(settings.sources_file)
    if sources is None:
        return None
    return Screen(sources.rules, believes_of(scorer), scorer.greedy)


# -- values -----------------------------------------------------------------------------------------


def fleet(settings: Settings, editor: Editor, send: SendTask) -> Fleet:
    """Asks value workers through the broker.

    Raises:
        SettingsError: the method's values depend on the facts that are in the model already.
    """
    if not editor.options.unedited or editor.method.bars:
        raise SettingsError(
            f"FACTD_VALUE_WORKERS = true: values of FACTD_METHOD = {settings.method!r} depend on the facts "
            "already written, so nobody else can find them; use memit-seq or nse, or unset it"
        )
    seconds = settings.value_workers_seconds
    # A message older than that is of no use: the applier has found the values itself.
    return Fleet(lambda named: send(VALUES, kwargs=named, expires=seconds), seconds)


def value_finder(settings: Settings, progress: Progress) -> Callable[..., str]:
    """What a value worker answers with: `daemon.apply.value_workers.answer` on the unedited model."""
    return functools.partial(answer, *open_installation(settings, progress))


def open_installation(settings: Settings, progress: Progress) -> tuple[Installation, ValueOptions]:
    """The unedited model with its statistics, and the method's value options.

    Raises:
        EditError: the model cannot be used.
    """
    loaded = load_model(settings.model, settings.statistics, settings.dtype)
    install = Installation(loaded, settings.statistics, settings.corpus, progress, settings.tokens)
    values = numbers_of(settings.method, loaded).values
    return install, replace(values, forms=checked_kinds(settings.forms))


# -- proof and measures -----------------------------------------------------------------------------


def build_proof(editor: Editor, record: NoiseRecord | None = None) -> Proof:
    """Compares replicas with the editor's model: weights, facts, and the watched probes.

    Args:
        record: of the noise; None keeps it in memory only.
    """

    def score(pairs: Sequence[tuple[str, str]]) -> list[Passage]:
        scorer = Scorer(editor.model, editor.tokenizer)
        encoded = [scorer.encode(prompt, target) for prompt, target in pairs]
        told = scorer.log_probs(encoded)
        return [Passage(e.ids, e.first, tuple(lp)) for e, lp in zip(encoded, told, strict=True) if lp]

    # All tokens from the second word on: the more there are, the better is their noise known.
    parts = [prompt.split(" ", 1) for prompt in default_probes().watched]
    return Proof(score, [(part[0], " ".join(part[1:])) for part in parts], editor, record)


def build_monitoring(settings: Settings, editor: Editor) -> Monitoring:
    """Measures and judges against the baseline, which is measured once for a model."""
    probes, memory = default_probes(), Memory()
    baseline = open_baseline(editor, probes, settings.statistics / "baselines")
    thresholds, asking = baseline.thresholds(settings.thresholds), asking_of(settings, editor)

    def measured(batch: Sequence[CorrectionRow], earlier: Sequence[CorrectionRow], ratio: float | None):
        cases, old = [asking.case(row) for row in batch], [asking.earlier(row) for row in earlier]
        return measure(editor, baseline, cases, old, ratio, probes, settings.measure_sample, memory)

    def judged(measurements: Measurements, previous: dict[str, Any] | None):
        before = Measurements.from_json(previous) if previous else None
        return judge(measurements, thresholds, before, time.time())

    def foreseen(history: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        room = room_of(editor)
        return foresee(thresholds, history) | {"room": room and room.to_json()}

    return Monitoring(measured, judged, foreseen)


def foresee(thresholds: Thresholds, history: Sequence[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """What `daemon.apply.measuring.Foresee` says, with the levels in force: measure → [warn, limit]."""
    series = [(edits, Measurements.from_json(stored)) for edits, stored in history]
    found = forecasts(series, thresholds)
    limits = {name: [bounds.warn, bounds.limit] for name, bounds in thresholds.bounds.items()}
    if edits_until_limit(series, found) is None:
        few = f"{len(series)} of {FEWEST_POINTS} versions measured since the last compaction"
        return {"known": False, "nearest": f"nothing yet: {few}", "forecasts": [], "limits": limits}
    return {"known": True, **to_json(found), "limits": limits}
