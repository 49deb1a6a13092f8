"""One measurement of the model as it is now, against its baseline. Reads, never changes the model."""

import hashlib
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from monitoring.measurements import Case, CaseResult, Measurements
from monitoring.measuring.activations import Activations, subspace_similarities
from monitoring.measuring.baseline import Baseline, EditedModel
from monitoring.measuring.behaviour import CANARY_TOKENS, behaviour, canary_ratio
from monitoring.measuring.change import Change, contact_ratio, drift_ratio, held_key_measures, key_errors
from monitoring.measuring.probes import ProbeSet
from monitoring.measuring.schedule import Schedule, audit_due
from monitoring.measuring.scoring import Scorer, kl_nats
from monitoring.measuring.spectral import (
    Spectrum,
    entropy_rank,
    gap_aware_similarity,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)

__all__ = ["Case", "CaseResult", "Measurements", "Memory", "measure"]

#: Live facts whose recorded keys are looked up in each weight, evenly spaced from the oldest to the newest.
KEY_SAMPLE = 256


@dataclass
class Memory:
    """What one measurement leaves for the next. Owned by the caller; nothing is lost without it but time.

    Attributes:
        schedule: when the dear measures are due.
        spectra: tensor name → its last spectrum, where the next iteration starts.
        known: (prompt, answer) → whether the base model gives that answer.
        audited_at: when the last audit was, seconds since the epoch.
        versions_since: measurements since then.
    """

    schedule: Schedule = field(default_factory=Schedule)
    spectra: dict[str, Spectrum] = field(default_factory=dict)
    known: dict[tuple[str, str], bool] = field(default_factory=dict)
    audited_at: float | None = None
    versions_since: int = 0

    def audit(self, now: float) -> bool:
        """Counts a measurement; is an audit due with it?"""
        self.versions_since += 1
        last = self.audited_at
        if not audit_due(self.schedule, None if last is None else self.versions_since, now - (last or 0.0)):
            return False
        self.audited_at, self.versions_since = now, 0
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
    audit = memory.audit(start)
    scorer = Scorer(editor.model, editor.tokenizer)
    with _timed(seconds, "weights"):
        by_layer = _weight_measures(editor, baseline, memory, audit)
    with _timed(seconds, "probes"):
        reading = behaviour(scorer, probes, editor.tensor_names)
        by_layer |= _activation_measures(baseline.activations, reading.activations)
    with _timed(seconds, "batch"):
        cases = _case_results(editor, scorer, batch, memory)
    with _timed(seconds, "retention"):
        retention = _retention(scorer, earlier, sample)
    with _timed(seconds, "audit"):
        free = scorer.greedy(probes.canaries, CANARY_TOKENS) if audit else None
    results = list(cases.values())
    named: dict[str, Any] = {**by_layer, **retention}
    return Measurements(
        **named,
        value_norm_ratio=_anchored(value_norm_ratio),
        efficacy_ratio=_mean([float(r.efficacy) for r in results]),
        paraphrase_ratio=_mean([r.paraphrase for r in results if r.paraphrase is not None]),
        neighbourhood_ratio=_mean([r.neighbourhood for r in results if r.neighbourhood is not None]),
        probe_kl_nats=kl_nats(baseline.log_probs, reading.log_probs),
        probe_perplexity_ratio=_ratio(reading.perplexity, baseline.perplexity),
        canary_ratio=None if free is None else canary_ratio(baseline.canaries, free),
        cases=cases,
        measured_at=time.time(),
        audited_at=memory.audited_at,
        seconds=seconds,
    )


