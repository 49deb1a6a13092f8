"""Which measures are due. Pure: no torch, no clock."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """When the dear measures (an audit: entropy rank, free-generation canaries) are taken again.

    What the guard needs is taken at every update; an audit is due after so many versions or seconds,
    whichever comes first.
    """

    versions: int = 10
    seconds: float = 3600.0


def audit_due(schedule: Schedule, versions_since: int | None, seconds_since: float | None) -> bool:
    """Is an audit due, so many versions and seconds after the last one? None: there was none yet.

    A clock that went backwards (seconds below zero) makes it due: its age is not known.
    """
    if versions_since is None or seconds_since is None or seconds_since < 0:
        return True
    return versions_since >= schedule.versions or seconds_since >= schedule.seconds
