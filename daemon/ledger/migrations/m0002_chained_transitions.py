"""Transitions are chained and only ever appended; attempts, measurements and publications are kept."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from daemon.ledger.chain import CONTENT, GENESIS, link

revision, down_revision = "0002", "0001"

APPEND_ONLY = "transitions are append-only"
SQLITE_TRIGGERS = (
    f"""CREATE TRIGGER transitions_update BEFORE UPDATE ON transitions
        BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END""",
    f"""CREATE TRIGGER transitions_delete BEFORE DELETE ON transitions
        BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END""",
    # INSERT OR REPLACE deletes the old row without the trigger for deletions.
    f"""CREATE TRIGGER transitions_replace BEFORE INSERT ON transitions
        WHEN NEW.seq <= (SELECT max(seq) FROM transitions)
        BEGIN SELECT RAISE(ABORT, '{APPEND_ONLY}'); END""",
)
POSTGRESQL_TRIGGERS = (
    f"""CREATE FUNCTION transitions_refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION '{APPEND_ONLY}'; END $$""",
    """CREATE TRIGGER transitions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transitions
       FOR EACH STATEMENT EXECUTE FUNCTION transitions_refuse()""",
)


def upgrade() -> None:
    op.add_column("transitions", sa.Column("hash", sa.String(64), nullable=False, server_default=""))
    _chain_what_is_there(op.get_bind())
    postgresql = op.get_context().dialect.name == "postgresql"
    for trigger in POSTGRESQL_TRIGGERS if postgresql else SQLITE_TRIGGERS:
        op.execute(trigger)
    # A prompt of 1000 characters is more than an index row of PostgreSQL can hold.
    op.drop_index("corrections_slot", "corrections")
    op.create_index("corrections_subject", "corrections", ["subject"])
    op.create_table(
        "attempts",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("corrections", sa.JSON, nullable=False),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("fault", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("attempts_version", "attempts", ["version"])
    op.create_table(
        "measurements",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("judged", sa.String(20), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("verdict", sa.JSON, nullable=False),
        sa.Column("measurements", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("measurements_version", "measurements", ["version"])
    op.create_table(
        "publications",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("version", sa.String(20), nullable=False),
        sa.Column("cause", sa.String(20), nullable=False),
        sa.Column("replicas", sa.JSON, nullable=False),
        sa.Column("failures", sa.JSON, nullable=False),
        sa.Column("pause_seconds", sa.Float),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )


def _chain_what_is_there(c: sa.Connection) -> None:
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in (*CONTENT, "hash")]
    table = sa.table("transitions", *columns)
    seq, last = 0, GENESIS
    rows: list[dict[str, object]] = []
    for row in c.execute(sa.select(*columns[:-1]).order_by(table.c.seq)).mappings():
        seq, last = row["seq"], link(last, row)
        rows.append({"its_seq": seq, "its_hash": last})
    if rows:
        mine = sa.update(table).where(table.c.seq == sa.bindparam("its_seq"))
        c.execute(mine.values(hash=sa.bindparam("its_hash")), rows)
    control = sa.table("control", sa.column("name"), sa.column("value", sa.JSON))
    c.execute(sa.insert(control).values(name="head", value={"seq": seq, "hash": last}))
