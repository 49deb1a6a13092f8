"""Errors of the daemon package.

DaemonError                   anything below; `retryable` says whether the same call may succeed later
├── SettingsError             the environment holds a setting that cannot be used
├── CorrectionError           a correction cannot be taken as given: every problem with field, value and mend
├── RefusedError              a message from the queue was refused; carries text only, so it survives JSON
├── BusyError                 intake takes no more now; `seconds` says when to come again (retryable)
│   ├── QueueFullError        the queue is full: no further correction may wait
│   └── RateError             a token asks for more than its rate
├── LedgerError               the ledger refuses a change
│   ├── UnknownIdError        no correction, version or operation of that name
│   ├── ConflictError         an id or idempotency key comes back with other content
│   ├── LedgerGoneError      its file was deleted or replaced while factd ran
│   ├── TransitionError       a state change that the lifecycle does not allow
│   ├── FourEyesError         who posted a correction may not approve it
│   └── LedgerVersionError    the ledger was made by a newer factd
├── LeaseError                the single-writer lease
│   ├── LeaseHeldError        another applier holds it (retryable)
│   └── LeaseLostError        a newer applier took it; this one must stop at once
├── StoreError                a version on disk is missing, damaged or does not fit
├── ClientError               our HTTP API refuses a request of a client
├── ExportError               a checkpoint cannot be written where it was asked for
└── PublishError              replicas do not serve what they were told to serve (retryable)
    ├── SlowError             the replicas that were left took too long
    ├── ProofError            a replica serves the version but computes something else
    ├── CondemnedError        a rollback was asked for while a version was on the canary only
    └── SoakStoppedError      the applier was told to stop while a version was on the canary only
"""

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.core.actors import ActorKind, actor_kind

#: An error lists so many problems. Whoever has mended twenty posts again and sees the next.
PROBLEMS_SHOWN = 20


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

    Its text lists the first PROBLEMS_SHOWN problems and counts the rest.

    Attributes:
        problems: everything that is wrong, not only the first.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.shown]
        super().__init__("\n".join([*lines, f"and {self.more} more problems"] if self.more else lines))

    @property
    def shown(self) -> tuple[Problem, ...]:
        """The problems that somebody is shown: a file of 50,000 bad lines has 50,000."""
        return self.problems[:PROBLEMS_SHOWN]

    @property
    def more(self) -> int:
        """How many problems are not shown."""
        return max(0, len(self.problems) - PROBLEMS_SHOWN)


class RefusedError(DaemonError):
    """Raised by the submit task when the message is refused."""


class BusyError(DaemonError):
    """Base of errors that go away by waiting; nothing was recorded.

    Attributes:
        seconds: until the same call may succeed.
    """

    retryable = True

    def __init__(self, what: str, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(what)


class QueueFullError(BusyError):
    """Raised when the queue is full: no further correction may wait."""

    def __init__(self, waiting: int, most: int, seconds: float) -> None:
        super().__init__(
            f"the queue is full: {waiting} corrections wait, and {most} may; nothing was recorded. "
            f"Post again in {seconds:.0f} s, send fewer at once, see why in `factd status`, or raise "
            "FACTD_MAX_PENDING",
            seconds,
        )


class RateError(BusyError):
    """Raised when a token asks for more than its rate."""

    def __init__(self, what: str, rate: str, setting: str, seconds: float) -> None:
        super().__init__(
            f"this token may send {what} at a rate of {rate}; nothing was recorded. "
            f"Come again in {seconds:.1f} s, or raise {setting}",
            seconds,
        )


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


class LedgerGoneError(LedgerError):
    """Raised when the ledger's file was deleted or replaced while this process, or its `factd up`, ran.

    Nothing may go on then: an empty ledger in its place would say that no fact is live.
    """

    def __init__(self, file: str, what: str) -> None:
        super().__init__(
            f"the ledger {file} {what} while factd ran; nothing is taken or applied any more. Stop factd, "
            "put the state directory back (docs/operating.md), and start it again"
        )


class TransitionError(LedgerError):
    """Raised when the lifecycle does not allow a change of state."""


class FourEyesError(LedgerError):
    """Raised when somebody approves what they posted themselves.

    Attributes:
        id: of the correction.
        reviewer: who asked.
    """

    def __init__(self, id: str, reviewer: str) -> None:
        self.id, self.reviewer = id, reviewer
        super().__init__(
            f"correction {id} was posted by {reviewer}, who may not approve it; somebody else has to, with "
            "another token (docs/trust.md), or reject it"
        )


class LedgerVersionError(LedgerError):
    """Raised when a newer factd has changed the tables of the ledger.

    Attributes:
        found: revision of the ledger.
        newest: the last one that this code knows.
    """

    def __init__(self, found: str, newest: str) -> None:
        self.found, self.newest = found, newest
        super().__init__(
            f"the ledger has revision {found!r}, this factd knows revisions up to {newest!r}; "
            "install the factd that changed it, or restore a copy from before"
        )


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


class ExportError(DaemonError):
    """Raised when a checkpoint cannot be written: its directory is in use, or its dtype is too narrow."""


class PublishError(DaemonError):
    """Raised when a replica does not serve the version it was told to serve."""

    retryable = True


class SlowError(PublishError):
    """Raised when no replica is left, and the last ones were taken out for being too slow."""


class ProofError(PublishError):
    """Raised when a replica's log-probabilities are not those of the model in memory."""

    retryable = False


class CondemnedError(PublishError):
    """Raised when a rollback is asked for while a version is on the canary only.

    Attributes:
        operation: number of the operation that asks for it.
        alert: True when an alert asked for it, False for an operator.
    """

    retryable = False

    def __init__(self, operation: int, actor: str, why: str | None) -> None:
        self.operation, self.alert = operation, actor_kind(actor) is ActorKind.ALERT
        super().__init__(f"{actor} asked for a rollback: {why or 'no reason given'}")


class SoakStoppedError(PublishError):
    """Raised when the applier is told to stop while a version is on the canary only."""


class ClientError(DaemonError):
    """Raised when the HTTP API refuses a request.

    Attributes:
        status: HTTP status.
        text: what the API says.
    """

    def __init__(self, status: int, text: str) -> None:
        self.status, self.text = status, text
        super().__init__(f"the API answers {status}: {text}")
