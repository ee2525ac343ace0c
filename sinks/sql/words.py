"""What DB2 says in other words than the rest: bits, the order of keys, and MERGE where the others have an upsert of their own."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.sql.expression import ClauseElement, ColumnElement, Executable

DB2: Final = "ibm_db_sa"
"""SQLAlchemy's name of its dialect."""
GIVEN: Final = "given"


class Bit(ColumnElement[int]):
    """A bit of a column: 0 where it is not set."""

    inherit_cache = False
    type = sa.Integer()

    def __init__(self, of: ColumnElement[Any], bit: int) -> None:
        self.plain = of.op("&")(sa.literal_column(str(bit)))
        self.called = sa.func.bitand(of, sa.literal_column(str(bit)))


class KeyOrder(ColumnElement[bool]):
    """Whether a key of several columns is at or after other values (else: before them)."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, key: Sequence[ColumnElement[Any]], values: Sequence[BindParameter[Any]], *, after: bool) -> None:
        compare = operator.ge if after else operator.lt
        self.plain: Any = compare(sa.tuple_(*key), sa.tuple_(*values))
        strictly = operator.gt if after else operator.lt
        ways = []
        for i, (column, value) in enumerate(zip(key, values, strict=True)):
            last = after and i == len(key) - 1
            same = [c == v for c, v in zip(key[:i], values[:i], strict=True)]
            ways.append(sa.and_(*same, (compare if last else strictly)(column, value)))
        self.spelt = sa.or_(*ways)


class Merge(Executable, ClauseElement):
    """Inserts a row given by parameters named as the columns. Where its key is there, nothing changes, or `newer` grows if the row's is greater."""

    inherit_cache = False

    def __init__(self, table: sa.Table, newer: str = "") -> None:
        self.table, self.newer = table, newer


@compiles(Bit)
def _bit(element: Bit, compiler: SQLCompiler, **more: Any) -> str:
    return f"({compiler.process(element.plain, **more)})"


@compiles(Bit, DB2)
def _bit_called(element: Bit, compiler: SQLCompiler, **more: Any) -> str:
    return compiler.process(element.called, **more)


@compiles(KeyOrder)
def _order(element: KeyOrder, compiler: SQLCompiler, **more: Any) -> str:
    return compiler.process(element.plain, **more)


@compiles(KeyOrder, DB2)
def _order_spelt(element: KeyOrder, compiler: SQLCompiler, **more: Any) -> str:
    return f"({compiler.process(element.spelt, **more)})"


@compiles(Merge, DB2)
def _merge(element: Merge, compiler: SQLCompiler, **more: Any) -> str:
    table = element.table
    quote = compiler.preparer.quote
    columns = [quote(c.name) for c in table.columns]
    # DB2 must be told the type of a parameter that stands by itself.
    values = [compiler.process(sa.cast(sa.bindparam(c.name, type_=c.type), c.type), **more) for c in table.columns]
    name = compiler.preparer.format_table(table)
    same = " AND ".join(f"{name}.{quote(c.name)} = {GIVEN}.{quote(c.name)}" for c in _key_of(table))
    listed = ", ".join(columns)
    parts = [f"MERGE INTO {name} USING (VALUES ({', '.join(values)})) AS {GIVEN} ({listed}) ON ({same})"]
    if element.newer:
        column = quote(element.newer)
        parts.append(f"WHEN MATCHED AND {name}.{column} < {GIVEN}.{column} THEN UPDATE SET {column} = {GIVEN}.{column}")
    # No value is in it: names of columns of our own schema.
    parts.append(f"WHEN NOT MATCHED THEN INSERT ({listed}) VALUES ({', '.join(f'{GIVEN}.{c}' for c in columns)})")  # noqa: S608
    return " ".join((*parts, "ELSE IGNORE"))


def _key_of(table: sa.Table) -> list[Any]:
    return list(table.primary_key.columns)
