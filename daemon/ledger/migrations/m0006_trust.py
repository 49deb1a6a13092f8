"""Corrections get a score with findings, a reviewer, aliases, consequences and a parent."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    for name, kind in (
        ("score", sa.Float),
        ("findings", sa.JSON),
        ("reviewed_by", sa.String(200)),
        ("aliases", sa.JSON),
        ("consequences", sa.JSON),
        ("parent", sa.String(200)),
        ("following", sa.String(20)),
    ):
        op.add_column("corrections", sa.Column(name, kind))
    op.create_index("corrections_source", "corrections", ["source", "received_at"])
    op.create_index("corrections_parent", "corrections", ["parent"])
    op.create_index("corrections_following", "corrections", ["following", "state"])
