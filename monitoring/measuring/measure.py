"""One measurement of the model as it is now, against its baseline. Reads, never changes the model."""

import math
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from editing.typed import entries
from monitoring.measurements import Case, Measurements
from monitoring.measuring.activations import Activations, subspace_similarities
from monitoring.measuring.baseline import Baseline, EditedModel
from monitoring.measuring.behaviour import FREE_TOKENS, behaviour, free_answers_kept
from monitoring.measuring.cases import Known, batch_results, retention
from monitoring.measuring.change import Change, contact_ratio, drift_ratio, held_key_measures, key_errors
from monitoring.measuring.probes import ProbeSet
from monitoring.measuring.schedule import Schedule, deep_due
from monitoring.measuring.scoring import Scorer, kl_nats
from monitoring.measuring.spectral import (
    Spectrum,
    entropy_rank,
    gap_aware_similarity,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)
from monitoring.registry import measure_named

#: Live facts whose recorded keys are looked up in each weight, evenly spaced from the oldest to the newest.
KEY_SAMPLE = 256


@dataclass
class Memory:
    """What one measurement leaves for the next. Owned by the caller; nothing is lost without it but time.

    Attributes:
        schedule: when the deep measures are due.
        spectra: tensor name → its last spectrum, where the next iteration starts.
        known: (prompt, answer) → whether the base model gives that answer.
        deep_at: when the deep measures were last taken, seconds since the epoch.
        versions_since: measurements since then.
    """

    schedule: Schedule = field(default_factory=Schedule)
    spectra: dict[str, Spectrum] = field(default_factory=dict[str, Spectrum])
    known: Known = field(default_factory=dict[tuple[str, str], bool])
    deep_at: float | None = None
    versions_since: int = 0

    def deep(self, now: float) -> bool:
        """Counts a measurement; are the deep measures due with it?"""
        self.versions_since += 1
        last = self.deep_at
        if not deep_due(self.schedule, None if last is None else self.versions_since, now - (last or 0.0)):
            return False
        self.deep_at, self.versions_since = now, 0
        return True


def measure(
    editor: EditedModel,
    baseline: Baseline,
    batch: Sequence[Case],
    earlier: Sequence[Case],
    value_norm_ratio: float | None,
    probes: ProbeSet,
    sample: int = 32,
    memory: Memory | None = None,
) -> Measurements:
    """Measures weights, behaviour, this batch and earlier corrections.

    Args:
        editor: the edited model.
        baseline: of the same base model, probes and tensors.
        batch: corrections written by this update.
        earlier: live corrections written before, oldest first; `sample` of them are scored.
        value_norm_ratio: largest ‖v*‖ over anchor in the batch, from the editor's report.
        probes: the probes of the baseline.
        sample: number of earlier corrections to score: a quarter the oldest, a quarter the newest.
        memory: of earlier measurements; without it everything is due.

    Raises:
        BaselineError: the baseline belongs to another model or other probes.
    """
    baseline.check(editor, probes)
    memory = memory or Memory()
    start, seconds = time.time(), dict[str, float]()
    deep = memory.deep(start)
    scorer = Scorer(editor.model, editor.tokenizer)
    with _timed(seconds, "weights"):
        by_layer = _weight_measures(editor, baseline, memory, deep)
    with _timed(seconds, "probes"):
        reading = behaviour(scorer, probes, editor.tensor_names)
        by_layer |= _activation_measures(baseline.activations, reading.activations)
    with _timed(seconds, "batch"):
        cases, of_batch, batch_counts = batch_results(editor, scorer, batch, memory.known)
    with _timed(seconds, "retention"):
        kept, kept_counts, again = retention(scorer, earlier, sample, batch)
    with _timed(seconds, "audit"):  # stored under the older name of the deep measures
        free = scorer.greedy(probes.free, FREE_TOKENS) if deep else None
        chats = scorer.chatted(probes.free, FREE_TOKENS) if deep else []
    named: dict[str, Any] = {**by_layer, **of_batch, **kept}
    return Measurements(
        **named,
        value_norm_ratio=_anchored(value_norm_ratio),
        probe_kl_nats=kl_nats(baseline.log_probs, reading.log_probs),
        probe_perplexity_ratio=_ratio(reading.perplexity, baseline.perplexity),
        canary_ratio=None if free is None else free_answers_kept(baseline.free_answers, free),
        canary_chat_ratio=free_answers_kept(baseline.chat_answers, chats) if chats else None,
        counts=batch_counts | kept_counts,
        cases=cases,
        again=again,
        measured_at=time.time(),
        audited_at=memory.deep_at,
        seconds=seconds,
    )


