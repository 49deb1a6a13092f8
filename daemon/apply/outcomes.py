"""How a piece of the applier's work ended: it went, it was refused, or the run is held."""

from dataclasses import dataclass

from daemon.core.ruling import Ruling


@dataclass(frozen=True)
class Went:
    """It is done, or there was nothing to do. The run goes on."""


@dataclass(frozen=True)
class Refused:
    """A version was given up, with the reason in the ledger. The run goes on with what else waits.

    Attributes:
        ruling: the guard's; None when the editor, a replica or an operator was the cause.
    """

    reason: str
    ruling: Ruling | None = None


@dataclass(frozen=True)
class Held:
    """It could not be finished now. The run ends here, and the next one tries again."""

    reason: str


Ended = Went | Refused | Held
