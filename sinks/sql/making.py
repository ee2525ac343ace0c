"""Tables: made where there are none, upgraded where they are of an older layout, refused where they are somebody else's."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from nephoscope.errors import Problem, StoreError
from nephoscope.lifetimes import Lifetimes
from sinks.sql import migrations, schema
from sinks.sql.backend import Backend, closing
from sinks.sql.bulk import Insert
from sinks.sql.plan import revise
from sinks.sql.statements import Cursor, Statement, dialect

_about = Statement(sa.select(schema.about.c.key, schema.about.c.value))
_about_added = Insert(schema.about)


@cache
def creation(dialect_name: str) -> tuple[tuple[str, str], ...]:
    """(name, statement) for each table and index."""
    out = []
    on_server = dialect_name != "sqlite"
    for table in schema.tables.sorted_tables:
        if table.name in schema.NOT_ON_SQLITE and not on_server:
            continue
        made = schema.padded_less(table) if dialect_name == "postgresql" else table
        out.append((table.name, str(CreateTable(made).compile(dialect=dialect(dialect_name)))))
        out += [
            (str(index.name), str(CreateIndex(index).compile(dialect=dialect(dialect_name))))
            for index in sorted(table.indexes, key=lambda i: str(i.name))
            if not (on_server and index.name in schema.ONLY_ON_SQLITE)
        ]
    return tuple(out)


def made_or_upgraded(backend: Backend, lifetimes: Lifetimes | None, now: int) -> None:
    """See that the tables are there and ours. StoreError where they are not."""
    with closing(backend.connect()) as connection:
        cursor = backend.cursor(connection)
        if backend.tables(cursor) & _names():
            _see_that_it_is_ours(cursor, backend)
        elif backend.alone and backend.tables(cursor):
            raise StoreError(f"{backend.place} is a database of something else: name one of its own")
        backend.begin_making(cursor)
        try:
            if not backend.tables(cursor) & _names():
                for _, statement in creation(backend.dialect):
                    cursor.execute(statement)
                facts = {"version": schema.VERSION, "span": schema.SPAN, "swept": 0}
                _about_added.run(cursor, list(facts.items()))
            version = _see_that_it_is_ours(cursor, backend)
            if version < schema.VERSION:
                migrations.upgrade(backend, connection, version)
                # The migrations committed what they did.
                backend.begin_making(cursor)
                _see_that_it_is_ours(cursor, backend)
            if lifetimes is not None:
                revise(cursor, lifetimes, now)
            backend.end(connection, cursor)
        except BaseException:
            backend.undo(connection, cursor)
            raise


def what_is_missing(backend: Backend, cursor: Cursor) -> list[Problem]:
    """Tables, indexes, privileges."""
    there = backend.tables(cursor)
    wanted = {name for name, _ in creation(backend.dialect)}
    missing = [Problem(f"{name} is missing", file=backend.place) for name in sorted(wanted - there)]
    return missing or backend.privileges(cursor)


def _names() -> set[str]:
    return set(schema.tables.tables)


def _see_that_it_is_ours(cursor: Cursor, backend: Backend) -> int:
    """The layout's version."""
    if "about" not in backend.tables(cursor):
        raise StoreError(f"{backend.place} is a database of something else: name one of its own")
    facts = dict(_about.run(cursor).fetchall())
    version = facts.get("version", 0)
    if not migrations.FIRST <= version <= schema.VERSION or facts.get("span") != schema.SPAN:
        raise StoreError(
            f"{backend.place} has layout {version}; this Nephoscope knows {migrations.FIRST} to {schema.VERSION}"
        )
    return int(version)
