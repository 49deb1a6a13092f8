"""Reasons get codes beside their sentences; counts become running totals; questions get their indexes.

The codes of old rows are read from their sentences here, once. No chained column changes.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

#: how a reason began before it had a code, for kinds of rows
SENTENCES = (
    ("correction", "skipped_outlier", "skipped_outlier%"),
    ("version", "publish_failed", "publish failed%"),
    ("version", "canary_failed", "canary failed%"),
)
#: of monitoring.durations when this script was written
BOUNDS = ("0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "120", "300")
INDEXES: tuple[tuple[str, str, list[Any]], ...] = (
    ("corrections_queue", "corrections", ["state", sa.desc("priority"), "seq"]),
    ("corrections_received", "corrections", ["state", "received_at"]),
    ("corrections_live", "corrections", ["live_at"]),
    ("corrections_subject", "corrections", ["subject", "state"]),
    ("transitions_kind", "transitions", ["kind", "seq"]),
    ("versions_state", "versions", ["state"]),
    ("versions_live", "versions", ["live_at"]),
    ("operations_state", "operations", ["state", "kind", "actor_kind"]),
    ("stage_seconds_stage", "stage_seconds", ["stage", "seq"]),
)


def upgrade() -> None:
    _add_codes()
    _add_actor_kinds(op.get_bind())
    _add_tallies()
    _add_stage_totals()
    op.drop_index("corrections_subject", "corrections")
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns)


def _add_codes() -> None:
    op.add_column("corrections", sa.Column("code", sa.String(20)))
    op.add_column("versions", sa.Column("code", sa.String(20)))
    for kind, code, sentence in SENTENCES:
        op.execute(f"UPDATE {kind}s SET code = '{code}' WHERE reason LIKE '{sentence}'")


def _add_actor_kinds(c: sa.Connection) -> None:
    """Whoever was neither an alert nor the guard counted as an operator."""
    kind = sa.Column("actor_kind", sa.String(20), nullable=False, server_default="")
    op.add_column("operations", kind)
    operations = sa.table("operations", sa.column("id"), sa.column("actor"), sa.column("actor_kind"))
    rows: list[dict[str, object]] = []
    for id, actor in c.execute(sa.select(operations.c.id, operations.c.actor)):
        named = actor.split(":")[0]
        rows.append({"its_id": id, "its_kind": named if named in {"alert", "guard"} else "operator"})
    if rows:
        mine = sa.update(operations).where(operations.c.id == sa.bindparam("its_id"))
        c.execute(mine.values(actor_kind=sa.bindparam("its_kind")), rows)


def _add_tallies() -> None:
    op.create_table(
        "tallies",
        *(sa.Column(name, sa.String(20), primary_key=True) for name in ("kind", "old", "new", "code")),
        sa.Column("count", sa.Integer, nullable=False),
    )
    code = " ".join(
        f"WHEN kind = '{kind}' AND reason LIKE '{sentence}' THEN '{code}'"
        for kind, code, sentence in SENTENCES
    )
    op.execute(
        "INSERT INTO tallies (kind, old, new, code, count) SELECT kind, its_old, new, its_code, count(*)"
        f" FROM (SELECT kind, COALESCE(old, '') AS its_old, new, CASE {code} ELSE '' END AS its_code"
        " FROM transitions) AS told GROUP BY kind, its_old, new, its_code"
    )


def _add_stage_totals() -> None:
    op.create_table(
        "stage_totals",
        sa.Column("stage", sa.String(20), primary_key=True),
        sa.Column("at_most", sa.String(20), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
    )
    bound = " ".join(f"WHEN seconds <= {bound} THEN '{bound}'" for bound in BOUNDS)
    op.execute(
        "INSERT INTO stage_totals (stage, at_most, count, seconds)"
        " SELECT stage, bound, count(*), sum(seconds)"
        f" FROM (SELECT stage, seconds, CASE {bound} ELSE '+Inf' END AS bound FROM stage_seconds) AS told"
        " GROUP BY stage, bound"
    )
