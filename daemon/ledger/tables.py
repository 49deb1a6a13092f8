"""Tables of the ledger. A change here needs a script in `daemon/ledger/migrations`."""

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
    UnaryExpression,
    desc,
)

from daemon.ledger.chain import storable

#: row of `control` with the end of the transitions' chain
HEAD = "head"


class Words(TypeDecorator[str]):
    """Text of any kind: a character that a database cannot hold is no reason to lose the row."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        return None if value is None else storable(value)


class Name(Words):
    """The same for short texts."""

    impl = String
    cache_ok = True


metadata = MetaData()
_URGENT_FIRST: UnaryExpression[int] = desc("priority")

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
    # daemon.core.lifecycle.ReasonCode of the reason, where it has one. The hash chain does not cover it.
    Column("code", Name(20)),
    Column("version", Name(20)),
    Column("superseded_by", Name(200)),
    Column("attempts", Integer, nullable=False, default=0),
    Column("batch_limit", Integer),
    Column("not_before", Float, nullable=False, default=0.0),
    Column("received_at", Float, nullable=False),
    Column("live_at", Float),
    Column("before", Words),
    Column("after", Words),
    Column("questions", JSON, nullable=False, server_default="[]"),
    # What the model said in each further form, see daemon.ledger.rows.Answers.
    Column("answers", JSON),
    # Of a live fact that was not said when it was last asked: name of the form → what was said instead.
    Column("lost", JSON),
    # What was thought of it before it could be planned (daemon.core.trust): its score, and the findings.
    Column("score", Float),
    Column("findings", JSON),
    # Who approved it, as an actor.
    Column("reviewed_by", Name(200)),
    # Other names of the subject; what follows once it is live; the correction that it follows from.
    Column("aliases", JSON),
    Column("consequences", JSON),
    Column("parent", Name(200)),
    # How far its consequences are (daemon.ledger.record.following); NULL where nothing follows.
    Column("following", Name(20)),
    # Unix seconds; NULL: from its arrival on, and without an end.
    Column("valid_from", Float),
    Column("valid_until", Float),
    Index("corrections_state", "state", "seq"),
    # The order in which a batch is made up.
    Index("corrections_queue", "state", _URGENT_FIRST, "seq"),
    Index("corrections_received", "state", "received_at"),
    Index("corrections_live", "live_at"),
    # Without the prompt, which may be longer than an index row of PostgreSQL.
    Index("corrections_subject", "subject", "state"),
    Index("corrections_source", "source", "received_at"),
    Index("corrections_parent", "parent"),
    Index("corrections_following", "following", "state"),
    Index("corrections_from", "state", "valid_from"),
    Index("corrections_until", "state", "valid_until"),
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
    Index("transitions_kind", "kind", "seq"),
    sqlite_autoincrement=True,
)
# Running totals of `transitions`, so that no count grows dearer with the history. No `old` and no code: "".
tallies = Table(
    "tallies",
    metadata,
    Column("kind", String(20), primary_key=True),
    Column("old", String(20), primary_key=True),
    Column("new", String(20), primary_key=True),
    Column("code", String(20), primary_key=True),
    Column("count", Integer, nullable=False),
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
    Column("code", Name(20)),
    Column("verdict", JSON),
    Column("measurements", JSON),
    Index("versions_state", "state"),
    Index("versions_live", "live_at"),
)
operations = Table(
    "operations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", Name(20), nullable=False),
    Column("target", Name(200)),
    Column("actor", Name(200), nullable=False),
    # daemon.core.actors.ActorKind of the actor
    Column("actor_kind", Name(20), nullable=False, server_default=""),
    Column("why", Words),
    Column("state", Name(20), nullable=False),
    Column("reason", Words),
    Column("attempts", Integer, nullable=False, default=0),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("operations_state", "state", "kind", "actor_kind"),
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
    Index("stage_seconds_stage", "stage", "seq"),
    sqlite_autoincrement=True,
)
# Running totals of `stage_seconds`. `at_most`: a label of monitoring.durations.
stage_totals = Table(
    "stage_totals",
    metadata,
    Column("stage", String(20), primary_key=True),
    Column("at_most", String(20), primary_key=True),
    Column("count", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
)
# One row a name: "live" (version id), "paused" (who and why, or null), "policy" (the guard's memory,
# monitoring.policy.PolicyState), "watched" (when the live version was last measured again), "forecast",
# "head" (daemon.ledger.chain.Head), "beat:intake" and "beat:apply" (daemon.ledger.heartbeats).
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