def sample_cases(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """`size` cases chosen by hash of seed and id: the same whatever the order they are given in,
    and a new case displaces at most one other."""

    def rank(case: Case) -> bytes:
        return hashlib.sha256(f"{seed}:{case.id}".encode()).digest()

    return sorted(cases, key=rank)[:size]


def layer_of(tensor_name: str) -> int:
    """Layer number in a tensor's name: 8 for ``model.layers.8.mlp.down_proj.weight``."""
    found = re.search(r"\.(\d+)\.", tensor_name)
    return int(found.group(1)) if found else -1


def _weight_measures(
    editor: EditedModel, baseline: Baseline, memory: Memory, audit: bool
) -> dict[str, dict[int, float]]:
    """Per layer; of several edited tensors in a layer the one that moved furthest counts."""
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
        if audit:
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
    return {name: dict(enumerate(values.tolist())) for name, values in found.items()}


def _compare(before: Spectrum, now: Spectrum) -> dict[str, float]:
    return {
        "weight_norm_ratio": _ratio(now.frobenius, before.frobenius),
        "spectral_norm_ratio": _ratio(now.spectral_norm, before.spectral_norm),
        "stable_rank_ratio": _ratio(now.stable_rank, before.stable_rank),
        "subspace_similarity": subspace_similarity(before, now),
        "singular_vector_similarity": singular_vector_similarity(before, now),
        "gap_aware_similarity": gap_aware_similarity(before, now),
    }


#: Measures that fall as a weight moves away from its base; all others rise.
_FALLING = (
    "stable_rank_ratio",
    "subspace_similarity",
    "singular_vector_similarity",
    "gap_aware_similarity",
    "entropy_rank_ratio",
)


def _further(name: str, one: float | None, other: float) -> float:
    if one is None or math.isnan(one) or math.isnan(other):
        return other if one is None else math.nan
    return min(one, other) if name in _FALLING else max(one, other)


def retention_samples(cases: Sequence[Case], size: int) -> dict[str, list[Case]]:
    """The oldest and the newest quarter of `size` cases, and a sample by hash of those between.

    `cases` are given oldest first; no case is in two samples.
    """
    quarter = min(size, len(cases)) // 4
    between = cases[quarter : len(cases) - quarter]
    return {
        "oldest": list(cases[:quarter]),
        "random": sample_cases(between, min(size, len(cases)) - 2 * quarter, seed=0),
        "newest": list(cases[len(cases) - quarter :]),
    }


def _retention(scorer: Scorer, earlier: Sequence[Case], size: int) -> dict[str, float | None]:
    samples = retention_samples(earlier, size)
    hits = iter(scorer.exact([(c.prompt, c.target) for cases in samples.values() for c in cases]))
    kept = {which: [float(next(hits)) for _ in cases] for which, cases in samples.items()}
    found = {f"retention_{which}_ratio": _mean(values) for which, values in kept.items()}
    return found | {"retention_ratio": _mean([hit for values in kept.values() for hit in values])}


def _case_results(
    editor: EditedModel, scorer: Scorer, batch: Sequence[Case], memory: Memory
) -> dict[str, CaseResult]:
    """Scores all prompts, paraphrases and neighbours of the batch in one go."""
    rewrites = [(c.prompt, c.target) for c in batch]
    paraphrases = [(p, c.target) for c in batch for p in c.paraphrases]
    neighbours = [pair for c in batch for pair in c.neighbours]
    hits = iter(scorer.exact(rewrites + paraphrases + neighbours))
    exact = [next(hits) for _ in batch]
    paraphrase_hits = [[next(hits) for _ in c.paraphrases] for c in batch]
    neighbour_hits = [[next(hits) for _ in c.neighbours] for c in batch]
    missed = [
        pair
        for case, kept in zip(batch, neighbour_hits, strict=True)
        for pair, hit in zip(case.neighbours, kept, strict=True)
        if not hit
    ]
    known = _known_to_base(editor, missed, memory)
    answers = _answers(scorer, rewrites, exact)
    return {
        case.id: CaseResult(
            efficacy=exact[i] and starts_with(answers[i], case.target),
            answer=answers[i],
            paraphrase=_mean([float(hit) for hit in paraphrase_hits[i]]),
            neighbourhood=_mean(
                [
                    float(hit)
                    for pair, hit in zip(case.neighbours, neighbour_hits[i], strict=True)
                    if hit or known(pair)
                ]
            ),
            target=case.target,
        )
        for i, case in enumerate(batch)
    }


def _answers(scorer: Scorer, rewrites: Sequence[tuple[str, str]], exact: Sequence[bool]) -> list[str]:
    """The beginning of the greedy answer to each prompt; generated only where teacher forcing leaves it
    open (it is not the target, or the target's first token swallows the end of the prompt)."""
    encoded = [scorer.encode(*pair) for pair in rewrites]
    settled = [
        hit and scorer.answers_in_full(prompt, item)
        for hit, (prompt, _), item in zip(exact, rewrites, encoded, strict=True)
    ]
    open_ = iter(scorer.greedy([p for (p, _), done in zip(rewrites, settled, strict=True) if not done]))
    pairs = zip(encoded, settled, strict=True)
    return [scorer.decode(item) if done else next(open_) for item, done in pairs]


def _known_to_base(
    editor: EditedModel, missed: Sequence[tuple[str, str]], memory: Memory
) -> Callable[[tuple[str, str]], bool]:
    """Whether the base model gives an answer that is missed now: what it never knew, no edit can damage.

    An answer that is still given was not damaged either, so only missed ones are asked, each once.
    """
    new = [pair for pair in dict.fromkeys(missed) if pair not in memory.known]
    if new:
        base = Scorer(editor.model, editor.tokenizer, editor.base_weights())
        memory.known |= dict(zip(new, base.exact(new), strict=True))
    return memory.known.__getitem__


def starts_with(answer: str, target: str) -> bool:
    """Does the answer begin with the target, white space and case aside?"""
    return " ".join(answer.split()).casefold().startswith(" ".join(target.split()).casefold())


def _anchored(value_norm_ratio: float | None) -> float | None:
    """The editor gives NaN where no anchor is in force: then there is nothing to compare with."""
    return None if value_norm_ratio is None or math.isnan(value_norm_ratio) else value_norm_ratio


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _ratio(value: float, base: float) -> float:
    return value / base if base else math.nan


@contextmanager
def _timed(seconds: dict[str, float], part: str):
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start
