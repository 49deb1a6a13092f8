"""Which measures are due. Pure: no torch, no clock."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """When the deep measures (entropy rank, free answers to probes) are taken again.

    What the guard needs is taken at every update. Deep measures are dear: they are due after so many versions
    or seconds, whichever comes first.
    """

    versions: int = 10
    seconds: float = 3600.0


def deep_due(schedule: Schedule, versions_since: int | None, seconds_since: float | None) -> bool:
    """Are deep measures due, so many versions and seconds after the last ones? None: there were none yet.

    A clock that went backwards (seconds below zero) makes them due: their age is not known.
    """
    if versions_since is None or seconds_since is None or seconds_since < 0:
        return True
    return versions_since >= schedule.versions or seconds_since >= schedule.seconds
