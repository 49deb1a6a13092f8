"""The tables of factd 0.1, which had no migrations. A ledger that has them is only stamped."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    op.create_table(
        "corrections",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(200), nullable=False, unique=True),
        sa.Column("key", sa.String(200), unique=True),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("was", sa.Text),
        sa.Column("paraphrases", sa.JSON, nullable=False),
        sa.Column("neighbours", sa.JSON, nullable=False),
        sa.Column("source", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("version", sa.String(20)),
        sa.Column("superseded_by", sa.String(200)),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("batch_limit", sa.Integer),
        sa.Column("not_before", sa.Float, nullable=False),
        sa.Column("received_at", sa.Float, nullable=False),
        sa.Column("live_at", sa.Float),
        sa.Column("before", sa.Text),
        sa.Column("after", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("corrections_state", "corrections", ["state", "seq"])
    op.create_index("corrections_slot", "corrections", ["subject", "prompt"])
    op.create_table(
        "aliases",
        sa.Column("id", sa.String(200), primary_key=True),
        sa.Column("correction", sa.String(200), sa.ForeignKey("corrections.id"), nullable=False),
    )
    op.create_table(
        "transitions",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("old", sa.String(20)),
        sa.Column("new", sa.String(20), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("actor", sa.String(200), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("transitions_id", "transitions", ["kind", "id"])
    op.create_table(
        "versions",
        sa.Column("id", sa.String(20), primary_key=True),
        sa.Column("parent", sa.String(20)),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("added", sa.JSON, nullable=False),
        sa.Column("removed", sa.JSON, nullable=False),
        sa.Column("operation", sa.Integer),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("live_at", sa.Float),
        sa.Column("reason", sa.Text),
        sa.Column("verdict", sa.JSON),
        sa.Column("measurements", sa.JSON),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("target", sa.String(200)),
        sa.Column("actor", sa.String(200), nullable=False),
        sa.Column("why", sa.Text),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "stage_seconds",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("stage", sa.String(20), nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "control",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.JSON),
    )
    op.create_table(
        "lease",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("holder", sa.String(200), nullable=False),
        sa.Column("host", sa.String(200), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
