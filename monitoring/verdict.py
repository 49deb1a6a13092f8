"""Judges measurements. Pure: no torch, no clock, no I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from monitoring.measurements import Measurements

Outcome = Literal["accepted", "rejected", "inconclusive"]
GuardState = Literal["ok", "warn", "limit", "unknown"]

GUARD_STATES: tuple[GuardState, ...] = ("ok", "warn", "limit", "unknown")


@dataclass(frozen=True)
class Thresholds:
    """Where a measure warns and where it stops a version. Relative to the base model.

    "high" measures must stay below, "low" ones above. These are floors: what the product promises
    (perplexity within a fifth, retention within ten points) and, for the weights, levels well before the
    published signatures of collapse (norms beyond 10 times the base's, LS near chance). The thresholds
    in force are never tighter than the noise that the unedited model itself shows (`calibrated`).
    """

    #: Healthy edited weights stay within a few per cent; 1.5 is far before answers fall apart.
    weight_norm_ratio_warn: float = 1.2
    weight_norm_ratio_limit: float = 1.5
    #: One direction may grow faster than the whole. Recorded: of all measures this warned first when plain
    #: MEMIT wore a model out, after 20 of 400 edits; 500 good edits bring it to 1.06.
    spectral_norm_ratio_warn: float = 1.25
    spectral_norm_ratio_limit: float = 1.5
    #: Recorded (docs/experiments.md): 500 good edits of a small model bring LS down to 0.5 with answers and
    #: perplexity within their limits, so that it only stops what the others have missed.
    subspace_similarity_warn: float = 0.6
    subspace_similarity_limit: float = 0.4
    #: Nats by which unrelated next tokens have moved. Recorded: 0.16 after 500 good edits; 0.19 where
    #: perplexity was 1.4 times the base's, 0.65 where it was 1.5 times.
    probe_kl_nats_warn: float = 0.2
    probe_kl_nats_limit: float = 0.3
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
    #: The measures below warn only, until recorded streams say at what level models fall apart.
    #: A quarter of a small sample of the oldest facts.
    retention_oldest_ratio_warn: float = 0.75
    retention_oldest_ratio_limit: float = 0.0
    #: Published: activation norms fall before collapse, and their subspace moves.
    activation_norm_ratio_warn: float = 0.9
    activation_norm_ratio_limit: float = 0.0
    activation_subspace_similarity_warn: float = 0.8
    activation_subspace_similarity_limit: float = 0.0
    #: A free answer may depart from the base's after some words and be as good.
    canary_ratio_warn: float = 0.5
    canary_ratio_limit: float = 0.0


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
    Guard("retention_oldest_ratio", False, False, "compact"),
    Guard("activation_norm_ratio", False, False, _UNDO),
    Guard("activation_subspace_similarity", False, False, _UNDO),
    Guard("canary_ratio", False, False, _UNDO),
)

#: Names a guard can have as a metric label.
GUARD_NAMES: tuple[str, ...] = (*(guard.name for guard in GUARDS), "efficacy_ratio")


#: Measures of the model as a whole: beyond a warning it is worn, whoever came last.
WEAR = (
    "weight_norm_ratio",
    "spectral_norm_ratio",
    "subspace_similarity",
    "probe_kl_nats",
    "probe_perplexity_ratio",
    "retention_ratio",
)


def worn(guards: Mapping[str, str]) -> list[str]:
    """Of `WEAR`, what the guards' states put beyond a warning."""
    return [name for name in WEAR if guards.get(name) in ("warn", "limit")]


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


#: A measurement older than this, or from the future, says nothing of the version before us, seconds.
STALE_SECONDS = 900.0

#: A measure warns at twice and stops at four times the noise of the unedited model, unless its floor lies
#: further out: noise alone then stops one version in many thousands.
WARN_NOISES, LIMIT_NOISES = 2.0, 4.0

#: Shares of a few cases move by whole cases: their quantile is rare enough and is not multiplied.
_COUNTED = ("retention_ratio", "retention_oldest_ratio")


def calibrated(noise: Mapping[str, float], floors: Thresholds | None = None) -> Thresholds:
    """The thresholds in force: of each measure the further out of its floor and of multiples of its noise.

    Args:
        noise: measure → how far from its healthy value (1, or 0 for measures in nats) the unedited model's
            noise carries it, at the quantile chosen (monitoring.measuring.calibration).
        floors: `Thresholds()` unless given.
    """
    floors = floors or Thresholds()
    found: dict[str, float] = {}
    for guard in GUARDS:
        if guard.name not in noise:
            continue
        healthy = 0.0 if guard.name.endswith("_nats") else 1.0
        sign, further = (1, max) if guard.high_is_bad else (-1, min)
        for kind, noises in (("warn", WARN_NOISES), ("limit", LIMIT_NOISES)):
            name, times = f"{guard.name}_{kind}", 1.0 if guard.name in _COUNTED else noises
            found[name] = further(getattr(floors, name), healthy + sign * times * noise[guard.name])
    return replace(floors, **found)


def judge(
    m: Measurements, t: Thresholds, previous: Measurements | None = None, now: float | None = None
) -> Verdict:
    """Judges one version.

    Args:
        m: its measurements.
        t: warn and limit of each measure.
        previous: measurements of the version it would replace. Where that one was past a limit too,
            a version that is no worse there is let through with a warning: or else nothing could be
            retracted from a damaged model.
        now: seconds since the epoch; when given, measurements older than `STALE_SECONDS` or without a
            time decide nothing.

    Returns:
        Rejected when a limit is passed or a correction does not answer; else inconclusive when a
        required measure is missing, any is NaN or all are stale; else accepted.
    """
    if now is not None and not _fresh(m, now):
        when = "at an unknown time" if m.measured_at is None else f"{now - m.measured_at:.0f} s ago"
        return Verdict(
            "inconclusive",
            (f"measured {when}, not within the last {STALE_SECONDS:.0f} s; measure again",),
            (),
            dict.fromkeys(GUARD_NAMES, "unknown"),
        )
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


def _fresh(m: Measurements, now: float) -> bool:
    return m.measured_at is not None and 0 <= now - m.measured_at <= STALE_SECONDS


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
