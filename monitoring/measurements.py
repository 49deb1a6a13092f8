"""The values that a measurement gives: plain numbers that go to JSON and back. No torch here."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from monitoring.errors import MeasurementError


@dataclass(frozen=True)
class Case:
    """A correction as monitoring sees it.

    Attributes:
        id: the correction's id.
        prompt: the prompt with the subject filled in.
        target: the wanted continuation, without its leading space.
        was: the answer before the correction, when the poster gave it.
        paraphrases: other prompts that must lead to the target.
        neighbours: (prompt, answer) pairs that must keep their answer.
    """

    id: str
    prompt: str
    target: str
    was: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class CaseResult:
    """How one correction of the batch came out.

    Attributes:
        efficacy: the target is the most probable continuation and the greedy answer starts with it.
        answer: first line of the greedy answer.
        paraphrase: share of paraphrases that lead to the target; None without paraphrases.
        neighbourhood: share of neighbours kept; None when the base model knew none of them.
        target: the wanted answer.
    """

    efficacy: bool
    answer: str
    paraphrase: float | None = None
    neighbourhood: float | None = None
    target: str = ""


@dataclass(frozen=True)
class Measurements:
    """What was measured on one version. None: not measured, there was nothing to measure it on.

    Attributes:
        weight_norm_ratio: per layer, ‖W‖_F / ‖W₀‖_F.
        spectral_norm_ratio: per layer, σ₁ / σ₁⁰.
        stable_rank_ratio: per layer, stable rank over the base's.
        subspace_similarity: per layer, LS.
        singular_vector_similarity: per layer, SS.
        gap_aware_similarity: per layer, SS with vectors of one cluster allowed to change places.
        entropy_rank_ratio: per layer, entropy rank over the base's; at an audit.
        drift: per layer, ‖W − W₀‖_F / ‖W₀‖_F.
        contact_ratio: per layer, share of W − W₀ that lies in the base's dominant subspace.
        key_drift_ratio: per layer, ‖(W − W₀)X‖² / ‖W₀X‖² on held keys X of ordinary text.
        corpus_energy_ratio: per layer, tr(WCWᵀ) over the base's, C of the held keys.
        key_error_ratio: per layer, mean ‖Wk − v‖ / ‖v‖ over recorded keys and values of live facts.
        activation_norm_ratio: per layer of the whole model, mean ‖h‖ on the probes over the base's.
        activation_subspace_similarity: per layer, overlap of the leading principal directions of h.
        layer_share: per layer, what its MLP adds to the residual stream as a share of what all do.
        value_norm_ratio: largest ‖v*‖ over anchor in the batch.
        efficacy_ratio: share of the batch's corrections that the model answers with.
        paraphrase_ratio: mean over cases of the share of paraphrases answered with the target.
        neighbourhood_ratio: share of the neighbours known to the base model that are still answered.
        retention_ratio: share of the sampled earlier corrections still answered.
        retention_oldest_ratio, retention_random_ratio, retention_newest_ratio: its three samples.
        canary_ratio: how far free answers to unrelated prompts repeat the base's; at an audit.
        probe_kl_nats: mean KL(base ‖ now) of the next token after the probes.
        probe_perplexity_ratio: perplexity of the held texts over the base's.
        cases: correction id → its result.
        measured_at: seconds since the epoch.
        audited_at: when the measures of an audit were last taken; they are empty in between.
        seconds: what each part of the measurement took.
    """

    weight_norm_ratio: dict[int, float] = field(default_factory=dict)
    spectral_norm_ratio: dict[int, float] = field(default_factory=dict)
    stable_rank_ratio: dict[int, float] = field(default_factory=dict)
    subspace_similarity: dict[int, float] = field(default_factory=dict)
    singular_vector_similarity: dict[int, float] = field(default_factory=dict)
    gap_aware_similarity: dict[int, float] = field(default_factory=dict)
    entropy_rank_ratio: dict[int, float] = field(default_factory=dict)
    drift: dict[int, float] = field(default_factory=dict)
    contact_ratio: dict[int, float] = field(default_factory=dict)
    key_drift_ratio: dict[int, float] = field(default_factory=dict)
    corpus_energy_ratio: dict[int, float] = field(default_factory=dict)
    key_error_ratio: dict[int, float] = field(default_factory=dict)
    activation_norm_ratio: dict[int, float] = field(default_factory=dict)
    activation_subspace_similarity: dict[int, float] = field(default_factory=dict)
    layer_share: dict[int, float] = field(default_factory=dict)
    value_norm_ratio: float | None = None
    efficacy_ratio: float | None = None
    paraphrase_ratio: float | None = None
    neighbourhood_ratio: float | None = None
    retention_ratio: float | None = None
    retention_oldest_ratio: float | None = None
    retention_random_ratio: float | None = None
    retention_newest_ratio: float | None = None
    probe_kl_nats: float | None = None
    probe_perplexity_ratio: float | None = None
    canary_ratio: float | None = None
    cases: dict[str, CaseResult] = field(default_factory=dict)
    measured_at: float | None = None
    audited_at: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dict of strict JSON: layers as strings, NaN and infinities as their names."""
        return _writable(asdict(self))

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | str) -> "Measurements":
        """Reads what `to_json` gave, as a dict or as text.

        Raises:
            MeasurementError: fields are unknown or hold something else than numbers.
        """
        try:
            content = dict(json.loads(stored) if isinstance(stored, str) else stored)
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise MeasurementError(
                    f"unknown fields {sorted(unknown)}; written by another version of factd?"
                )
            cases = {id: CaseResult(**_readable(case)) for id, case in content.pop("cases", {}).items()}
            values = {name: _readable(value) for name, value in content.items()}
            for name in LAYER_MEASURES:
                values[name] = {int(layer): value for layer, value in values.get(name, {}).items()}
            return cls(cases=cases, **values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise MeasurementError(f"not a measurement: {error}") from error


#: Measures that have one value a layer.
LAYER_MEASURES = (
    "weight_norm_ratio",
    "spectral_norm_ratio",
    "stable_rank_ratio",
    "subspace_similarity",
    "singular_vector_similarity",
    "gap_aware_similarity",
    "entropy_rank_ratio",
    "drift",
    "contact_ratio",
    "key_drift_ratio",
    "corpus_energy_ratio",
    "key_error_ratio",
    "activation_norm_ratio",
    "activation_subspace_similarity",
    "layer_share",
)

#: Measures that have one value a version.
SCALAR_MEASURES = (
    "value_norm_ratio",
    "efficacy_ratio",
    "paraphrase_ratio",
    "neighbourhood_ratio",
    "retention_ratio",
    "retention_oldest_ratio",
    "retention_random_ratio",
    "retention_newest_ratio",
    "probe_kl_nats",
    "probe_perplexity_ratio",
    "canary_ratio",
)

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _writable(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _readable(value: Any) -> Any:
    """Undoes `_writable` for numbers; the texts of a case are left alone."""
    if isinstance(value, dict):
        texts = ("answer", "target")
        return {key: item if key in texts else _readable(item) for key, item in value.items()}
    return _NOT_FINITE[value] if isinstance(value, str) else value
