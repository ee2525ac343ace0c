"""The SQL store: SQLite today, laid out so that other databases can follow.

Guarantee: once `write` has returned, the rows survive the end of the process and a loss of power (SQLite's write-ahead log,
synchronous=FULL). With ``?synchronous=normal`` in the URL a loss of power may take the newest transactions, whole ones.
Each id is stored once, whoever writes it and however often; the first write wins.

URLs are SQLAlchemy's: ``sqlite:////var/lib/nephoscope/samples.db``, ``sqlite:///relative.db``.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url

from nephoscope.errors import ConfigError, Problem, StoreError, Unavailable
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription, check_event
from nephoscope.filters import EVERYTHING, Filter
from nephoscope.lifetimes import Lifetimes
from nephoscope.sample import Sample
from nephoscope.store import (
    CAPABILITIES,
    Description,
    Expiry,
    ListQuery,
    MeterPage,
    Page,
    ResourcePage,
    Rows,
    SampleQuery,
    State,
    Statistics,
    StatisticsQuery,
    Written,
    batches,
    check_limit,
)
from nephoscope.times import now
from sinks.sql import events, expire, query, schema
from sinks.sql.plan import revise
from sinks.sql.statements import Cursor, Statement
from sinks.sql.write import Writer

_WAIT: Final = 30.0
"""Seconds that a writer waits for another one's transaction."""
_SYNCHRONOUS: Final = ("normal", "full", "off")
_AWAY: Final = ("locked", "busy", "disk i/o error", "full", "unable to open", "readonly", "interrupted")

_about = Statement(sa.select(schema.about.c.key, schema.about.c.value))