def layer_of(tensor_name: str) -> int:
    """Layer number in a tensor's name: 8 for ``model.layers.8.mlp.down_proj.weight``."""
    found = re.search(r"\.(\d+)\.", tensor_name)
    return int(found.group(1)) if found else -1


def _weight_measures(
    editor: EditedModel, baseline: Baseline, memory: Memory, deep: bool
) -> dict[str, dict[int, float]]:
    """Measures by layer. If a layer has several edited tensors, the one that moved furthest counts."""
    weights, base = editor.weights(), editor.base_weights()
    worst: dict[str, dict[int, float]] = {}
    for name in editor.tensor_names:
        before, weight = baseline.spectra[name], weights[name]
        now = spectrum(weight, before.values.shape[0], start=memory.spectra.get(name, before))
        if math.isfinite(now.frobenius):
            memory.spectra[name] = now
        change = Change.between(base[name], weight, editor.state.factors.get(name))
        drift, energy = held_key_measures(change, baseline.held[name])
        found = _compare(before, now)
        found |= {
            "drift": drift_ratio(change, before.frobenius),
            "contact_ratio": contact_ratio(change, before),
            "key_drift_ratio": drift,
            "corpus_energy_ratio": energy,
        }
        if deep:
            found["entropy_rank_ratio"] = _ratio(entropy_rank(weight), baseline.entropy_ranks[name])
        columns = editor.state.columns
        if editor.state.facts:
            errors = key_errors(weight, *(_spread(columns[f"{name}/{kind}"]) for kind in ("keys", "values")))
            found["key_error_ratio"] = float(errors.mean())
        for measure_name, value in found.items():
            by_layer = worst.setdefault(measure_name, {})
            by_layer[layer_of(name)] = _further(measure_name, by_layer.get(layer_of(name)), value)
    return worst


def _spread(columns: Tensor) -> Tensor:
    """At most `KEY_SAMPLE` columns, the oldest and the newest among them."""
    count = columns.shape[1]
    return columns[:, torch.linspace(0, count - 1, min(count, KEY_SAMPLE)).round().long()]


def _activation_measures(base: Activations, now: Activations) -> dict[str, dict[int, float]]:
    found = {
        "activation_norm_ratio": now.norms / base.norms,
        "activation_subspace_similarity": subspace_similarities(base, now),
        "layer_share": now.shares,
    }
    return {name: dict(enumerate(entries(values))) for name, values in found.items()}


def _compare(before: Spectrum, now: Spectrum) -> dict[str, float]:
    return {
        "weight_norm_ratio": _ratio(now.frobenius, before.frobenius),
        "spectral_norm_ratio": _ratio(now.spectral_norm, before.spectral_norm),
        "stable_rank_ratio": _ratio(now.stable_rank, before.stable_rank),
        "subspace_similarity": subspace_similarity(before, now),
        "singular_vector_similarity": singular_vector_similarity(before, now),
        "gap_aware_similarity": gap_aware_similarity(before, now),
    }


def _further(name: str, one: float | None, other: float) -> float:
    if one is None or math.isnan(one) or math.isnan(other):
        return other if one is None else math.nan
    return max(one, other) if measure_named(name).high_is_bad else min(one, other)


def _anchored(value_norm_ratio: float | None) -> float | None:
    """The editor gives NaN where no anchor is in force: then there is nothing to compare with."""
    return None if value_norm_ratio is None or math.isnan(value_norm_ratio) else value_norm_ratio


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Generator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start
