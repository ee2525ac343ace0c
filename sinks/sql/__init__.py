"""The SQL store: SQLite, PostgreSQL, MySQL and MariaDB.

Guarantee: once `write` has returned, the rows are committed. Each id is stored once, whoever writes it and however often; the
first write wins. On SQLite they survive the end of the process and a loss of power (write-ahead log, synchronous=FULL); with
``?synchronous=normal`` in the URL a loss of power may take the newest transactions, whole ones. A server keeps them as its own
settings say (synchronous_commit, innodb_flush_log_at_trx_commit).

URLs are SQLAlchemy's: ``sqlite:////var/lib/nephoscope/samples.db``, ``postgresql://user:${env:DB_PASSWORD}@host/database``,
``mysql://…``, ``mariadb://…``. sinks/sql/urls.py lists their options.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from nephoscope.errors import Problem, StoreError, Unavailable
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
from sinks.sql import events, expire, query
from sinks.sql.backend import Backend, closing
from sinks.sql.making import made_or_upgraded, what_is_missing
from sinks.sql.memory import Memory
from sinks.sql.statements import Cursor
from sinks.sql.urls import backend_of
from sinks.sql.write import Writer


class SQLStore:
    """A store in a SQL database. Safe for several threads and processes.

    Raises ConfigError for a URL that cannot be used, StoreError for a database of another layout, Unavailable where it is away.
    """

    def __init__(self, url: str, lifetimes: Lifetimes | None = None) -> None:
        self._backend: Backend = backend_of(url)
        self.guarantee = self._backend.guarantee
        self._lock = threading.Lock()
        self._readers: queue.LifoQueue[Any] = queue.LifoQueue()
        self._closed = False
        self._writer: Writer | None = None
        self._memory = Memory()
        with self._backend.translated():
            made_or_upgraded(self._backend, lifetimes, now())

    # -- writing

    def write(self, rows: Rows) -> Written:
        """Store the rows in one transaction. See Store."""
        some = batches(rows)
        if not some:
            return Written()
        return self._written(lambda writer: writer.write(some))

    def write_events(self, events_: Sequence[Event]) -> Written:
        """Store the events in one transaction. See Store."""
        for one in events_:
            check_event(one)
        return self._written(lambda writer: writer.write_events(events_)) if events_ else Written()

    def expire(self, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
        """Remove what has lived for its time. See Store."""
        with self._backend.translated(), closing(self._backend.connect()) as connection:
            return expire.expire(self._backend, connection, lifetimes, now, progress)

    def _written(self, work: Callable[[Writer], Written]) -> Written:
        with self._lock, self._backend.translated(writing=True):
            if self._closed:
                raise Unavailable("the store is closed")
            if self._writer is None:
                self._writer = Writer(self._backend)
            try:
                return work(self._writer)
            except StoreError:
                raise
            except Exception:
                # Whatever it was, the next write begins with a connection that nothing is wrong with.
                self._writer.close()
                self._writer = None
                raise

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
        with self._backend.translated():
            server = self._backend.server()
        capabilities = dict.fromkeys(CAPABILITIES, True)
        return Description(kind="sql", server=server, guarantee=self.guarantee, capabilities=capabilities)

    def check(self) -> list[Problem]:
        """What is wrong: tables and indexes that are missing, privileges, the server's version."""
        with self._backend.translated(), closing(self._backend.connect()) as connection:
            return what_is_missing(self._backend, self._backend.cursor(connection))

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._writer.close()
            while not self._readers.empty():
                with suppress(Exception):
                    self._readers.get_nowait().close()

    @contextmanager
    def _reading(self) -> Iterator[Cursor]:
        """A cursor in a transaction of its own: everything read through it is of one moment."""
        with self._backend.translated():
            if self._closed:
                raise Unavailable("the store is closed")
            try:
                connection = self._readers.get_nowait()
            except queue.Empty:
                connection = self._backend.connect()
            try:
                cursor = self._backend.cursor(connection)
                cursor.memory = self._memory
                try:
                    self._backend.begin_reading(cursor)
                    yield cursor
                finally:
                    self._backend.undo(connection, cursor)
            except BaseException:
                with suppress(Exception):
                    connection.close()
                # The others were opened before whatever happened here: a server that was restarted knows none of them.
                self._forget_readers()
                raise
            self._readers.put(connection)

    def _forget_readers(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._readers.get_nowait().close()
