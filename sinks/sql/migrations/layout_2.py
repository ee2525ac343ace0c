"""Layout 2: events with traits, and the plan of the classes of lifetimes. What was there stays as it was."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Only SQLite ever had layout 1."""
    op.create_table("note", sa.Column("key", sa.Text, primary_key=True), sa.Column("text", sa.Text, nullable=False))
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("message_id", sa.Text, nullable=False, unique=True),
        sa.Column("shape", sa.Integer, nullable=False),
        sa.Column("generated", sa.BigInteger, nullable=False),
        sa.Column("traits", sa.Text, nullable=False),
        sa.Column("raw", sa.Text, nullable=False),
    )
    op.create_index("ix_event_generated", "event", ["generated"])
    op.create_index("event_shape", "event", ["shape", "generated"])
    op.create_table(
        "shape",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("event_type", sa.Text, nullable=False),
        sa.Column("traits", sa.Text, nullable=False),
    )
    op.create_index("ix_shape_event_type", "shape", ["event_type"])
    op.create_table(
        "trait",
        sa.Column("event", sa.Integer, primary_key=True),
        sa.Column("digest", sa.BigInteger, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("trait_digest", "trait", ["digest", "event"])
