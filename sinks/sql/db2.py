"""DB2, through ibm_db: one writer at a time, as on MySQL; who reads holds a lock that only a sweep of numbers waits for.

Checked against the dialect of ibm_db_sa alone: there is no DB2 server that the tests could start (docs/decisions/0080-db2.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import ibm_db
import ibm_db_dbi
import sqlalchemy as sa
from sqlalchemy.engine import URL

from nephoscope.errors import ConfigError, Problem, StoreError, Unavailable
from sinks.sql import schema
from sinks.sql.backend import Met, Records
from sinks.sql.servers import RECORDS, InTurns
from sinks.sql.statements import Cursor, Statement, dialect
from sinks.sql.words import DB2 as DIALECT

_OLDEST: Final = (11, 1)
"""VARBINARY came with 11.1."""
_FINAL: Final = ("22", "54")
_AWAY: Final = ("08", "40", "42710", "53", "55", "57", "58")
"""Classes of SQLSTATE, and 42710: another process has just made the table."""
_SQLSTATE: Final = re.compile(r"SQLSTATE=(\w{5})")


def guard(key: str, how: str) -> Statement:
    """Locks a row of `about` until the end of the transaction: 'swept' is the writers', 'span' the readers'."""
    told = sa.select(schema.about.c.value).where(schema.about.c.key == key)
    return Statement(told.with_statement_hint(f"WITH RS USE AND KEEP {how} LOCKS"))


WRITING: Final = guard("swept", "EXCLUSIVE")
READING: Final = guard("span", "SHARE")
SWEEPING: Final = guard("span", "EXCLUSIVE")


class DB2(InTurns):
    """A DB2 database for Linux, UNIX or Windows, with pages of 8 KB or more."""

    dialect, driver = DIALECT, "ibm_db"
    guarantee = "exactly once in effect: an id is stored once, the first write wins; what was written has been committed by the server"

    def __init__(self, url: URL) -> None:
        parts = (url.host, url.database, url.username, str(url.password or ""), *map(str, url.query.values()))
        if any(";" in (part or "") for part in parts):
            raise ConfigError([Problem("the store's URL has a ';' in it, which ibm_db cannot pass on")])
        (self._arguments, _) = dialect(DIALECT).create_connect_args(url)
        self.place = url.set(query={}).render_as_string(hide_password=True)

    def connect(self) -> Any:
        """See Backend."""
        connection = ibm_db_dbi.connect(*self._arguments)
        connection.set_autocommit(True)
        return connection

    @contextmanager
    def translated(self, *, writing: bool = False) -> Iterator[None]:
        """See Backend."""
        try:
            yield
        except ibm_db_dbi.Error as error:
            text = str(error)
            found = _SQLSTATE.search(text)
            state = found[1] if found else ""
            away = not state or state.startswith(_AWAY)
            if writing:
                away = state[:2] not in _FINAL
            raise (Unavailable if away else StoreError)(f"{self.place}: {text.splitlines()[0][:300]}") from None

    def transient(self, error: Exception) -> bool:
        """See Backend: a deadlock, or a lock that was not had in time."""
        return isinstance(error, ibm_db_dbi.Error) and any(
            s in str(error) for s in ("SQLSTATE=40001", "SQLSTATE=57033")
        )

    def begin(self, cursor: Cursor) -> None:
        """See Backend: writers take turns."""
        cursor.raw.connection.set_autocommit(False)
        WRITING.run(cursor).fetchall()

    def begin_reading(self, cursor: Cursor) -> None:
        """See Backend: a reader sees what was committed when it looks, and no number goes while it reads."""
        cursor.raw.connection.set_autocommit(False)
        READING.run(cursor).fetchall()

    def sweeping(self, cursor: Cursor) -> None:
        """See Backend."""
        self.begin(cursor)
        SWEEPING.run(cursor).fetchall()

    def end(self, connection: Any, cursor: Cursor) -> None:
        """See Backend."""
        connection.commit()
        connection.set_autocommit(True)

    def undo(self, connection: Any, cursor: Cursor) -> None:
        """See Backend."""
        with suppress(Exception):
            connection.rollback()
            connection.set_autocommit(True)

    def begin_making(self, cursor: Cursor) -> None:
        """See Backend: of two that make the same table, the second is told that it is there, and tries again."""
        cursor.raw.connection.set_autocommit(False)

    def tables(self, cursor: Cursor) -> set[str]:
        """See Backend. Names that were not quoted are in capitals there."""
        tables = "SELECT tabname FROM syscat.tables WHERE tabschema = CURRENT SCHEMA"
        indexes = "SELECT indname FROM syscat.indexes WHERE indschema = CURRENT SCHEMA"
        names = (*cursor.execute(tables).fetchall(), *cursor.execute(indexes).fetchall())
        return {name.lower() for (name,) in names}

    def privileges(self, cursor: Cursor) -> list[Problem]:
        """See Backend: tried, since they can be given in many ways."""
        out = []
        version = tuple(int(n) for n in self._version().split(".")[:2])
        if version < _OLDEST:
            out.append(Problem(f"the server is DB2 {'.'.join(map(str, version))}", hint="11.1 or newer"))
        for table in schema.tables.sorted_tables:
            last = list(table.columns)[-1]
            for what, statement in (
                ("SELECT", sa.select(table).where(sa.literal_column("1") == sa.literal_column("0"))),
                (
                    "UPDATE",
                    sa.update(table).where(sa.literal_column("1") == sa.literal_column("0")).values({last: last}),
                ),
                ("DELETE", sa.delete(table).where(sa.literal_column("1") == sa.literal_column("0"))),
            ):
                try:
                    Statement(statement).run(cursor)
                except ibm_db_dbi.Error as error:
                    if "SQLSTATE=42501" not in str(error):
                        raise
                    out.append(Problem(f"no privilege {what} on table {table.name}"))
        return out

    def remember(self, connection: Any) -> None:
        """See Backend."""

    def insert_natural(self, cursor: Cursor, records: Records) -> list[Met]:
        """See Backend. Writers take turns, so what is there stays as it is between the look and the insert."""
        met = self.find(cursor, records, lock=False)
        there = {m.row for m in met}
        absent = [i for i in range(len(records.fields)) if i not in there]
        if absent:
            RECORDS.run_columns(cursor, records.take(absent))
        return met

    def server(self) -> str:
        """See Backend."""
        return f"DB2 {self._version()}"

    def _version(self) -> str:
        connection = self.connect()
        try:
            return str(ibm_db.server_info(connection.conn_handler).DBMS_VER)
        finally:
            connection.close()
