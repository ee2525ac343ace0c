"""Statements of SQLAlchemy Core, compiled once a dialect and run on the driver's own cursor.

SQLAlchemy's own execution costs as much as SQLite's work on a row; here it writes the SQL, and no value ever becomes part
of it. On servers texts are kept as their UTF-8 bytes (no text type there takes every text): the cursor translates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from sinks.sql.texts import text_of

if TYPE_CHECKING:
    from sinks.sql.memory import Memory

_SIZES: Final = (1, 8, 64, 512)
"""How many values a lookup asks for at once: few shapes, so that the database's own cache of statements knows them."""

_IN_TEXT: Final = re.compile(r"__\[POSTCOMPILE_(\w+)\]")


@cache
def dialect(name: str) -> Any:
    """SQLAlchemy's dialect, with parameters by position."""
    if name == "sqlite":
        from sqlalchemy.dialects.sqlite import pysqlite

        return pysqlite.dialect()
    if name == "postgresql":
        from sqlalchemy.dialects.postgresql import psycopg

        return psycopg.dialect(paramstyle="format")  # type: ignore[no-untyped-call]
    if name == "mysql":
        from sqlalchemy.dialects.mysql import pymysql

        return pymysql.dialect(paramstyle="format")
    return sa.make_url(f"{name}://").get_dialect()()


class Cursor:
    """A driver's cursor. `decode`: the columns of the last select that are texts, kept as bytes; `memory`: of the store that asks."""

    __slots__ = ("decode", "dialect", "memory", "raw")

    def __init__(self, raw: Any, dialect_name: str, memory: Memory | None = None) -> None:
        self.raw = raw
        self.memory = memory
        self.dialect = dialect_name
        self.decode: tuple[int, ...] = ()

    def execute(self, sql: str, values: Sequence[Any] = (), decode: tuple[int, ...] = ()) -> Cursor:
        """Run once. Texts become bytes where texts are kept so; `decode`: the columns that are to become texts again."""
        self.decode = decode
        if values:
            self.raw.execute(sql, self._encoded(values))
        else:
            self.raw.execute(sql)
        return self

    def executemany(self, sql: str, rows: Any) -> Cursor:
        """Run once for each row."""
        if self.dialect != "sqlite":
            rows = [self._encoded(row) for row in rows]
            if not rows:
                return self
        self.raw.executemany(sql, rows)
        return self

    def another(self) -> Cursor:
        """A cursor on the same connection, in the same transaction."""
        # Of psycopg's, in the binary format.
        how = {"binary": True} if self.dialect == "postgresql" else {}
        return Cursor(self.raw.connection.cursor(**how), self.dialect, self.memory)

    @property
    def rowcount(self) -> int:
        """Rows that the last statement changed."""
        return int(self.raw.rowcount)

    def fetchone(self) -> Any:
        """The next row, or None."""
        row = self.raw.fetchone()
        return row if row is None or not self.decode else self._decoded([row])[0]

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        rows = self.raw.fetchall()
        return self._decoded(rows) if self.decode else list(rows)

    def fetchmany(self, size: int) -> list[Any]:
        """Some rows; none: there are no more."""
        rows = self.raw.fetchmany(size)
        return self._decoded(rows) if self.decode else list(rows)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def _encoded(self, values: Sequence[Any]) -> Sequence[Any]:
        if self.dialect == "sqlite":
            return values
        return [v.encode() if isinstance(v, str) else v for v in values]

    def _decoded(self, rows: Sequence[Any]) -> list[Any]:
        at = set(self.decode)
        return [tuple(text_of(bytes(v)) if i in at and v is not None else v for i, v in enumerate(r)) for r in rows]


class Statement:
    """One statement. Parameters by name; those that the statement itself holds are filled in. `others`: for one dialect each."""

    def __init__(self, statement: sa.ClauseElement, **others: sa.ClauseElement) -> None:
        self._statement = statement
        self._others = others
        self._compiled: dict[str, _Compiled] = {}

    def on(self, dialect_name: str) -> _Compiled:
        """As one dialect has it."""
        found = self._compiled.get(dialect_name)
        if found is None:
            statement = self._others.get(dialect_name, self._statement)
            found = self._compiled[dialect_name] = _Compiled(statement, dialect_name)
        return found

    def run(self, cursor: Cursor, **values: Any) -> Cursor:
        """Execute; iterate over the cursor for the rows."""
        compiled = self.on(cursor.dialect)
        return cursor.execute(compiled.sql, compiled.in_order(values), compiled.texts)

    def run_many(self, cursor: Cursor, rows: Sequence[Mapping[str, Any]]) -> Cursor:
        """Execute once for each."""
        compiled = self.on(cursor.dialect)
        return cursor.executemany(compiled.sql, [compiled.in_order(row) for row in rows])

    def run_rows(self, cursor: Cursor, rows: Any) -> Cursor:
        """Execute once for each tuple of values, in the order of the statement's parameters."""
        return cursor.executemany(self.on(cursor.dialect).sql, rows)

    def first(self, cursor: Cursor, **values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        row = self.run(cursor, **values).fetchone()
        return None if row is None else row[0]

    def value(self, cursor: Cursor, **values: Any) -> int:
        """The one number of the one row."""
        return int(self.run(cursor, **values).fetchone()[0])


class _Compiled:
    def __init__(self, statement: sa.ClauseElement, dialect_name: str) -> None:
        compiled = statement.compile(dialect=dialect(dialect_name))
        # positiontup and params are what SQLAlchemy itself executes with. DB2 wants the number of a LIMIT, which is ours, in the text.
        self.sql = _IN_TEXT.sub(lambda m: str(int(compiled.params[m[1]])), str(compiled))
        in_text = set(_IN_TEXT.findall(str(compiled)))
        self.names: tuple[str, ...] = tuple(n for n in compiled.positiontup or () if n not in in_text)  # type: ignore[attr-defined]
        self._given: Mapping[str, Any] = {k: v for k, v in compiled.params.items() if v is not None}
        selected = statement.selected_columns if isinstance(statement, sa.Select) else ()
        texts = tuple(i for i, c in enumerate(selected) if isinstance(c.type, sa.Text))
        self.texts = texts if dialect_name != "sqlite" else ()

    def in_order(self, values: Mapping[str, Any]) -> list[Any]:
        """The values by position."""
        return [values[name] if name in values else self._given[name] for name in self.names]


class Lookup:
    """A select of the rows where a column has one of many values, a bounded number of them at a time."""

    def __init__(self, select: sa.Select[Any], column: sa.ColumnElement[Any]) -> None:
        self._by_size = {
            size: Statement(
                select.where(column.in_([sa.bindparam(f"value_{i}", type_=column.type) for i in range(size)]))
            )
            for size in _SIZES
        }

    def run(self, cursor: Cursor, values: Sequence[Any]) -> Iterator[Any]:
        """The rows of all values, each of which should be there once."""
        for some in chunks(values, _SIZES[-1]):
            size = next(s for s in _SIZES if s >= len(some))
            padded = [*some, *[some[-1]] * (size - len(some))]
            compiled = self._by_size[size].on(cursor.dialect)
            yield from cursor.execute(compiled.sql, padded, compiled.texts).fetchall()


def padded(values: Sequence[int], size: int) -> list[int]:
    """The values, the last one again and again until there are `size`."""
    return [*values, *[values[-1]] * (size - len(values))]


def chunks(values: Sequence[Any], size: int = _SIZES[-1]) -> Iterator[Sequence[Any]]:
    """The values, at most `size` at a time."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
