"""The values that a measurement gives: plain numbers that go to JSON and back. No torch here."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from monitoring.errors import MeasurementError
from monitoring.registry import LAYER_MEASURES, OF_THE_BATCH
from monitoring.shares import Counted


@dataclass(frozen=True)
class CaseForm:
    """One form in which a correction is asked.

    Attributes:
        name: what people read: "prompt", "chat", "question 1".
        text: with the subject filled in.
        chat: whether it is asked as a chat message.
        required: whether the correction must be said in it.
    """

    name: str
    text: str
    chat: bool = False
    required: bool = True


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
        forms: in which it is asked; the bare prompt alone where none is given.
        subject: what it is about; "" where nobody said.
    """

    id: str
    prompt: str
    target: str
    was: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()
    forms: tuple[CaseForm, ...] = ()
    subject: str = ""

    @property
    def asked(self) -> tuple[CaseForm, ...]:
        return self.forms or (CaseForm("prompt", self.prompt),)


@dataclass(frozen=True)
class FormResult:
    """How a correction was answered in one form.

    Attributes:
        answer: first line of the greedy answer.
        said: whether the whole answer says the target (`editing.said.said`).
    """

    answer: str
    said: bool
    required: bool = True


@dataclass(frozen=True)
class CaseResult:
    """How one correction of the batch came out.

    Attributes:
        efficacy: the target is said in every form that it must be said in.
        answer: first line of the greedy answer to the bare prompt.
        paraphrase: share of paraphrases that lead to the target; None without paraphrases.
        neighbourhood: share of neighbours kept; None when the base model knew none of them.
        target: the wanted answer.
        forms: name of a form → how it was answered. Results of before forms lack it.
    """

    efficacy: bool
    answer: str
    paraphrase: float | None = None
    neighbourhood: float | None = None
    target: str = ""
    forms: dict[str, FormResult] = field(default_factory=dict[str, FormResult])


@dataclass(frozen=True)
class Measurements:
    """What was measured on one version. None or empty: not measured, there was nothing to measure it on.

    The measures stand first, each under its name in `monitoring.registry`, which says what it means. Those
    with a value a layer are dicts from the layer's number.

    Attributes:
        counts: share → (cases that came out well, cases asked). Measurements of before counts lack it.
        cases: correction id → its result.
        again: id of an earlier correction that was asked again → name of a lost form → its answer.
        measured_at: seconds since the epoch.
        audited_at: when the deep measures were last taken; the stored name is older than their name.
        seconds: what each part of the measurement took.
    """

    weight_norm_ratio: dict[int, float] = field(default_factory=dict[int, float])
    spectral_norm_ratio: dict[int, float] = field(default_factory=dict[int, float])
    stable_rank_ratio: dict[int, float] = field(default_factory=dict[int, float])
    subspace_similarity: dict[int, float] = field(default_factory=dict[int, float])
    singular_vector_similarity: dict[int, float] = field(default_factory=dict[int, float])
    gap_aware_similarity: dict[int, float] = field(default_factory=dict[int, float])
    entropy_rank_ratio: dict[int, float] = field(default_factory=dict[int, float])
    drift: dict[int, float] = field(default_factory=dict[int, float])
    contact_ratio: dict[int, float] = field(default_factory=dict[int, float])
    key_drift_ratio: dict[int, float] = field(default_factory=dict[int, float])
    corpus_energy_ratio: dict[int, float] = field(default_factory=dict[int, float])
    key_error_ratio: dict[int, float] = field(default_factory=dict[int, float])
    activation_norm_ratio: dict[int, float] = field(default_factory=dict[int, float])
    activation_subspace_similarity: dict[int, float] = field(default_factory=dict[int, float])
    layer_share: dict[int, float] = field(default_factory=dict[int, float])
    value_norm_ratio: float | None = None
    efficacy_ratio: float | None = None
    chat_efficacy_ratio: float | None = None
    paraphrase_ratio: float | None = None
    neighbourhood_ratio: float | None = None
    retention_ratio: float | None = None
    retention_oldest_ratio: float | None = None
    retention_random_ratio: float | None = None
    retention_newest_ratio: float | None = None
    retention_chat_ratio: float | None = None
    probe_kl_nats: float | None = None
    probe_perplexity_ratio: float | None = None
    canary_ratio: float | None = None
    canary_chat_ratio: float | None = None
    counts: dict[str, Counted] = field(default_factory=dict[str, Counted])
    cases: dict[str, CaseResult] = field(default_factory=dict[str, CaseResult])
    again: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    measured_at: float | None = None
    audited_at: float | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def counted(self, name: str) -> Counted | None:
        """The cases that a share is counted from; None where they were not kept."""
        return self.counts.get(name)

    def to_json(self) -> dict[str, Any]:
        """A dict of strict JSON: layers as strings, NaN and infinities as their names."""
        told: dict[str, Any] = _writable(asdict(self))
        return told | {"counts": {name: [c.hits, c.asked] for name, c in self.counts.items()}}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | str) -> "Measurements":
        """Reads what `to_json` gave, as a dict or as text.

        Raises:
            MeasurementError: fields are unknown or hold something else than numbers.
        """
        try:
            content: dict[str, Any] = dict(json.loads(stored) if isinstance(stored, str) else stored)
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise MeasurementError(
                    f"unknown fields {sorted(unknown)}; written by another version of factd?"
                )
            cases = {id: _case(case) for id, case in content.pop("cases", {}).items()}
            again = content.pop("again", {})
            counts = {name: Counted(*map(int, pair)) for name, pair in content.pop("counts", {}).items()}
            values = {name: _readable(value) for name, value in content.items()}
            for name in LAYER_MEASURES:
                values[name] = {int(layer): value for layer, value in values.get(name, {}).items()}
            return cls(cases=cases, again=again, counts=counts, **values)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise MeasurementError(f"not a measurement: {error}") from error


def measured_again(now: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Stored measurements of a version that was looked at once more: what they say of the version's own batch
    is kept from `before`, the rest is as it is now."""
    batch = {name: before[name] for name in OF_THE_BATCH if name in before}
    kept = {name: pair for name, pair in before.get("counts", {}).items() if name in OF_THE_BATCH}
    counts = {**now.get("counts", {}), **kept}
    return {**now, **batch, **({"counts": counts} if counts else {})}


def _case(stored: Mapping[str, Any]) -> CaseResult:
    plain = {name: value for name, value in stored.items() if name != "forms"}
    forms = {name: FormResult(**form) for name, form in stored.get("forms", {}).items()}
    return CaseResult(**_readable(plain), forms=forms)


_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def _writable(value: object) -> Any:
    if isinstance(value, dict):
        content = cast("dict[Any, Any]", value)
        return {str(key): _writable(item) for key, item in content.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return value


def _readable(value: object) -> Any:
    """Undoes `_writable` for numbers; the texts of a case are left alone."""
    if isinstance(value, dict):
        texts, content = ("answer", "target"), cast("dict[Any, Any]", value)
        return {key: item if key in texts else _readable(item) for key, item in content.items()}
    return _NOT_FINITE[value] if isinstance(value, str) else value
