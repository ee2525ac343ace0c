"""Layout 3: forms of records with fewer bytes. What was there stays as it was: an older program could not read what is new."""

from __future__ import annotations

from alembic.operations import Operations


def upgrade(op: Operations) -> None:
    """Tables and columns are those of layout 2."""
