"""Statements of SQLAlchemy Core, compiled once and run on the driver's own cursor.

SQLAlchemy's own execution costs as much as SQLite's work on a row; here it writes the SQL, and no value ever becomes part
of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

Cursor = sqlite3.Cursor

_DIALECT: Final = sqlite.dialect()
_SIZES: Final = (1, 8, 64, 512)
"""How many values a lookup asks for at once: few shapes, so that SQLite's own cache of statements knows them."""


class Statement:
    """One statement. Parameters by name; those that the statement itself holds are filled in."""

    def __init__(self, statement: sa.ClauseElement) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        # positiontup and params are what SQLAlchemy itself executes with.
        self.names: tuple[str, ...] = tuple(compiled.positiontup or ())  # type: ignore[attr-defined]
        self._given: Mapping[str, Any] = {k: v for k, v in compiled.params.items() if v is not None}

    def run(self, cursor: Cursor, **values: Any) -> Cursor:
        """Execute; iterate over the cursor for the rows."""
        return cursor.execute(self.sql, self._in_order(values))

    def run_many(self, cursor: Cursor, rows: Sequence[Mapping[str, Any]]) -> Cursor:
        """Execute once for each."""
        return cursor.executemany(self.sql, [self._in_order(row) for row in rows])

    def first(self, cursor: Cursor, **values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.run(cursor, **values).fetchone()
        return None if row is None else row[0]

    def value(self, cursor: Cursor, **values: Any) -> int:
        """The one number of the one row."""
        return int(self.run(cursor, **values).fetchone()[0])

    def _in_order(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] if name in values else self._given[name] for name in self.names]


class Lookup:
    """A select of the rows where a column has one of many values, a bounded number of them at a time."""

    def __init__(self, select: sa.Select[Any], column: sa.ColumnElement[Any]) -> None:
        self._by_size = {
            size: Statement(select.where(column.in_([sa.bindparam(f"value_{i}") for i in range(size)])))
            for size in _SIZES
        }

    def run(self, cursor: Cursor, values: Sequence[Any]) -> Iterator[Any]:
        """The rows of all values, each of which should be there once."""
        for some in chunks(values, _SIZES[-1]):
            size = next(s for s in _SIZES if s >= len(some))
            padded = [*some, *[some[-1]] * (size - len(some))]
            statement = self._by_size[size]
            yield from cursor.execute(statement.sql, padded).fetchall()


def chunks(values: Sequence[Any], size: int = _SIZES[-1]) -> Iterator[Sequence[Any]]:
    """The values, at most `size` at a time."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
