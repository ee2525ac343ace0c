"""SQLite: one file, one writer at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import URL

from nephoscope.errors import Problem, StoreError, Unavailable
from sinks.sql.backend import Backend, Met, Records
from sinks.sql.schema import record
from sinks.sql.statements import Cursor, Lookup, Statement

WAIT: Final = 10.0
"""Seconds that a writer waits for another one's transaction before the store counts as away (and the flow tries again)."""
_LOG: Final = 64 << 20
"""Bytes of the write-ahead log from which on a writer empties it."""
_LOG_WAIT: Final = 0.5
"""Seconds that it waits for readers of the log to do so."""
_AWAY: Final = ("locked", "busy", "disk i/o error", "full", "unable to open", "readonly", "interrupted")

MET: Final = "nephoscope_met"
"""The SQL function that tells a writer which records were there before. It lets no update happen."""

_KEY: Final = (record.c.span, record.c.resource, record.c.place, record.c.tie)
_natural = insert(record)
_insert_natural = Statement(
    _natural.on_conflict_do_update(
        index_elements=_KEY,
        set_={"form": record.c.form},
        where=getattr(sa.func, MET)(sa.bindparam("row"), record.c.state, record.c.form, record.c.fields),
    )
)
_insert_tied = Statement(sa.insert(record))
_ties = Lookup(sa.select(record.c.tie).where(record.c.tie != sa.literal_column("x''")), record.c.tie)
_merged = Statement(
    sa.update(record)
    .where(*(c == sa.bindparam(f"at_{c.name}") for c in _KEY))
    .values(state=sa.bindparam("new_state"), form=sa.bindparam("new_form"), fields=sa.bindparam("new_fields"))
)


class SQLite(Backend):
    """A file."""

    dialect, driver = "sqlite", "pysqlite"
    alone = True
    guarantee = (
        "exactly once in effect: an id is stored once, the first write wins; what was written survives the end of the process "
        "and a loss of power (the latter not with synchronous=normal)"
    )
    names_limited = False

    def __init__(self, url: URL) -> None:
        self.file = self.place = str(url.database)
        self._synchronous = str(url.query.get("synchronous", "full")).lower()
        self._met: list[Met] = []
        self._log = Path(f"{self.file}-wal")
        self._largest = _LOG

    def connect(self) -> Any:
        """See Backend."""
        connection = sqlite3.connect(self.file, timeout=WAIT, isolation_level=None, check_same_thread=False)
        # Pragmas take no parameters; the word is one of those that the URL may have.
        for pragma in (f"synchronous = {self._synchronous}", "cache_size = -65536", "wal_autocheckpoint = 4000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    @contextmanager
    def translated(self, *, writing: bool = False) -> Iterator[None]:
        """See Backend."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            away = isinstance(error, sqlite3.OperationalError) and any(word in text.lower() for word in _AWAY)
            if writing:
                away = away or type(error) in {sqlite3.OperationalError, sqlite3.DatabaseError}
            raise (Unavailable if away else StoreError)(f"SQLite: {text}") from error

    def transient(self, error: Exception) -> bool:
        """See Backend."""
        return False

    def begin(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN IMMEDIATE")

    def end(self, connection: Any, cursor: Cursor) -> None:
        """Commit, and keep the write-ahead log small.

        SQLite begins its log anew only in a moment in which nobody uses it. Where two processes write there is none, and the log grows for ever.
        """
        super().end(connection, cursor)
        if self._log_size() < self._largest:
            return
        with suppress(sqlite3.OperationalError):  # What was written is written.
            cursor.execute(f"PRAGMA busy_timeout = {round(1000 * _LOG_WAIT)}")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            cursor.execute(f"PRAGMA busy_timeout = {round(1000 * WAIT)}")
        # Somebody who reads for long keeps it: it is not to be waited for after each commit.
        self._largest = self._log_size() + _LOG

    def _log_size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:
            return 0

    def begin_reading(self, cursor: Cursor) -> None:
        """See Backend."""
        cursor.execute("BEGIN")

    def undo(self, connection: Any, cursor: Cursor) -> None:
        """See Backend."""
        if connection.in_transaction:
            cursor.execute("ROLLBACK")

    def begin_making(self, cursor: Cursor) -> None:
        """See Backend."""
        mode = cursor.execute("PRAGMA journal_mode = wal").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"{self.file}: SQLite cannot keep a write-ahead log here (journal mode {mode})")
        cursor.execute("BEGIN IMMEDIATE")

    def tables(self, cursor: Cursor) -> set[str]:
        """See Backend."""
        return {name for (name,) in cursor.execute("SELECT name FROM sqlite_master")}

    def remember(self, connection: Any) -> None:
        """See Backend."""
        connection.create_function(MET, 4, self._remember)

    def _remember(self, row: int, state: int, form: int, raw: bytes) -> bool:
        self._met.append(Met(row, state, form, raw))
        return False

    def insert_natural(self, cursor: Cursor, records: Records) -> list[Met]:
        """See Backend."""
        self._met.clear()
        _insert_natural.run_rows(cursor, ((*row, i) for i, row in enumerate(records.rows())))
        return list(self._met)

    def insert_tied(self, cursor: Cursor, records: Records) -> list[int]:
        """See Backend."""
        there = {tie for (tie,) in _ties.run(cursor, records.tie)}
        fresh = [i for i, tie in enumerate(records.tie) if tie not in there]
        if fresh:
            some = records.take(fresh) if there else records
            _insert_tied.run_rows(cursor, some.rows())
        return fresh

    def update(self, cursor: Cursor, records: Records) -> None:
        """See Backend."""
        _merged.run_rows(cursor, ((*row[4:], *row[:4]) for row in records.rows()))

    def server(self) -> str:
        """See Backend."""
        return f"SQLite {sqlite3.sqlite_version}"

    def privileges(self, cursor: Cursor) -> list[Problem]:
        """See Backend: who opens the file may write to it, or was told."""
        return []


# Rows go to the driver as tuples, in this order.
_ORDER: Final = ("span", "resource", "place", "tie", "state", "form", "fields")
assert _insert_natural.on("sqlite").names[:7] == _ORDER
assert _insert_tied.on("sqlite").names == _ORDER
assert _merged.on("sqlite").names == (
    "new_state", "new_form", "new_fields", "at_span", "at_resource", "at_place", "at_tie"
)  # fmt: skip
