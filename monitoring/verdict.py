"""Judges measurements. Pure: no torch, no clock, no I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from monitoring.measure import Measure
from monitoring.measurements import CaseResult, Measurements
from monitoring.registry import JUDGED, WATCHED, WEAR, measure_named
from monitoring.shares import may_reach
from monitoring.thresholds import Thresholds

Outcome = Literal["accepted", "rejected", "inconclusive"]
State = Literal["ok", "warn", "limit", "unknown"]

#: What a verdict can say of a measure.
STATES: tuple[State, ...] = ("ok", "warn", "limit", "unknown")

#: A measurement older than this, or from the future, says nothing of the version before us, seconds.
STALE_SECONDS = 900.0


@dataclass(frozen=True)
class Verdict:
    """What is to become of a staged version.

    Attributes:
        outcome: accepted, rejected (something is wrong) or inconclusive (something is not known).
        reasons: one sentence for each measure that is not ok.
        blamed: ids of corrections that fail on their own account.
        states: state of each judged measure; an optional one with nothing to measure is ok. Stored JSON has
            them under "guards".
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    blamed: tuple[str, ...]
    states: Mapping[str, State]


def judge(
    m: Measurements, t: Thresholds, previous: Measurements | None = None, now: float | None = None
) -> Verdict:
    """Judges one version.

    Args:
        m: its measurements.
        t: warn and limit of each measure.
        previous: measurements of the version that it would replace. If that version is past a limit too, a
            version that is no worse there passes with a warning. Without this rule nothing could be retracted
            from a damaged model.
        now: seconds since the epoch. If given, measurements that are older than `STALE_SECONDS`, or have no
            time, decide nothing.

    Returns:
        Rejected when a limit is passed or a correction does not answer; else inconclusive when a required
        measure is missing, any is NaN or all are stale; else accepted. A share is past its limit only when
        its binomial bound is too (monitoring.shares). Stored measurements without counts have no bound.
    """
    if now is not None and not _fresh(m, now):
        when = "at an unknown time" if m.measured_at is None else f"{now - m.measured_at:.0f} s ago"
        told = f"measured {when}, not within the last {STALE_SECONDS:.0f} s; measure again"
        return Verdict("inconclusive", (told,), (), dict.fromkeys(JUDGED, "unknown"))
    states: dict[str, State] = {}
    reasons: list[str] = []
    for measure in WATCHED:
        state, reason = _judge(measure, m, t, previous)
        states[measure.name] = state
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


def worn(states: Mapping[str, str]) -> list[str]:
    """Of the measures of wear, those past a warning."""
    return [name for name in WEAR if states.get(name) in ("warn", "limit")]


def worst_value(m: Measurements, name: str) -> float | None:
    """The worst layer's value of a measure, or its one value; NaN wins; None when not measured."""
    value: dict[int, float] | float | None = getattr(m, name)
    if not isinstance(value, dict):
        return value
    if not value:
        return None
    if any(math.isnan(v) for v in value.values()):
        return math.nan
    return max(value.values()) if measure_named(name).high_is_bad else min(value.values())


def shown(m: Measurements, name: str) -> str:
    """A measure's worst value for people: "8 of 9" where cases were counted."""
    value, counted = worst_value(m, name), m.counted(name)
    if value is None:
        return "not measured"
    if counted is None:
        return f"{value:.4g}"
    # The share of paraphrases is a mean over cases, which need not be the share of all paraphrases.
    alike = math.isclose(counted.share, value, abs_tol=1e-9)
    return str(counted) if alike else f"{value:.4g} ({counted} in all)"


def _fresh(m: Measurements, now: float) -> bool:
    return m.measured_at is not None and 0 <= now - m.measured_at <= STALE_SECONDS


def _outcome(states: Mapping[str, State]) -> Outcome:
    if "limit" in states.values():
        return "rejected"
    return "inconclusive" if "unknown" in states.values() else "accepted"


def _judge(
    measure: Measure, m: Measurements, t: Thresholds, previous: Measurements | None
) -> tuple[State, str | None]:
    name, bounds, value = measure.name, t[measure.name], worst_value(m, measure.name)
    if value is None or math.isnan(value):
        if value is None and not measure.required:
            return "ok", None
        return "unknown", f"{name} is {'missing' if value is None else 'NaN'}; measure again"
    side = "above" if measure.high_is_bad else "below"
    told = f"{name} = {shown(m, name)} is {side} the"
    if measure.worse(value, bounds.limit):
        if not _past(measure, m, bounds.limit):
            why = "so few cases may fall below it by chance"
            return "warn", f"{told} limit {bounds.limit:g}, but {why}; watch it, or {measure.mend}"
        if previous is not None and _no_worse(measure, value, previous, bounds.limit):
            before = shown(previous, name)
            return (
                "warn",
                f"{told} limit {bounds.limit:g} but no worse than before ({before}); {measure.mend}",
            )
        return "limit", f"{told} limit {bounds.limit:g}; {measure.mend}"
    if measure.worse(value, bounds.warn):
        return "warn", f"{told} warning level {bounds.warn:g} (limit {bounds.limit:g})"
    return "ok", None


def _past(measure: Measure, m: Measurements, limit: float) -> bool:
    """Is the measure past its limit, and its binomial bound too where cases were counted?"""
    value, counted = worst_value(m, measure.name), m.counted(measure.name)
    if value is None or not measure.worse(value, limit):
        return False
    return counted is None or not may_reach(counted, limit)


def _no_worse(measure: Measure, value: float, previous: Measurements, limit: float) -> bool:
    """Was the previous version past the limit too, and at least as far?"""
    before = worst_value(previous, measure.name)
    return before is not None and _past(measure, previous, limit) and not measure.worse(value, before)


def _efficacy_state(m: Measurements) -> State:
    if any(not case.efficacy for case in m.cases.values()):
        return "limit"
    missing = m.efficacy_ratio is None or math.isnan(m.efficacy_ratio)
    return "unknown" if m.cases and missing else "ok"


def _failure(id: str, m: Measurements) -> str:
    case = m.cases[id]
    missed = [
        f"{form.answer!r} in form {name!r}"
        for name, form in case.forms.items()
        if form.required and not form.said
    ]
    told = " and ".join(missed) or repr(case.answer)
    return f"correction {id} answers {told} instead of {case.target!r}; {_mend(case)}"


def _mend(case: CaseResult) -> str:
    bare = case.forms.get("prompt")
    if bare is not None and bare.said:
        return "post a question for it (questions), or set FACTD_REQUIRE_FORMS=prompt"
    return "reword its prompt so that the target follows directly, or give it an update of its own"


def _bad_neighbourhood(m: Measurements, t: Thresholds) -> list[str]:
    limit = t["neighbourhood_ratio"].limit
    return [id for id, c in m.cases.items() if c.neighbourhood is not None and c.neighbourhood < limit]
