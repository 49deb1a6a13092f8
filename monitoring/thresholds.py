"""Where each measure warns and stops a version: the registry's bounds, the model's noise, the settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from monitoring.measure import Bounds
from monitoring.registry import FLOORS, WATCHED

#: In units of the unedited model's noise, how far out a warning and a limit lie at least. Noise alone then
#: stops one version in many thousands.
WARN_NOISES, LIMIT_NOISES = 2.0, 4.0


@dataclass(frozen=True)
class Thresholds:
    """The bounds in force of every watched measure, by its name."""

    bounds: Mapping[str, Bounds] = field(default_factory=lambda: dict(FLOORS))

    def __getitem__(self, name: str) -> Bounds:
        return self.bounds[name]

    def overridden(self, levels: Mapping[str, float]) -> "Thresholds":
        """The same with some levels set on purpose, by the names of `as_settings`.

        Raises:
            ValueError: a name is unknown.
        """
        known = self.as_settings()
        if unknown := sorted(set(levels) - set(known)):
            raise ValueError(f"{', '.join(unknown)}: no such threshold; there are {', '.join(sorted(known))}")
        found = known | dict(levels)
        return Thresholds({n: Bounds(found[f"{n}_warn"], found[f"{n}_limit"]) for n in self.bounds})

    def as_settings(self) -> dict[str, float]:
        """Names as FACTD_THRESHOLDS has them → levels: `probe_kl_nats_warn`, `probe_kl_nats_limit`, …"""
        found: dict[str, float] = {}
        for name, bounds in self.bounds.items():
            found |= {f"{name}_warn": bounds.warn, f"{name}_limit": bounds.limit}
        return found


def calibrated(noise: Mapping[str, float], floors: Thresholds | None = None) -> Thresholds:
    """The thresholds for a model with this noise.

    Each measure has a floor for its warning and one for its limit. Where the unedited model itself varies
    more than that, twice its noise replaces the warning's floor, and four times its noise the limit's.

    Args:
        noise: measure → how far the unedited model's noise carries it from its healthy value, at the quantile
            of monitoring.measuring.calibration.
        floors: `Thresholds()` unless given.
    """
    floors = floors or Thresholds()
    found = dict(floors.bounds)
    for measure in WATCHED:
        if measure.name not in noise:
            continue
        # Shares of few cases move by whole cases: their quantile is rare enough as it is.
        times = (1.0, 1.0) if measure.kind == "share" else (WARN_NOISES, LIMIT_NOISES)
        sign, further = (1, max) if measure.high_is_bad else (-1, min)
        warn, limit = (measure.healthy + sign * each * noise[measure.name] for each in times)
        floor = floors[measure.name]
        found[measure.name] = Bounds(further(floor.warn, warn), further(floor.limit, limit))
    return Thresholds(found)
