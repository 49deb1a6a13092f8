"""Errors of the daemon package.

DaemonError                   anything below; `retryable` says whether the same call may succeed later
├── SettingsError             the environment holds a setting that cannot be used
├── CorrectionError           a correction cannot be taken as given: every problem with field, value and mend
├── RefusedError              a message from the queue was refused; carries text only, so it survives JSON
├── LedgerError               the ledger refuses a change
│   ├── UnknownIdError        no correction, version or operation of that name
│   ├── ConflictError         an id or idempotency key comes back with other content
│   └── TransitionError       a state change that the lifecycle does not allow
├── LeaseError                the single-writer lease
│   ├── LeaseHeldError        another applier holds it (retryable)
│   └── LeaseLostError        a newer applier took it; this one must stop at once
├── StoreError                a version on disk is missing, damaged or does not fit
└── PublishError              replicas do not serve what they were told to serve (retryable)
    └── ProofError            a replica serves the version but computes something else
"""

from collections.abc import Sequence
from dataclasses import dataclass


class DaemonError(Exception):
    """Base of all errors raised on purpose by `daemon`."""

    retryable = False


class SettingsError(DaemonError):
    """Raised when a setting cannot be used."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a message.

    Attributes:
        field: path of the field, e.g. ``"neighbours.0.answer"``; ``""`` for the message as a whole.
        value: its value, shortened for display.
        mend: what to change.
        line: line of the file (from 1), None for a single message.
    """

    field: str
    value: str
    mend: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line is not None else ""
        return f"{where}{self.field or 'message'} = {self.value}: {self.mend}"


class CorrectionError(DaemonError):
    """Raised when one or more corrections cannot be taken; nothing of the input was recorded.

    Attributes:
        problems: everything that is wrong, not only the first.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RefusedError(DaemonError):
    """Raised by the submit task when the message is refused."""


class LedgerError(DaemonError):
    """Base of errors raised by the ledger."""


class UnknownIdError(LedgerError):
    """Raised when no correction, version or operation has the id.

    Attributes:
        id: what was asked for.
    """

    def __init__(self, kind: str, id: str) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"no {kind} {id!r}; `factd status` and `factd versions` list what there is")


class ConflictError(LedgerError):
    """Raised when an id or idempotency key comes back with other content.

    Attributes:
        field: ``"id"`` or ``"key"``.
        value: the id or key.
        existing: id of the correction that has it.
    """

    def __init__(self, field: str, value: str, existing: str) -> None:
        self.field, self.value, self.existing = field, value, existing
        super().__init__(
            f"{field} = {value!r} was used before for another content (correction {existing}); "
            f"send a new {field} for a new correction, or the same content to repeat the old one"
        )


class TransitionError(LedgerError):
    """Raised when the lifecycle does not allow a change of state."""


class LeaseError(DaemonError):
    """Base of errors about the single-writer lease."""


class LeaseHeldError(LeaseError):
    """Raised when another applier holds the lease.

    Attributes:
        holder: who holds it.
        seconds: until it expires unless renewed.
    """

    retryable = True

    def __init__(self, holder: str, seconds: float) -> None:
        self.holder, self.seconds = holder, seconds
        super().__init__(
            f"{holder} is applying (lease good for {seconds:.0f} s more); wait or stop that process"
        )


class LeaseLostError(LeaseError):
    """Raised when a newer applier took the lease; nothing may be written any more."""


class StoreError(DaemonError):
    """Raised when a version on disk is missing, damaged or does not fit the model."""


class PublishError(DaemonError):
    """Raised when a replica does not serve the version it was told to serve."""

    retryable = True


class ProofError(PublishError):
    """Raised when a replica's log-probabilities are not those of the model in memory."""

    retryable = False
