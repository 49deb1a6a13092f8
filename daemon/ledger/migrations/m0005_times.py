"""Corrections get the time from which they hold, and the time until which."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    for name, index in (("valid_from", "corrections_from"), ("valid_until", "corrections_until")):
        op.add_column("corrections", sa.Column(name, sa.Float))
        op.create_index(index, "corrections", ["state", name])
