"""How many samples there are in some records, by the size of their fields."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from sinks.sql.fields import BASE, SIZES
from sinks.sql.schema import record
from sinks.sql.statements import Cursor, Statement
from sinks.sql.words import Bit


def samples_of(of: Any) -> sa.ColumnElement[int]:
    """The number of samples in the records of a table or an alias."""
    size: Any = sa.literal_column(str(BASE))
    for bit, more in SIZES:
        size += sa.case(
            (Bit(of.c.form, bit) != 0, sa.literal_column(str(more))),
            else_=sa.literal_column("0"),
        )
    return sa.func.coalesce(sa.func.sum(sa.func.length(of.c.fields) / size), sa.literal_column("0"))


def samples_in(cursor: Cursor, table: str) -> int:
    """The number of samples in a table like `record`, of another name."""
    other = sa.table(table, *(sa.column(c.name, c.type) for c in record.columns))
    return Statement(sa.select(samples_of(other))).value(cursor)
