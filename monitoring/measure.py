"""What is known of one watched number, whatever its value. No torch here."""

from dataclasses import dataclass
from typing import Literal

#: Prefix of every metric.
PREFIX = "factd_"

Kind = Literal["layer", "scalar", "share"]
Unit = Literal["ratio", "share", "nats"]


@dataclass(frozen=True)
class Bounds:
    """Where a measure warns, and beyond which value it stops a version."""

    warn: float
    limit: float


@dataclass(frozen=True)
class Measure:
    """One watched number.

    Attributes:
        name: its field in stored measurements; `factd_` before it gives the metric.
        kind: "layer" has a value for each layer; "scalar" one value a version; "share" one value a version
            that counts cases, stored with how many were asked.
        meaning: help text of its metric.
        title: heading of its panel, where the meaning is too long for one.
        high_is_bad: whether it rises when a model is damaged; else it falls.
        healthy: its value on the unedited model.
        bounds: relative to the base model, before calibration; None: nothing is refused for it.
        required: a version cannot be accepted without it.
        mend: what to do when it stops a version.
        wear: it describes the model as a whole. Past its warning the model is worn, whoever edited last.
        of_batch: it describes the version's own corrections, not the model.
        deep: dear; taken every so many versions or hours (monitoring.measuring.schedule), empty in between.
        unit: what its numbers are.
        wide: it grows by orders of magnitude, so that plots use a logarithmic axis.
        alert: the alert of deploy/prometheus/rules.yml that watches it.
    """

    name: str
    kind: Kind
    meaning: str
    title: str = ""
    high_is_bad: bool = True
    healthy: float = 1.0
    bounds: Bounds | None = None
    required: bool = False
    mend: str = ""
    wear: bool = False
    of_batch: bool = False
    deep: bool = False
    unit: Unit = "ratio"
    wide: bool = False
    alert: str | None = None

    @property
    def metric(self) -> str:
        """Name of the Prometheus metric."""
        return PREFIX + self.name

    @property
    def heading(self) -> str:
        """Heading of its panel."""
        return self.title or self.meaning.rstrip(".")

    def worse(self, one: float, other: float) -> bool:
        """Is `one` further on the bad side than `other`? False where either is NaN."""
        return one > other if self.high_is_bad else one < other
