"""What the applier asks of monitoring: measure, judge, look ahead."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from daemon.apply.trust.screening import Screen
from daemon.ledger.rows import CorrectionRow
from monitoring.verdict import Verdict


class Measured(Protocol):
    """What `measure` returns (monitoring.measurements.Measurements)."""

    def to_json(self) -> dict[str, Any]: ...


#: (batch, earlier facts, largest ‖v*‖ over the anchor in the batch) → measurements
Measure = Callable[[Sequence[CorrectionRow], Sequence[CorrectionRow], float | None], Measured]
#: (measurements, those of the live version as stored; None to judge the live one itself) → verdict
Judge = Callable[[Any, dict[str, Any] | None], Verdict]
#: (edits so far, measurements) of versions since the last compaction → monitoring.forecast.to_json, and
#: `known`: whether there were enough of them
Foresee = Callable[[Sequence[tuple[int, dict[str, Any]]]], dict[str, Any]]


class Monitoring(NamedTuple):
    """Measures a staged or the live version, judges it, and forecasts the next ones.

    Attributes:
        screen: asks the model of a correction before it is written; None without sources.
    """

    measure: Measure
    judge: Judge
    foresee: Foresee
    screen: Screen | None = None
