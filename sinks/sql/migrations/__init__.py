"""From one layout to the next, by Alembic's operations: a module a step, named for the layout that it leads to.

The layout's version stands in the table `about`, and is raised in the same transaction as the step where the database can do so.
A store upgrades itself when it is opened; who comes second waits. `upgrade` of a module takes Alembic's Operations.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

import sqlalchemy as sa

from sinks.sql.backend import Backend
from sinks.sql.schema import VERSION, about
from sinks.sql.statements import Statement

FIRST: Final = 1
"""The oldest layout that can be upgraded."""
_raised = Statement(sa.update(about).where(about.c.key == "version").values(value=sa.bindparam("step")))


def upgrade(backend: Backend, connection: Any, version: int) -> None:
    """Take the tables from a version to this one's. Commits. The connection must be in a transaction, under the lock of who makes tables."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    engine = sa.create_engine(
        f"{backend.dialect}+{backend.driver}://", creator=lambda: connection, poolclass=sa.StaticPool
    )
    with engine.begin() as through:
        operations = Operations(MigrationContext.configure(through))
        for step in range(version + 1, VERSION + 1):
            import_module(f"{__name__}.layout_{step}").upgrade(operations)
            # By our own cursor: on servers the key is bytes.
            _raised.run(backend.cursor(connection), step=step)
