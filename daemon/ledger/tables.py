"""Tables of the ledger and their rows as values. A change here needs a script in `daemon/migrations`."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from daemon.core.lifecycle import OperationKind, OperationState, State, VersionState
from daemon.ledger.chain import storable

#: row of `control` with the end of the transitions' chain
HEAD = "head"


class Words(TypeDecorator[str]):
    """Text of any kind: a character that a database cannot hold is no reason to lose the row."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else storable(value)


class Name(Words):
    """The same for short texts."""

    impl = String
    cache_ok = True


metadata = MetaData()

corrections = Table(
    "corrections",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", Name(200), nullable=False, unique=True),
    Column("key", Name(200), unique=True),
    Column("content_hash", String(64), nullable=False),
    Column("subject", Words, nullable=False),
    Column("prompt", Words, nullable=False),
    Column("target", Words, nullable=False),
    Column("was", Words),
    Column("paraphrases", JSON, nullable=False),
    Column("neighbours", JSON, nullable=False),
    Column("source", Words),
    Column("priority", Integer, nullable=False),
    Column("state", Name(20), nullable=False),
    Column("reason", Words),
    Column("version", Name(20)),
    Column("superseded_by", Name(200)),
    Column("attempts", Integer, nullable=False, default=0),
    Column("batch_limit", Integer),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("received_at", Float, nullable=False),
    Column("live_at", Float),
    Column("before", Words),
    Column("after", Words),
    Index("corrections_state", "state", "seq"),
    # The subject alone: a prompt may be longer than an index row of PostgreSQL.
    Index("corrections_subject", "subject"),
    sqlite_autoincrement=True,
)
# A post with a known idempotency key under a new id is the same correction: the new id points to it.
aliases = Table(
    "aliases",
    metadata,
    Column("id", Name(200), primary_key=True),
    Column("correction", Name(200), ForeignKey("corrections.id"), nullable=False),
)
transitions = Table(
    "transitions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    # Plain types, but for the id that is looked for: `chain.extend` has made the texts storable.
    Column("kind", String(20), nullable=False),
    Column("id", Name(200), nullable=False),
    Column("old", String(20)),
    Column("new", String(20), nullable=False),
    Column("at", Float, nullable=False),
    Column("reason", Text),
    Column("actor", String(200), nullable=False),
    # The link to the row before, see `chain`. Triggers of both databases refuse changes and deletions.
    Column("hash", String(64), nullable=False, server_default=""),
    Index("transitions_id", "kind", "id"),
    sqlite_autoincrement=True,
)
versions = Table(
    "versions",
    metadata,
    Column("id", Name(20), primary_key=True),
    Column("parent", Name(20)),
    Column("state", Name(20), nullable=False),
    Column("added", JSON, nullable=False),
    Column("removed", JSON, nullable=False),
    Column("operation", Integer),
    Column("attempts", Integer, nullable=False, default=0),
    Column("fence", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("live_at", Float),
    Column("reason", Words),
    Column("verdict", JSON),
    Column("measurements", JSON),
)
operations = Table(
    "operations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", Name(20), nullable=False),
    Column("target", Name(200)),
    Column("actor", Name(200), nullable=False),
    Column("why", Words),
    Column("state", Name(20), nullable=False),
    Column("reason", Words),
    Column("attempts", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    sqlite_autoincrement=True,
)
# One row each time that work on a version begins, written before the work. `corrections`: their ids then.
attempts = Table(
    "attempts",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", Name(20), nullable=False),
    Column("number", Integer, nullable=False),
    Column("corrections", JSON, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("at", Float, nullable=False),
    Column("fault", Words),
    Index("attempts_version", "version"),
    sqlite_autoincrement=True,
)
# All that was ever measured; `versions` keeps what was measured last.
measurements = Table(
    "measurements",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", Name(20), nullable=False),
    Column("judged", Name(20), nullable=False),
    Column("at", Float, nullable=False),
    Column("verdict", JSON, nullable=False),
    Column("measurements", JSON, nullable=False),
    Index("measurements_version", "version"),
    sqlite_autoincrement=True,
)
# What the replicas were told, see daemon.ledger.journal.Journal.record_publication.
publications = Table(
    "publications",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", Name(20), nullable=False),
    Column("cause", Name(20), nullable=False),
    Column("replicas", JSON, nullable=False),
    Column("failures", JSON, nullable=False),
    Column("pause_seconds", Float),
    Column("fence", Integer, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,
)
stage_seconds = Table(
    "stage_seconds",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", Name(20), nullable=False),
    Column("stage", Name(20), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,
)
# One row a name: "live" (version id), "paused" (who and why, or null), "policy" (the guard's memory,
# monitoring.policy.PolicyState), "watched" (when the live version was last measured again), "forecast",
# "head" (daemon.ledger.chain.Head).
control = Table("control", metadata, Column("name", Name(40), primary_key=True), Column("value", JSON))
lease = Table(
    "lease",
    metadata,
    Column("name", Name(40), primary_key=True),
    Column("holder", Name(200), nullable=False),
    Column("host", Name(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("fence", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
)


@dataclass(frozen=True)
class CorrectionRow:
    """A correction as the ledger knows it. Times are unix seconds."""

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
    version: str | None = None
    superseded_by: str | None = None
    attempts: int = 0
    batch_limit: int | None = None
    not_before: float = 0.0
    received_at: float = 0.0
    live_at: float | None = None
    before: str | None = None
    after: str | None = None
    content_hash: str = ""

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.prompt.replace("{}", self.subject)

    @property
    def slot(self) -> tuple[str, str]:
        """Two corrections of one slot contradict or repeat each other."""
        return self.subject, self.prompt

    @property
    def post_to_live_seconds(self) -> float | None:
        return None if self.live_at is None else self.live_at - self.received_at


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
class LedgerStatus:
    """What the status page and the metrics show, read in one transaction.

    Attributes:
        ended: end of a correction's life → how often one has come to it, also those that left it again.
        steps: step of the guard's ladder → how often it was taken.
        watched_at: when the live version was last measured again; None before the first time.
        forecast: what `daemon.apply.measuring.Foresee` said of the live version, or of the one before.
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
    ended: dict[str, int] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    last_step: TransitionRow | None = None
    watched_at: float | None = None
    forecast: dict[str, Any] | None = None


def correction_row(row: Any) -> CorrectionRow:
    fields = dict(row._mapping)
    fields["state"] = State(fields["state"])
    fields["paraphrases"], fields["neighbours"] = tuple(fields["paraphrases"]), tuple(fields["neighbours"])
    return CorrectionRow(**fields)


def version_row(row: Any) -> VersionRow:
    fields = dict(row._mapping)
    fields["state"] = VersionState(fields["state"])
    fields["added"], fields["removed"] = tuple(fields["added"]), tuple(fields["removed"])
    return VersionRow(**fields)


def operation_row(row: Any) -> OperationRow:
    fields = dict(row._mapping)
    fields["kind"], fields["state"] = OperationKind(fields["kind"]), OperationState(fields["state"])
    return OperationRow(**fields)
