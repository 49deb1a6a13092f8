"""Tables of the ledger, their rows as values, and the database engine."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    make_url,
)

from daemon.errors import SettingsError
from daemon.lifecycle import OperationKind, OperationState, State, VersionState

BASE_VERSION = "v000000"
#: a writer waits so long for another process's transaction, seconds; ours take milliseconds
BUSY_SECONDS = 30

metadata = MetaData()

corrections = Table(
    "corrections",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(200), nullable=False, unique=True),
    Column("key", String(200), unique=True),
    Column("content_hash", String(64), nullable=False),
    Column("subject", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("was", Text),
    Column("paraphrases", JSON, nullable=False),
    Column("neighbours", JSON, nullable=False),
    Column("source", Text),
    Column("priority", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    Column("version", String(20)),
    Column("superseded_by", String(200)),
    Column("attempts", Integer, nullable=False, default=0),
    Column("batch_limit", Integer),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("received_at", Float, nullable=False),
    Column("live_at", Float),
    Column("before", Text),
    Column("after", Text),
    Index("corrections_state", "state", "seq"),
    Index("corrections_slot", "subject", "prompt"),
    sqlite_autoincrement=True,
)
# A post with a known idempotency key under a new id is the same correction: the new id points to it.
aliases = Table(
    "aliases",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("correction", String(200), ForeignKey("corrections.id"), nullable=False),
)
transitions = Table(
    "transitions",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("id", String(200), nullable=False),
    Column("old", String(20)),
    Column("new", String(20), nullable=False),
    Column("at", Float, nullable=False),
    Column("reason", Text),
    Column("actor", String(200), nullable=False),
    Index("transitions_id", "kind", "id"),
    sqlite_autoincrement=True,
)
versions = Table(
    "versions",
    metadata,
    Column("id", String(20), primary_key=True),
    Column("parent", String(20)),
    Column("state", String(20), nullable=False),
    Column("added", JSON, nullable=False),
    Column("removed", JSON, nullable=False),
    Column("operation", Integer),
    Column("attempts", Integer, nullable=False, default=0),
    Column("fence", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("live_at", Float),
    Column("reason", Text),
    Column("verdict", JSON),
    Column("measurements", JSON),
)
operations = Table(
    "operations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("target", String(200)),
    Column("actor", String(200), nullable=False),
    Column("why", Text),
    Column("state", String(20), nullable=False),
    Column("reason", Text),
    Column("attempts", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    sqlite_autoincrement=True,
)
stage_seconds = Table(
    "stage_seconds",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("version", String(20), nullable=False),
    Column("stage", String(20), nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at", Float, nullable=False),
    sqlite_autoincrement=True,
)
# One row a name: "live" (version id), "paused" (who and why, or null), "policy" (the guard's memory,
# monitoring.policy.PolicyState), "watched" (when the live version was last measured again), "forecast".
control = Table("control", metadata, Column("name", String(40), primary_key=True), Column("value", JSON))
lease = Table(
    "lease",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("holder", String(200), nullable=False),
    Column("host", String(200), nullable=False),
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


@dataclass(frozen=True)
class LedgerStatus:
    """What the status page and the metrics show, read in one transaction.

    Attributes:
        ended: end of a correction's life → how often one has come to it, also those that left it again.
        steps: step of the guard's ladder → how often it was taken.
        watched_at: when the live version was last measured again; None before the first time.
        forecast: what `daemon.ladder.Foresee` said of the live version, or of the one before.
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
    stage_totals: dict[str, tuple[int, float]] = field(default_factory=dict)


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


def open_engine(url: str) -> Engine:
    """The engine, with the folder and the tables made. SQLite is set to lose nothing at a power cut."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed)
    else:
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError("FACTD_DATABASE_URL names no file; the ledger must outlive the process")
        engine = create_engine(parsed, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
    metadata.create_all(engine)
    return engine


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers never block the writer
    cursor.execute("PRAGMA synchronous=FULL")  # a commit that returned survives a power cut
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _sqlite_begin(connection: Any) -> None:
    # IMMEDIATE takes the write lock at once: a read that later turns into a write could fail as "busy".
    write = connection.get_execution_options().get("factd_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
