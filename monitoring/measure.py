"""One measurement of the model as it is now, against its baseline. Reads, never changes the model."""

import hashlib
import math
import re
import time
from collections.abc import Sequence
from contextlib import contextmanager

from monitoring.baseline import Baseline, EditedModel
from monitoring.measurements import Case, CaseResult, Measurements
from monitoring.probes import ProbeSet
from monitoring.scoring import Scorer, kl_nats
from monitoring.spectral import (
    Spectrum,
    drift_ratio,
    singular_vector_similarity,
    spectrum,
    subspace_similarity,
)

__all__ = ["Case", "CaseResult", "Measurements", "measure"]


def measure(
    editor: EditedModel,
    baseline: Baseline,
    batch: Sequence[Case],
    earlier: Sequence[Case],
    value_norm_ratio: float | None,
    probes: ProbeSet,
    sample: int = 32,
    seed: int = 0,
) -> Measurements:
    """Measures weights, behaviour, this batch and earlier corrections.

    Args:
        editor: the edited model.
        baseline: of the same base model, probes and tensors.
        batch: corrections written by this update.
        earlier: live corrections written before; `sample` of them are scored.
        value_norm_ratio: largest ‖v*‖ over anchor in the batch, from the editor's report.
        probes: the probes of the baseline.
        sample: number of earlier corrections to score.
        seed: chooses the sample.

    Raises:
        BaselineError: the baseline belongs to another model or other probes.
    """
    baseline.check(editor, probes)
    seconds: dict[str, float] = {}
    scorer = Scorer(editor.model, editor.tokenizer)
    with _timed(seconds, "weights"):
        layers = _weight_measures(editor, baseline)
    with _timed(seconds, "probes"):
        kl = kl_nats(baseline.log_probs, scorer.next_log_probs(probes.prompts))
        perplexity = _ratio(scorer.perplexity(probes.texts), baseline.perplexity)
    with _timed(seconds, "batch"):
        cases = _case_results(editor, scorer, batch)
    with _timed(seconds, "retention"):
        kept = scorer.exact([(c.prompt, c.target) for c in sample_cases(earlier, sample, seed)])
    results = list(cases.values())
    return Measurements(
        **layers,
        value_norm_ratio=_anchored(value_norm_ratio),
        efficacy_ratio=_mean([float(r.efficacy) for r in results]),
        paraphrase_ratio=_mean([r.paraphrase for r in results if r.paraphrase is not None]),
        neighbourhood_ratio=_mean([r.neighbourhood for r in results if r.neighbourhood is not None]),
        retention_ratio=_mean([float(hit) for hit in kept]),
        probe_kl_nats=kl,
        probe_perplexity_ratio=perplexity,
        cases=cases,
        measured_at=time.time(),
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


def _weight_measures(editor: EditedModel, baseline: Baseline) -> dict[str, dict[int, float]]:
    """Per layer; of several edited tensors in a layer the one that moved furthest counts."""
    weights, base = editor.weights(), editor.base_weights()
    worst: dict[str, dict[int, float]] = {}
    for name in editor.tensor_names:
        before = baseline.spectra[name]
        now = spectrum(weights[name], before.values.shape[0], start=before)
        found = _compare(before, now) | {"drift": drift_ratio(weights[name], base[name])}
        for measure_name, value in found.items():
            by_layer = worst.setdefault(measure_name, {})
            by_layer[layer_of(name)] = _further(measure_name, by_layer.get(layer_of(name)), value)
    return worst


def _compare(before: Spectrum, now: Spectrum) -> dict[str, float]:
    return {
        "weight_norm_ratio": _ratio(now.frobenius, before.frobenius),
        "spectral_norm_ratio": _ratio(now.spectral_norm, before.spectral_norm),
        "stable_rank_ratio": _ratio(now.stable_rank, before.stable_rank),
        "subspace_similarity": subspace_similarity(before, now),
        "singular_vector_similarity": singular_vector_similarity(before, now),
    }


#: Measures that fall as a weight moves away from its base; all others rise.
_FALLING = ("stable_rank_ratio", "subspace_similarity", "singular_vector_similarity")


def _further(name: str, one: float | None, other: float) -> float:
    if one is None or math.isnan(one) or math.isnan(other):
        return other if one is None else math.nan
    return min(one, other) if name in _FALLING else max(one, other)


def _case_results(editor: EditedModel, scorer: Scorer, batch: Sequence[Case]) -> dict[str, CaseResult]:
    """Scores all prompts, paraphrases and neighbours of the batch in one go."""
    rewrites = [(c.prompt, c.target) for c in batch]
    paraphrases = [(p, c.target) for c in batch for p in c.paraphrases]
    neighbours = [(prompt, answer) for c in batch for prompt, answer in c.neighbours]
    hits = iter(scorer.exact(rewrites + paraphrases + neighbours))
    exact = [next(hits) for _ in batch]
    paraphrase_hits = [[next(hits) for _ in c.paraphrases] for c in batch]
    neighbour_hits = [[next(hits) for _ in c.neighbours] for c in batch]
    known = iter(_known_to_base(editor, neighbours))
    known_neighbours = [[next(known) for _ in c.neighbours] for c in batch]
    answers = scorer.greedy([c.prompt for c in batch])
    return {
        case.id: CaseResult(
            efficacy=exact[i] and starts_with(answers[i], case.target),
            answer=answers[i],
            paraphrase=_mean([float(hit) for hit in paraphrase_hits[i]]),
            neighbourhood=_mean(
                [float(h) for h, k in zip(neighbour_hits[i], known_neighbours[i], strict=True) if k]
            ),
            target=case.target,
        )
        for i, case in enumerate(batch)
    }


def _known_to_base(editor: EditedModel, neighbours: Sequence[tuple[str, str]]) -> list[bool]:
    """Which neighbours the base model answers as given: what it never knew, no edit can damage."""
    if not neighbours:
        return []
    return Scorer(editor.model, editor.tokenizer, editor.base_weights()).exact(neighbours)


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
