"""The MongoDB store: one server, or a replica set.

Guarantee: once `write` has returned, the rows are in the journals of most members of the replica set (of the server, where it is
alone): they survive the end of any minority of them. Each id is stored once, whoever writes it and however often; the first
write wins.

URLs are MongoDB's: ``mongodb://user:secret@host1,host2/nephoscope?replicaSet=rs0&tls=true``, ``mongodb+srv://…``. Retryable writes are on
unless the URL says otherwise. The database is the store's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError, InvalidDocument
from pymongo import ReadPreference
from pymongo.errors import (
    BulkWriteError,
    ConnectionFailure,
    DocumentTooLarge,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
)

from nephoscope.errors import ConfigError, Problem, StoreError, Unavailable
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription
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
)
from nephoscope.times import now
from sinks.mongodb import address, events, expire, layout, query
from sinks.mongodb.catalogue import Memory
from sinks.mongodb.write import Writer

_NEEDED: Final = ("find", "insert", "update", "remove", "createCollection", "createIndex", "collMod", "listIndexes")
_UNAUTHORIZED: Final = 13
_TOO_LARGE: Final = frozenset({10334, 17280, 17419, 17420})
"""The server's codes for a document or an index's entry that is too large."""


class MongoStore:
    """A store in one database. Safe for several threads and processes.

    Raises ConfigError for a URL that cannot be used or a user who lacks privileges, StoreError for a database of something else,
    Unavailable where the server is away.
    """

    guarantee = (
        "exactly once in effect: an id is stored once, the first write wins; what was written is in the journals of most members "
        "of the replica set"
    )

    def __init__(self, url: str, lifetimes: Lifetimes | None = None) -> None:
        self._client, name = address.connect(url)
        # The driver's own datetimes end before the times that clients may send.
        options: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_MS)
        self._db = self._client.get_database(
            name, codec_options=options, read_preference=ReadPreference.PRIMARY, write_concern=address.WRITTEN
        )
        self._memory = Memory()
        self._lock = threading.Lock()
        self._closed = False
        try:
            with self._translated():
                version = self._version()
                if version < layout.LEAST_SERVER:
                    least = ".".join(map(str, layout.LEAST_SERVER))
                    raise StoreError(f"MongoDB {'.'.join(map(str, version))} is too old: {least} is needed")
                try:
                    layout.create(self._db)
                    layout.take_up(self._db, lifetimes, now())
                except OperationFailure as error:
                    lacking = self._missing_privileges() if error.code == _UNAUTHORIZED else []
                    if lacking:
                        raise ConfigError(lacking) from None
                    raise
        except BaseException:
            self._client.close()
            raise
        self._writer = Writer(self._db)

    # -- writing

    def write(self, rows: Rows) -> Written:
        """Store the rows. See Store."""
        some = batches(rows)
        if not some:
            return Written()
        with self._lock, self._translated(writing=True):
            return self._writer.write(some)

    def write_events(self, events_: Sequence[Event]) -> Written:
        """Store the events. See Store."""
        with self._translated(writing=True):
            return events.write(self._db, events_)

    def expire(self, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
        """Remove what is older than it may live, save what the server itself deletes. See Store."""
        with self._translated():
            return expire.expire(self._db, lifetimes, now, progress)

    # -- asking

    def samples(self, query_: SampleQuery) -> Page:
        """A page of samples. See Store."""
        with self._translated():
            return query.samples(self._db, query_)

    def each_sample(self, tree: Filter = EVERYTHING) -> Iterator[Sample]:
        """All samples that pass. See Store."""
        with self._translated():
            yield from query.each_sample(self._db, tree)

    def meters(self, query_: ListQuery) -> MeterPage:
        """A page of meters. See Store."""
        with self._translated():
            return query.meters(self._db, query_)

    def resources(self, query_: ListQuery) -> ResourcePage:
        """A page of resources. See Store."""
        with self._translated():
            return query.resources(self._db, query_)

    def history(self, resource_id: str) -> list[State]:
        """What a resource's samples have said of it. See Store."""
        with self._translated():
            return query.history(self._db, resource_id)

    def statistics(self, query_: StatisticsQuery) -> list[Statistics]:
        """Statistics by period and group. See Store."""
        with self._translated():
            return query.statistics(self._db, query_, self._memory)

    def events(self, query_: EventQuery) -> EventPage:
        """A page of events. See Store."""
        with self._translated():
            return events.query(self._db, query_)

    def event_types(self) -> list[str]:
        """The types of the events that there are. See Store."""
        with self._translated():
            return events.event_types(self._db)

    def trait_descriptions(self, event_type: str) -> list[TraitDescription]:
        """The traits that events of a type have. See Store."""
        with self._translated():
            return events.trait_descriptions(self._db, event_type)

    def traits(self, event_type: str, name: str | None = None, limit: int | None = 100) -> list[Trait]:
        """The different traits of the events of a type. See Store."""
        with self._translated():
            return events.traits(self._db, event_type, name, limit)

    # -- looking after it

    def describe(self) -> Description:
        """What it is and can do."""
        with self._translated():
            version = ".".join(map(str, self._version()))
            hello = self._client.admin.command("hello")
            members = hello.get("setName")
        return Description(
            kind="mongodb",
            server=f"MongoDB {version}" + (f", replica set {members}" if members else ""),
            guarantee=self.guarantee,
            capabilities=dict.fromkeys(CAPABILITIES, True),
        )

    def check(self) -> list[Problem]:
        """What is missing: collections, indexes, privileges."""
        with self._translated():
            return [*layout.problems(self._db), *self._missing_privileges()]

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            self._closed = True
            self._client.close()

    def _version(self) -> tuple[int, ...]:
        return tuple(self._client.admin.command("buildInfo")["versionArray"][:3])

    def _missing_privileges(self) -> list[Problem]:
        """What the user may not do. Without authentication everybody may do everything."""
        told = self._client.admin.command("connectionStatus", showPrivileges=True)["authInfo"]
        if not told["authenticatedUsers"]:
            return []
        may: set[str] = set()
        for privilege in told["authenticatedUserPrivileges"]:
            of = privilege["resource"]
            if of.get("anyResource") or (of.get("db") in {"", self._db.name} and of.get("collection") == ""):
                may.update(privilege["actions"])
        lacking = [action for action in _NEEDED if action not in may]
        if not lacking:
            return []
        hint = f"grant the role dbOwner, or readWrite and dbAdmin, on {self._db.name}"
        who = told["authenticatedUsers"][0]["user"]
        return [Problem(f"the user {who} lacks: {', '.join(lacking)}", file=self._db.name, hint=hint)]

    @contextmanager
    def _translated(self, *, writing: bool = False) -> Iterator[None]:
        """The driver's errors as ours. While writing, only what is wrong with the rows themselves is final.

        A missing privilege or a full disk is no fault of the samples: they wait until it is mended.
        """
        if self._closed:
            raise Unavailable("the store is closed")
        try:
            yield
        except (InvalidDocument, DocumentTooLarge, BSONError, OverflowError) as error:
            raise StoreError(f"MongoDB cannot keep this: {error}") from error
        except (ConnectionFailure, ExecutionTimeout) as error:
            raise Unavailable(f"MongoDB is away: {_told(error)}") from error
        except BulkWriteError as error:
            faults = error.details.get("writeErrors", []) + error.details.get("writeConcernErrors", [])
            text = "; ".join(str(f.get("errmsg", f))[:200] for f in faults[:3])
            final = bool(faults) and all(f.get("code") in _TOO_LARGE for f in faults)
            raise (StoreError if final else Unavailable)(f"MongoDB: {text}") from error
        except OperationFailure as error:
            final = error.code in _TOO_LARGE if writing else not _may_pass(error)
            raise (StoreError if final else Unavailable)(f"MongoDB: {_told(error)}") from error
        except PyMongoError as error:
            raise Unavailable(f"MongoDB: {_told(error)}") from error


def _may_pass(error: OperationFailure) -> bool:
    """Whether the same call may succeed later: a server that changes its part, or that was interrupted."""
    return (
        error.timeout
        or error.has_error_label("RetryableWriteError")
        or error.code in {6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436}
    )


def _told(error: Exception) -> str:
    """The first words: what follows is a description of the whole cluster."""
    return str(error).partition(", Topology Description")[0].partition(", full error")[0][:300]
