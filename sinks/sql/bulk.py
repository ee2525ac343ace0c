"""Many rows by one statement: on PostgreSQL as binary arrays, a column each, elsewhere by the driver's executemany.

A Python list as an array costs psycopg more than the server needs to store its rows; numpy writes the same bytes at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from sinks.sql.statements import Cursor, Statement, dialect
from sinks.sql.words import GIVEN, Merge

_HEADER: Final = struct.Struct(">iiIii")


class Array:
    """A column of values in PostgreSQL's binary format (src/backend/utils/adt/arrayfuncs.c, array_send)."""

    element: ClassVar[int]
    oid: ClassVar[int]
    __slots__ = ("raw",)

    def __init__(self, count: int, raw: bytes) -> None:
        self.raw = _HEADER.pack(1, 0, self.element, count, 1) + raw


class Int2s(Array):
    """smallint[]."""

    element, oid = 21, 1005
    size = 2


class Int4s(Array):
    """integer[]."""

    element, oid = 23, 1007
    size = 4


class Int8s(Array):
    """bigint[]."""

    element, oid = 20, 1016
    size = 8


class Blobs(Array):
    """bytea[]."""

    element, oid = 17, 1001


ARRAYS: Final[tuple[type[Array], ...]] = (Int2s, Int4s, Int8s, Blobs)


def ints(kind: Any, values: npt.NDArray[np.int64] | Sequence[int]) -> Array:
    """Integers as one of Int2s, Int4s, Int8s. OverflowError where one does not fit."""
    numbers = np.asarray(values, np.int64)
    limit = 1 << (8 * kind.size - 1)
    if kind.size < 8 and len(numbers) and not -limit <= int(numbers.min()) <= int(numbers.max()) < limit:
        raise OverflowError(f"a number has more than {8 * kind.size} bits")
    table = np.empty(len(numbers), [("length", ">i4"), ("value", f">i{kind.size}")])
    table["length"] = kind.size
    table["value"] = numbers
    made: Array = kind(len(numbers), table.tobytes())
    return made


def blobs(values: Sequence[bytes]) -> Blobs:
    """Byte strings."""
    lengths = np.fromiter(map(len, values), ">i4", len(values)).tobytes()
    heads = [lengths[i : i + 4] for i in range(0, len(lengths), 4)]
    return Blobs(len(values), b"".join(chain.from_iterable(zip(heads, values, strict=True))))


def given(columns: Sequence[sa.Column[Any]], *, ordinality: str = "") -> Any:
    """The table of rows that arrays give. The parameters are named all_COLUMN."""
    parts = [sa.bindparam(f"all_{c.name}", type_=postgresql.ARRAY(c.type)) for c in columns]
    names = [sa.column(c.name, c.type) for c in columns]
    rest = {"with_ordinality": ordinality} if ordinality else {}
    return sa.func.unnest(*parts).table_valued(*names, name=GIVEN, **rest).render_derived()


def arrays(columns: Sequence[sa.Column[Any]], values: Sequence[Any]) -> dict[str, Array]:
    """The parameters of `given`: columns of numbers as arrays or lists, of bytes and texts as lists."""
    return {f"all_{c.name}": _array(c, v) for c, v in zip(columns, values, strict=True)}


def _array(column: sa.Column[Any], values: Any) -> Array:
    kind = _kind(column)
    if kind is Blobs:
        return blobs([v.encode() if isinstance(v, str) else v for v in values])
    return ints(kind, values)


@cache
def _kind(column: sa.Column[Any]) -> type[Array]:
    impl = column.type.dialect_impl(dialect("postgresql"))
    if isinstance(impl, sa.BigInteger):
        return Int8s
    if isinstance(impl, sa.SmallInteger):
        return Int2s
    return Int4s if isinstance(impl, sa.Integer) else Blobs


class Insert:
    """Inserts many rows. `ignore`: those whose key is there are left out; `newer`: a column that is set where the row's is greater."""

    def __init__(self, table: sa.Table, *, ignore: bool = False, newer: str = "") -> None:
        self._columns = list(table.columns)
        keys = list(table.primary_key.columns)
        values = {c.name: sa.bindparam(c.name, type_=c.type) for c in self._columns}
        rows = given(self._columns)
        of_sqlite = sqlite.insert(table).values(values)
        of_mysql = mysql.insert(table).values(values)
        of_postgresql = postgresql.insert(table).from_select([c.name for c in self._columns], sa.select(rows))
        if ignore:
            of_sqlite = of_sqlite.on_conflict_do_nothing()
            of_mysql = of_mysql.prefix_with("IGNORE")
            of_postgresql = of_postgresql.on_conflict_do_nothing()
        if newer:
            column = table.c[newer]
            of_sqlite = of_sqlite.on_conflict_do_update(
                index_elements=keys,
                set_={newer: of_sqlite.excluded[newer]},
                where=column < of_sqlite.excluded[newer],
            )
            of_mysql = of_mysql.on_duplicate_key_update({newer: sa.func.greatest(column, of_mysql.inserted[newer])})
            of_postgresql = of_postgresql.on_conflict_do_update(
                index_elements=keys,
                set_={newer: of_postgresql.excluded[newer]},
                where=column < of_postgresql.excluded[newer],
            )
        self.statement = Statement(
            sa.insert(table) if not (ignore or newer) else of_sqlite,
            sqlite=of_sqlite,
            mysql=of_mysql,
            postgresql=of_postgresql,
            ibm_db_sa=Merge(table, newer) if ignore or newer else sa.insert(table),
        )

    def run(self, cursor: Cursor, rows: Sequence[Sequence[Any]]) -> int:
        """Insert the rows, each in the order of the table's columns; how many were."""
        if not rows:
            return 0
        return self.run_columns(cursor, list(zip(*rows, strict=True)))

    def run_columns(self, cursor: Cursor, columns: Sequence[Any]) -> int:
        """The same, given a sequence of values for each column."""
        if not len(columns[0]):
            return 0
        if cursor.dialect == "postgresql":
            return self.statement.run(cursor, **arrays(self._columns, columns)).rowcount
        lists = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns]
        return self.statement.run_rows(cursor, zip(*lists, strict=True)).rowcount
