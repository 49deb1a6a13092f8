"""Judges measurements. Pure: no torch, no clock, no I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from monitoring.measurements import Measurements

Outcome = Literal["accepted", "rejected", "inconclusive"]
GuardState = Literal["ok", "warn", "limit", "unknown"]

GUARD_STATES: tuple[GuardState, ...] = ("ok", "warn", "limit", "unknown")


@dataclass(frozen=True)
class Thresholds:
    """Where a measure warns and where it stops a version. Relative to the base model.

    "high" measures must stay below, "low" ones above. First values after the published signatures of
    collapse (norms beyond 10 times the base's, LS near chance); they leave room for healthy streams.
    """

    #: Healthy edited weights stay within a few per cent; 1.5 is far before answers fall apart.
    weight_norm_ratio_warn: float = 1.2
    weight_norm_ratio_limit: float = 1.5
    #: One direction may grow faster than the whole; it is seen first here.
    spectral_norm_ratio_warn: float = 1.5
    spectral_norm_ratio_limit: float = 2.0
    #: LS below 0.8: a fifth of the dominant directions is gone, which precedes collapse.
    subspace_similarity_warn: float = 0.9
    subspace_similarity_limit: float = 0.8
    #: Nats by which unrelated next tokens have moved; 0.5 is a visibly different model.
    probe_kl_nats_warn: float = 0.25
    probe_kl_nats_limit: float = 0.5
    #: A fifth more perplexity on unrelated text is what users notice.
    probe_perplexity_ratio_warn: float = 1.1
    probe_perplexity_ratio_limit: float = 1.2
    #: NAS skips beyond twice the anchor; twice that means that no anchor is in force.
    value_norm_ratio_warn: float = 2.0
    value_norm_ratio_limit: float = 4.0
    #: With 32 earlier facts sampled, 0.9 allows three that no longer answer.
    retention_ratio_warn: float = 0.95
    retention_ratio_limit: float = 0.9
    #: Neighbours are few per case, so one that tips already counts much.
    neighbourhood_ratio_warn: float = 0.9
    neighbourhood_ratio_limit: float = 0.5
    #: Editing does not promise paraphrases: they warn, and the limit 0 never stops a version.
    paraphrase_ratio_warn: float = 0.5
    paraphrase_ratio_limit: float = 0.0


@dataclass(frozen=True)
class Guard:
    """One watched measure: in which direction it is bad, whether it may be missing, what to do."""

    name: str
    high_is_bad: bool
    required: bool
    mend: str


_UNDO = "roll back to an older version or compact"
_SPLIT = "post the corrections one by one and leave out the one that does it"

GUARDS: tuple[Guard, ...] = (
    Guard("weight_norm_ratio", True, True, _UNDO),
    Guard("spectral_norm_ratio", True, True, _UNDO),
    Guard("subspace_similarity", False, True, _UNDO),
    Guard("probe_kl_nats", True, True, _SPLIT),
    Guard("probe_perplexity_ratio", True, True, _SPLIT),
    Guard("value_norm_ratio", True, False, "reword the correction, or open the editor with an anchor"),
    Guard("retention_ratio", False, False, "retract corrections that collide, or compact"),
    Guard("neighbourhood_ratio", False, False, _SPLIT),
    Guard("paraphrase_ratio", False, False, "post the paraphrase as a correction of its own"),
)

#: Names a guard can have as a metric label.
GUARD_NAMES: tuple[str, ...] = (*(guard.name for guard in GUARDS), "efficacy_ratio")


@dataclass(frozen=True)
class Verdict:
    """What is to become of a staged version.

    Attributes:
        outcome: accepted, rejected (something is wrong) or inconclusive (something is not known).
        reasons: one sentence for each guard that is not ok.
        blamed: ids of corrections that fail on their own account.
        guards: state of each guard; an optional measure with nothing to measure is ok.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    blamed: tuple[str, ...]
    guards: Mapping[str, GuardState]


def judge(m: Measurements, t: Thresholds, previous: Measurements | None = None) -> Verdict:
    """Judges one version.

    Args:
        m: its measurements.
        t: warn and limit of each measure.
        previous: measurements of the version it would replace. Where that one was past a limit too,
            a version that is no worse there is let through with a warning: or else nothing could be
            retracted from a damaged model.

    Returns:
        Rejected when a limit is passed or a correction does not answer; else inconclusive when a
        required measure is missing or any is NaN; else accepted.
    """
    states: dict[str, GuardState] = {}
    reasons: list[str] = []
    for guard in GUARDS:
        state, reason = _judge_guard(guard, m, t, previous)
        states[guard.name] = state
        reasons += [reason] if reason else []
    failing = tuple(id for id, case in m.cases.items() if not case.efficacy)
    states["efficacy_ratio"] = _efficacy_state(m)
    reasons += [_failure(id, m) for id in failing]
    if states["efficacy_ratio"] == "unknown":
        reasons.append("efficacy_ratio was not measured though there are corrections; measure again")
    blamed = failing
    if states["neighbourhood_ratio"] == "limit":
        blamed += tuple(id for id in _bad_neighbourhood(m, t) if id not in failing)
    return Verdict(_outcome(states), tuple(reasons), blamed, states)


def _outcome(states: Mapping[str, GuardState]) -> Outcome:
    if "limit" in states.values():
        return "rejected"
    return "inconclusive" if "unknown" in states.values() else "accepted"


def worst_value(m: Measurements, name: str) -> float | None:
    """The worst layer's value of a measure, or its one value; NaN wins; None when not measured."""
    value = getattr(m, name)
    if not isinstance(value, dict):
        return value
    if not value:
        return None
    if any(v is None or math.isnan(v) for v in value.values()):
        return math.nan
    high = next(guard.high_is_bad for guard in GUARDS if guard.name == name)
    return max(value.values()) if high else min(value.values())


def _judge_guard(
    guard: Guard, m: Measurements, t: Thresholds, previous: Measurements | None
) -> tuple[GuardState, str | None]:
    value = worst_value(m, guard.name)
    if value is None or math.isnan(value):
        if value is None and not guard.required:
            return "ok", None
        return "unknown", f"{guard.name} is {'missing' if value is None else 'NaN'}; measure again"
    warn, limit = (getattr(t, f"{guard.name}_{kind}") for kind in ("warn", "limit"))
    sign = 1 if guard.high_is_bad else -1
    side = "above" if guard.high_is_bad else "below"
    if sign * value > sign * limit:
        before = None if previous is None else worst_value(previous, guard.name)
        if before is not None and sign * before > sign * limit and sign * value <= sign * before:
            text = f"is {side} the limit {limit:g} but no worse than before ({before:.4g})"
            return "warn", f"{guard.name} = {value:.4g} {text}; {guard.mend}"
        return "limit", f"{guard.name} = {value:.4g} is {side} the limit {limit:g}; {guard.mend}"
    if sign * value > sign * warn:
        return "warn", f"{guard.name} = {value:.4g} is {side} the warning level {warn:g} (limit {limit:g})"
    return "ok", None


def _efficacy_state(m: Measurements) -> GuardState:
    if any(not case.efficacy for case in m.cases.values()):
        return "limit"
    missing = m.efficacy_ratio is None or math.isnan(m.efficacy_ratio)
    return "unknown" if m.cases and missing else "ok"


def _failure(id: str, m: Measurements) -> str:
    case = m.cases[id]
    return (
        f"correction {id} answers {case.answer!r} instead of {case.target!r}; "
        "reword its prompt so that the target follows directly, or give it an update of its own"
    )


def _bad_neighbourhood(m: Measurements, t: Thresholds) -> list[str]:
    limit = t.neighbourhood_ratio_limit
    return [id for id, c in m.cases.items() if c.neighbourhood is not None and c.neighbourhood < limit]