class SQLStore:
    """A store in one SQLite file. Safe for several threads and processes.

    Raises ConfigError for a URL that cannot be used, StoreError for a file of another layout, Unavailable where the file cannot be
    opened or stays locked.
    """

    guarantee = (
        "exactly once in effect: an id is stored once, the first write wins; what was written survives the end of the process "
        "and a loss of power (the latter not with synchronous=normal)"
    )

    def __init__(self, url: str, lifetimes: Lifetimes | None = None) -> None:
        self._lifetimes = lifetimes
        self._url = _checked(url)
        self._synchronous = str(self._url.query.get("synchronous", "full")).lower()
        self._lock = threading.Lock()
        self._readers: queue.LifoQueue[sqlite3.Connection] = queue.LifoQueue()
        self._closed = False
        with _translated():
            self._connection = self._connect()
            try:
                self._create()
                self._writer = Writer(self._connection)
            except BaseException:
                self._connection.close()
                raise

    # -- writing

    def write(self, rows: Rows) -> Written:
        """Store the rows in one transaction. See Store."""
        some = batches(rows)
        if not some:
            return Written()
        with self._lock, _translated(writing=True):
            if self._closed:
                raise Unavailable("the store is closed")
            return self._writer.write(some)

    def write_events(self, events_: Sequence[Event]) -> Written:
        """Store the events in one transaction. See Store."""
        for one in events_:
            check_event(one)
        if not events_:
            return Written()
        with self._lock, _translated(writing=True):
            if self._closed:
                raise Unavailable("the store is closed")
            return self._writer.write_events(events_)

    def expire(self, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
        """Remove what has lived for its time. See Store."""
        with _translated():
            connection = self._connect()
            try:
                return expire.expire(connection, lifetimes, now, progress)
            finally:
                connection.close()

    # -- asking

    def samples(self, query_: SampleQuery) -> Page:
        """A page of samples. See Store."""
        with self._reading() as cursor:
            return query.samples(cursor, query_)

    def each_sample(self, tree: Filter = EVERYTHING) -> Iterator[Sample]:
        """All samples that pass. See Store."""
        with self._reading() as cursor:
            yield from query.each_sample(cursor, tree)

    def meters(self, query_: ListQuery) -> MeterPage:
        """A page of meters. See Store."""
        with self._reading() as cursor:
            return query.meters(cursor, query_)

    def resources(self, query_: ListQuery) -> ResourcePage:
        """A page of resources. See Store."""
        with self._reading() as cursor:
            return query.resources(cursor, query_)

    def history(self, resource_id: str) -> list[State]:
        """What a resource's samples have said of it. See Store."""
        with self._reading() as cursor:
            return query.history(cursor, resource_id)

    def statistics(self, query_: StatisticsQuery) -> list[Statistics]:
        """Statistics by period and group. See Store."""
        with self._reading() as cursor:
            return query.statistics(cursor, query_)

    def events(self, query_: EventQuery) -> EventPage:
        """A page of events. See Store."""
        with self._reading() as cursor:
            return events.query(cursor, query_)

    def event_types(self) -> list[str]:
        """The types of the events that there are. See Store."""
        with self._reading() as cursor:
            return events.event_types(cursor)

    def trait_descriptions(self, event_type: str) -> list[TraitDescription]:
        """The traits of a type. See Store."""
        with self._reading() as cursor:
            return events.trait_descriptions(cursor, event_type)

    def traits(self, event_type: str, name: str | None = None, limit: int | None = 100) -> list[Trait]:
        """The different traits of a type's events. See Store."""
        check_limit(limit)
        with self._reading() as cursor:
            return events.traits(cursor, event_type, name, limit)

    def describe(self) -> Description:
        """What it is and can do."""
        return Description(
            kind="sql",
            server=f"SQLite {sqlite3.sqlite_version}",
            guarantee=self.guarantee,
            capabilities=dict.fromkeys(CAPABILITIES, True),
        )

    def check(self) -> list[Problem]:
        """What is wrong with the file: tables and indexes that are missing."""
        with self._reading() as cursor:
            there = {name for (name,) in cursor.execute(_MASTER.sql)}
            wanted = {t.name for t in schema.tables.sorted_tables}
            wanted |= {str(i.name) for t in schema.tables.sorted_tables for i in t.indexes}
            return [Problem(f"{name} is missing", file=str(self._url.database)) for name in sorted(wanted - there)]

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            self._closed = True
            self._connection.close()
            while not self._readers.empty():
                self._readers.get_nowait().close()

    # -- connections

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            str(self._url.database), timeout=_WAIT, isolation_level=None, check_same_thread=False
        )
        # Pragmas take no parameters; the word is one of _SYNCHRONOUS.
        for pragma in (f"synchronous = {self._synchronous}", "cache_size = -65536", "wal_autocheckpoint = 4000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _create(self) -> None:
        """Make the tables, or see that they are ours."""
        cursor = self._connection.cursor()
        if cursor.execute(_MASTER.sql).fetchall():
            self._see_that_it_is_ours(cursor, older=True)
        mode = cursor.execute("PRAGMA journal_mode = wal").fetchone()[0]
        if mode != "wal":
            raise StoreError(f"{self._url.database}: SQLite cannot keep a write-ahead log here (journal mode {mode})")
        cursor.execute("BEGIN IMMEDIATE")
        try:
            if not cursor.execute(_MASTER.sql).fetchall():
                for _, statement in _CREATE:
                    cursor.execute(statement)
                facts = {"version": schema.VERSION, "span": schema.SPAN, "swept": 0}
                _ABOUT_ADDED.run_many(cursor, [{"key": k, "value": v} for k, v in facts.items()])
            self._upgrade(cursor)
            self._see_that_it_is_ours(cursor)
            if self._lifetimes is not None:
                revise(cursor, self._lifetimes, now())
            cursor.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise

    def _upgrade(self, cursor: Cursor) -> None:
        """From layout 1, which had no events and no classes of lifetimes: what it had is as it was."""
        if dict(_about.run(cursor).fetchall()).get("version") == 1:
            there = {name for (name,) in cursor.execute(_MASTER.sql)}
            for name, statement in _CREATE:
                if name not in there:
                    cursor.execute(statement)
            _VERSION_SET.run(cursor, to=schema.VERSION)

    def _see_that_it_is_ours(self, cursor: Cursor, *, older: bool = False) -> None:
        if "about" not in {name for (name,) in cursor.execute(_MASTER.sql)}:
            raise StoreError(f"{self._url.database} is a database of something else: name a file of its own")
        facts = dict(_about.run(cursor).fetchall())
        known = range(1 if older else schema.VERSION, schema.VERSION + 1)
        if facts.get("version") not in known or facts.get("span") != schema.SPAN:
            raise StoreError(
                f"{self._url.database} has layout {facts.get('version')}; this Nephoscope knows {schema.VERSION}"
            )

    @contextmanager
    def _reading(self) -> Iterator[Cursor]:
        """A cursor in a transaction of its own: everything read through it is of one moment."""
        with _translated():
            if self._closed:
                raise Unavailable("the store is closed")
            try:
                connection = self._readers.get_nowait()
            except queue.Empty:
                connection = self._connect()
            try:
                cursor = connection.cursor()
                cursor.execute("BEGIN")
                try:
                    yield cursor
                finally:
                    if connection.in_transaction:
                        cursor.execute("ROLLBACK")
            except BaseException:
                connection.close()
                raise
            self._readers.put(connection)


_MASTER = Statement(sa.select(sa.column("name")).select_from(sa.table("sqlite_master")))
_ABOUT_ADDED = Statement(sa.insert(schema.about))
_VERSION_SET = Statement(
    sa.update(schema.about).where(schema.about.c.key == "version").values(value=sa.bindparam("to"))
)


def _creation() -> list[tuple[str, str]]:
    from sqlalchemy.dialects import sqlite
    from sqlalchemy.schema import CreateIndex, CreateTable

    out = []
    for table in schema.tables.sorted_tables:
        out.append((table.name, str(CreateTable(table).compile(dialect=sqlite.dialect()))))
        indexes = sorted(table.indexes, key=lambda i: str(i.name))
        out += [(str(i.name), str(CreateIndex(i).compile(dialect=sqlite.dialect()))) for i in indexes]
    return out


_CREATE: Final = tuple(_creation())


def _checked(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise ConfigError([Problem("the store's URL cannot be read", hint="sqlite:////path/to/samples.db")]) from None
    problems = []
    if parsed.get_backend_name() != "sqlite":
        problems.append(
            Problem(f"there is no store for {parsed.get_backend_name()!r} yet", hint="sqlite:////path/to/samples.db")
        )
    elif not parsed.database or parsed.database == ":memory:":
        problems.append(Problem("the store needs a file", hint="sqlite:////path/to/samples.db"))
    for name, value in parsed.query.items():
        if name != "synchronous":
            problems.append(Problem(f"unknown option {name!r} in the store's URL", hint="known: synchronous"))
        elif str(value).lower() not in _SYNCHRONOUS:
            problems.append(Problem(f"synchronous={value}", hint=f"one of {', '.join(_SYNCHRONOUS)}"))
    if problems:
        raise ConfigError(problems)
    return parsed


@contextmanager
def _translated(*, writing: bool = False) -> Iterator[None]:
    """The driver's errors as ours. While writing, only what is wrong with the rows themselves is final.

    A table that is missing or a damaged file is no fault of the samples: they wait until it is mended.
    """
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        away = isinstance(error, sqlite3.OperationalError) and any(word in text.lower() for word in _AWAY)
        if writing:
            away = away or type(error) in {sqlite3.OperationalError, sqlite3.DatabaseError}
        raise (Unavailable if away else StoreError)(f"SQLite: {text}") from error
