"""The tables (docs/decisions/0025-sql-layout.md says why they are shaped so).

One record a (resource, timestamp, tie), a field a meter::

    record    span, resource, place, tie → state, form, fields
    kind      what samples of a meter have in common; kinds that give the same ids share an identity
    resource  its id
    state     what samples said of a resource: user, project, metadata; the first and last span in which one did
    word      the id of a user or project
    metadata  the text of a JSON object
    series    which kinds a resource has, and the last era in which it had a sample of it
    tie       on servers: the ties there are, whatever their records
    about     the layout's version; `swept` counts the sweeps that removed numbers
    note      texts that the store remembers: the plan of the classes of lifetimes
    event     message_id, shape, time, the traits' values, the notification
    shape     an event type, and the names and types of traits that come together
    trait     finds events by the value of a trait

`span` is the timestamp in units of SPAN, in a block of 2**BLOCK_BITS for each class of lifetimes (nephoscope.lifetimes), `place` the
microseconds from its start. Spans lead the key: what is written
together lies together, and what expires does. Inside a span a resource's records are neighbours, so that a question about
one resource reads a page a span. `tie` is empty where the sample's id follows from the rest (nephoscope.natural), else the id.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from nephoscope.times import SECOND
from sinks.sql.words import DB2

VERSION: Final = 3
SPAN: Final = 300 * SECOND
"""Microseconds of a span: short enough that the neighbours of a new record were written lately and share its page."""
BLOCK_BITS: Final = 25
"""Every span before 2289 fits, and 62 classes in 31 bits."""
IN_BLOCK: Final = (1 << BLOCK_BITS) - 1
ERA: Final = 64
"""Spans of an era: how finely the store knows, without looking, that a series lives."""

MAX_NAME: Final = 1024
"""Bytes that a name may have on servers, whose indexes take no longer ones."""

MAX_LONG: Final = 2**30
"""Bytes that a long text may have on DB2, which must be told."""

# Texts as their UTF-8 bytes: ordered by code points, and NUL is a letter like others.
NAME: Final = (
    sa.Text()
    .with_variant(sa.LargeBinary(), "postgresql")
    .with_variant(mysql.VARBINARY(MAX_NAME), "mysql", "mariadb")
    .with_variant(sa.VARBINARY(MAX_NAME), DB2)
)
LONG: Final = (
    sa.Text()
    .with_variant(sa.LargeBinary(), "postgresql")
    .with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    .with_variant(sa.BLOB(MAX_LONG), DB2)
)
NUMBER: Final = sa.BigInteger().with_variant(sa.Integer(), "postgresql", "mysql", "mariadb", DB2)
"""A number that 31 bits hold: SQLite's integers are as long as need be."""
TIE: Final = sa.LargeBinary().with_variant(mysql.VARBINARY(16), "mysql", "mariadb").with_variant(sa.VARBINARY(16), DB2)
FIELDS: Final = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb").with_variant(sa.BLOB(MAX_LONG), DB2)

tables = sa.MetaData()

record = sa.Table(
    "record",
    tables,
    sa.Column("span", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("resource", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("place", NUMBER, primary_key=True, autoincrement=False),
    sa.Column("tie", TIE, primary_key=True),
    sa.Column("state", NUMBER, nullable=False),
    sa.Column("form", sa.Integer().with_variant(sa.SmallInteger(), "postgresql"), nullable=False),
    sa.Column("fields", FIELDS, nullable=False),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (span)",
)
_NARROW: Final = ("tie", "fields")
"""Of `record`: of any length, and aligned to nothing."""


def padded_less(table: sa.Table) -> sa.Table:
    """A table whose columns have the order in which PostgreSQL, which keeps to it, pads least: integers first."""
    if table is not record:
        return table
    columns = sorted(record.columns, key=lambda c: c.name in _NARROW)
    by = {"postgresql_partition_by": record.dialect_options["postgresql"]["partition_by"]}
    copies = (
        sa.Column(c.name, c.type, primary_key=c.primary_key, autoincrement=False, nullable=c.nullable) for c in columns
    )
    return sa.Table(record.name, sa.MetaData(), *copies, **by)


# An id that is not natural is known for ever, under whatever resource and time it comes again.
# Only on SQLite (ONLY_ON_SQLITE).
sa.Index("record_tie", record.c.tie, unique=True, sqlite_where=record.c.tie != sa.literal_column("x''"))

# The same, where an index over all partitions or over a part of the records cannot be.
tie = sa.Table(
    "tie",
    tables,
    sa.Column("tie", TIE, primary_key=True),
    sa.Column("span", NUMBER, nullable=False, index=True),
    sa.Column("place", NUMBER, nullable=False),
)
NOT_ON_SQLITE: Final = frozenset({"tie"})
ONLY_ON_SQLITE: Final = frozenset({"record_tie"})

kind = sa.Table(
    "kind",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", NAME, nullable=False),
    sa.Column("type", NAME, nullable=False),
    sa.Column("unit", NAME, nullable=False),
    sa.Column("source", NAME, nullable=False),
    sa.Column("origin", LONG, nullable=False),
    sa.Column("identity", sa.Integer, nullable=False),
    # Elsewhere the whole may be too long for an index; a number is given under a lock anyhow.
    sa.UniqueConstraint("name", "type", "unit", "source", "origin").ddl_if(dialect="sqlite"),
)

resource = sa.Table(
    "resource",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", NAME, nullable=False, unique=True),
)

word = sa.Table(
    "word",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("text", NAME, nullable=False, unique=True),
)

metadata = sa.Table(
    "metadata",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # Of the text, which may be a megabyte. Texts that share a digest are told apart by comparing them.
    sa.Column("digest", sa.BigInteger, nullable=False, index=True),
    sa.Column("text", LONG, nullable=False),
)

state = sa.Table(
    "state",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("resource", sa.Integer, nullable=False),
    sa.Column("user", sa.Integer, nullable=False, index=True),
    sa.Column("project", sa.Integer, nullable=False, index=True),
    sa.Column("metadata", sa.Integer, nullable=False, index=True),
    sa.Column("first", sa.BigInteger, nullable=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("resource", "user", "project", "metadata"),
    # A newer version of each row, as there is one every span, finds room beside the old one; those of a page come together.
    postgresql_with={"fillfactor": 45},
)

series = sa.Table(
    "series",
    tables,
    sa.Column("resource", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("era", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

about = sa.Table(
    "about",
    tables,
    sa.Column("key", NAME, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)

note = sa.Table(
    "note",
    tables,
    sa.Column("key", NAME, primary_key=True),
    sa.Column("text", LONG, nullable=False),
)

event = sa.Table(
    "event",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("message_id", NAME, nullable=False, unique=True),
    sa.Column("shape", sa.Integer, nullable=False),
    sa.Column("generated", sa.BigInteger, nullable=False, index=True),
    # A JSON list, in the order of the shape's traits.
    sa.Column("traits", LONG, nullable=False),
    sa.Column("raw", LONG, nullable=False),
    sa.Index("event_shape", "shape", "generated"),
)

shape = sa.Table(
    "shape",
    tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("event_type", NAME, nullable=False, index=True),
    # A JSON list of [name, type], in the order of the names.
    sa.Column("traits", LONG, nullable=False),
)

trait = sa.Table(
    "trait",
    tables,
    sa.Column("event", sa.Integer, primary_key=True, autoincrement=False),
    # Of name, type and value.
    sa.Column("digest", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Index("trait_digest", "digest", "event"),
    sqlite_with_rowid=False,
)
