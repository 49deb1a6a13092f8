"""Corrections get the questions that they are asked with, and what the model answers in each form."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.add_column("corrections", sa.Column("questions", sa.JSON, nullable=False, server_default="[]"))
    op.add_column("corrections", sa.Column("answers", sa.JSON))
    op.add_column("corrections", sa.Column("lost", sa.JSON))
