"""Rows of the ledger as values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NotRequired, TypedDict

from daemon.core.actors import ActorKind
from daemon.core.lifecycle import OperationKind, OperationState, ReasonCode, State, VersionState
from daemon.core.text import composed
from daemon.ledger.tables import corrections, operations, versions


class FormAnswer(TypedDict):
    """What was asked in one form, and what the served model said before the correction and after it."""

    asked: str
    before: NotRequired[str]
    after: NotRequired[str]


#: name of a form (`editing.forms.Form.name`) → what was asked and said. The bare prompt has its own columns
Answers = Mapping[str, FormAnswer]


@dataclass(frozen=True)
class CorrectionRow:
    """A correction as the ledger knows it. Times are unix seconds.

    Attributes:
        seq: the order in which corrections take effect: in which they came, or in which their time came.
        answers: what the served model said in chat.
        lost: of a live fact that was not said when it was last asked: name of the form → what was said.
    """

    id: str
    seq: int
    subject: str
    prompt: str
    target: str
    state: State
    key: str | None = None
    was: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[dict[str, str], ...] = ()
    source: str | None = None
    priority: int = 0
    reason: str | None = None
    code: ReasonCode | None = None
    version: str | None = None
    superseded_by: str | None = None
    attempts: int = 0
    batch_limit: int | None = None
    not_before: float = 0.0
    received_at: float = 0.0
    live_at: float | None = None
    before: str | None = None
    after: str | None = None
    questions: tuple[str, ...] = ()
    answers: Answers = field(default_factory=dict[str, FormAnswer])
    lost: Mapping[str, str] = field(default_factory=dict[str, str])
    valid_from: float | None = None
    valid_until: float | None = None
    content_hash: str = ""
    score: float | None = None
    findings: tuple[dict[str, Any], ...] = ()
    reviewed_by: str | None = None
    aliases: tuple[str, ...] = ()
    consequences: dict[str, Any] | None = None
    parent: str | None = None
    following: str | None = None

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def slot(self) -> tuple[str, str]:
        """Two corrections of one slot contradict or repeat each other."""
        return composed(self.subject), composed(self.prompt)

    @property
    def post_to_live_seconds(self) -> float | None:
        """From the moment from which it could go live."""
        return None if self.live_at is None else self.live_at - max(self.received_at, self.valid_from or 0.0)


class Candidate(NamedTuple):
    """What planning a batch needs of a correction. Thousands are read for each batch, so they are lean."""

    id: str
    seq: int
    subject: str
    prompt: str
    target: str
    priority: int = 0
    attempts: int = 0
    batch_limit: int | None = None
    not_before: float = 0.0
    received_at: float = 0.0
    valid_until: float | None = None

    @property
    def slot(self) -> tuple[str, str]:
        """Two corrections of one slot contradict or repeat each other."""
        return composed(self.subject), composed(self.prompt)

    def repeats(self, fact: "Candidate") -> bool:
        """Whether a live fact of the slot says the same until the same time."""
        return (self.target, self.valid_until) == (fact.target, fact.valid_until)


@dataclass(frozen=True)
class Coming:
    """A change that the clock will bring about.

    Attributes:
        change: what happens to the correction then: "live" or "leaves".
    """

    id: str
    subject: str
    target: str
    change: str
    at: float


@dataclass(frozen=True)
class VersionRow:
    """A version as the ledger knows it."""

    id: str
    parent: str | None
    state: VersionState
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    operation: int | None = None
    attempts: int = 0
    fence: int = 0
    created_at: float = 0.0
    live_at: float | None = None
    reason: str | None = None
    code: ReasonCode | None = None
    verdict: dict[str, Any] | None = None
    measurements: dict[str, Any] | None = None


@dataclass(frozen=True)
class OperationRow:
    """Something an operator asked for, and what became of it."""

    id: int
    kind: OperationKind
    target: str | None
    actor: str
    why: str | None
    state: OperationState
    actor_kind: ActorKind = ActorKind.OPERATOR
    reason: str | None = None
    attempts: int = 0
    created_at: float = 0.0
    finished_at: float | None = None


@dataclass(frozen=True)
class TransitionRow:
    """One change of state. `kind`: correction, version or operation.

    Steps of the guard are rows too: `kind` is guard, `id` the version, correction or operation concerned,
    `old` what was judged (staged or live), `new` the step.
    """

    seq: int
    kind: str
    id: str
    old: str | None
    new: str
    at: float
    reason: str | None
    actor: str
    hash: str


@dataclass(frozen=True)
class Sign:
    """What is known of the workers of one kind.

    Attributes:
        seen_at: when one of them last gave a sign of life; None when none ever did, or the last one said
            that it stops.
    """

    alive: bool
    seen_at: float | None


@dataclass(frozen=True)
class LedgerStatus:
    """What the status page and the metrics show, read in one transaction.

    Attributes:
        ended: end of a correction's life → how often one has come to it, also those that left it again.
        steps: step of the guard's ladder → how often it was taken.
        watched_at: when the live version was last measured again; None before the first time.
        forecast: what `daemon.apply.ladder.Foresee` said of the live version, or of the one before.
        workers: kind of worker → its sign of life.
        background: how far work in the background is; None when none runs.
        disproved: replica that does not compute the version that it says → why.
        coming: the next corrections that go live or leave by the clock, the nearest first.
        scheduled: how many wait for their time.
    """

    live: str
    paused: dict[str, Any] | None
    counts: dict[str, int]
    pending: int
    oldest_pending_seconds: float | None
    last_live_at: float | None
    measurements: dict[str, Any] | None
    verdict: dict[str, Any] | None
    rollbacks: dict[str, int]
    nas_skipped: int
    operations_pending: int
    ended: dict[str, int] = field(default_factory=dict[str, int])
    steps: dict[str, int] = field(default_factory=dict[str, int])
    last_step: TransitionRow | None = None
    watched_at: float | None = None
    forecast: dict[str, Any] | None = None
    workers: Mapping[str, Sign] = field(default_factory=dict[str, Sign])
    background: dict[str, Any] | None = None
    disproved: Mapping[str, str] = field(default_factory=dict[str, str])
    coming: tuple[Coming, ...] = ()
    scheduled: int = 0


#: columns of whole rows, in the tables' order
_CORRECTION = tuple(corrections.columns.keys())
_VERSION, _OPERATION = tuple(versions.columns.keys()), tuple(operations.columns.keys())


def correction_row(row: Iterable[Any]) -> CorrectionRow:
    fields = dict(zip(_CORRECTION, row, strict=True))
    fields["state"], fields["code"] = State(fields["state"]), _code(fields["code"])
    for name in ("paraphrases", "neighbours", "questions", "findings", "aliases"):
        fields[name] = tuple(fields[name] or ())
    for name in ("answers", "lost"):
        fields[name] = fields[name] or {}
    return CorrectionRow(**fields)


def version_row(row: Iterable[Any]) -> VersionRow:
    fields = dict(zip(_VERSION, row, strict=True))
    fields["state"], fields["code"] = VersionState(fields["state"]), _code(fields["code"])
    fields["added"], fields["removed"] = tuple(fields["added"]), tuple(fields["removed"])
    return VersionRow(**fields)


def operation_row(row: Iterable[Any]) -> OperationRow:
    fields = dict(zip(_OPERATION, row, strict=True))
    fields["kind"], fields["state"] = OperationKind(fields["kind"]), OperationState(fields["state"])
    fields["actor_kind"] = ActorKind(fields["actor_kind"])
    return OperationRow(**fields)


def _code(stored: str | None) -> ReasonCode | None:
    return None if stored is None else ReasonCode(stored)
