"""The HBase store, through HBase's Thrift server.

Guarantee: once `write` has returned, the rows are in the write-ahead logs of HBase's region servers. Each id is stored once, whoever
writes it and however often; the first write wins. HBase itself deletes what has lived for its time.

URLs: ``hbase://host:port/prefix``; the store's tables are ``prefix_sample`` and so on, in a namespace where the prefix is
``namespace:prefix``. Options: ``admin=host:port`` (a Thrift 2 server, which can split and alter tables), ``timeout`` (seconds to wait for an
answer), ``buckets`` (1 to 256, for a new store: as many as the log has partitions), ``transport`` and ``protocol`` (as happybase's).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from nephoscope.errors import ConfigError, Problem, Unavailable, nearest
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription, check_event
from nephoscope.filters import EVERYTHING, Filter
from nephoscope.lifetimes import Lifetimes, Plan
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
from nephoscope.times import SECOND, now
from sinks.hbase import events, expire, layout, lists, query
from sinks.hbase.about import About
from sinks.hbase.admin import FOR_EVER, Admin, Tables
from sinks.hbase.facts import Cache, Catalogue
from sinks.hbase.layout import BUCKETS, FACT
from sinks.hbase.link import Link
from sinks.hbase.write import Writer

_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9_]+:)?[A-Za-z0-9_][A-Za-z0-9_.-]*")
_OPTIONS: Final = ("admin", "timeout", "buckets", "transport", "protocol")
_CHOICES: Final = {"transport": ("buffered", "framed"), "protocol": ("binary", "compact")}
_EXAMPLE: Final = "hbase://host:9090/nephoscope"
_PLAN_AGE: Final = 60.0
"""Seconds after which a writer looks whether the plan of lifetimes has changed: a change holds a day later."""


class HBaseStore:
    """A store in some tables of HBase. Safe for several threads and processes.

    Raises ConfigError for a URL that cannot be used, StoreError for tables of another layout, Unavailable where HBase is away.
    """

    guarantee = "exactly once in effect: an id is stored once, the first write wins; what was written is in the write-ahead logs of HBase"

    def __init__(self, url: str, lifetimes: Lifetimes | None = None) -> None:
        place = _checked(url)
        self._lifetimes = lifetimes
        self._link = Link(place.host, place.port, timeout=place.timeout, prefix=place.prefix.encode(), **place.form)
        self._tables = Tables(self._link, place.admin)
        self._about = About(self._link)
        self._cache = Cache()
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._open(place.buckets)
        except BaseException:
            self._link.close()
            raise

    def _open(self, buckets: int) -> None:
        kept = self._lifetimes or Lifetimes()
        # The classes that a new table needs are those of the settings; a store that is there says which it has had.
        first = _first_plan(kept)
        if self._tables.problems(None, first):
            self._tables.make(kept, first, buckets)
        self._buckets = self._about.settle(buckets)
        plan = self._about.plan()
        if self._lifetimes is not None:
            empty = next(self._link.scan(FACT, b"e", b"f", at_once=1), None) is None
            plan = self._about.revise(self._lifetimes, now(), empty=empty)
            self._tables.alter(self._lifetimes, plan)
        self._families = [layout.family(n) for n in range(len(plan.names) + 1)]
        self._plan_at = time.monotonic()
        self._writer = Writer(self._link, self._cache, self._buckets, plan)

    # -- writing

    def write(self, rows: Rows) -> Written:
        """Store the rows. See Store."""
        some = batches(rows)
        if not some:
            return Written()
        with self._lock:
            self._refresh()
            return self._writer.write(some)

    def write_events(self, events_: Sequence[Event]) -> Written:
        """Store the events. See Store."""
        for one in events_:
            check_event(one)
        if not events_:
            return Written()
        self._see_that_it_is_open()
        return events.write(self._link, events_)

    def expire(self, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
        """Remove what has lived for its time and HBase has not removed. See Store."""
        self._see_that_it_is_open()
        return expire.expire(self._catalogue(), self._about, lifetimes, now, progress)

    def _refresh(self) -> None:
        self._see_that_it_is_open()
        if time.monotonic() - self._plan_at > _PLAN_AGE:
            plan = self._about.plan()
            self._families = [layout.family(n) for n in range(len(plan.names) + 1)]
            self._writer.plan = plan
            self._plan_at = time.monotonic()

    # -- asking

    def samples(self, query_: SampleQuery) -> Page:
        """A page of samples. See Store."""
        return query.samples(self._catalogue(), query_)

    def each_sample(self, tree: Filter = EVERYTHING) -> Iterator[Sample]:
        """All samples that pass. See Store."""
        return query.each_sample(self._catalogue(), tree)

    def meters(self, query_: ListQuery) -> MeterPage:
        """A page of meters. See Store."""
        return lists.meters(self._catalogue(), query_, self._swept())

    def resources(self, query_: ListQuery) -> ResourcePage:
        """A page of resources. See Store."""
        return lists.resources(self._catalogue(), query_)

    def history(self, resource_id: str) -> list[State]:
        """What a resource's samples have said of it. See Store."""
        return query.history(self._catalogue(), resource_id)

    def statistics(self, query_: StatisticsQuery) -> list[Statistics]:
        """Statistics by period and group. See Store."""
        return query.statistics(self._catalogue(), query_)

    def events(self, query_: EventQuery) -> EventPage:
        """A page of events. See Store."""
        return events.query(self._link, query_)

    def event_types(self) -> list[str]:
        """The types of the events that there are. See Store."""
        return events.event_types(self._link)

    def trait_descriptions(self, event_type: str) -> list[TraitDescription]:
        """The traits of a type. See Store."""
        return events.trait_descriptions(self._link, event_type)

    def traits(self, event_type: str, name: str | None = None, limit: int | None = 100) -> list[Trait]:
        """The different traits of a type's events. See Store."""
        check_limit(limit)
        return events.traits(self._link, event_type, name, limit)

    def describe(self) -> Description:
        """What it is and can do."""
        return Description(
            kind="hbase",
            server="HBase through Thrift",
            guarantee=self.guarantee,
            capabilities=dict.fromkeys(CAPABILITIES, True),
        )

    def check(self) -> list[Problem]:
        """What is wrong: tables and families that are missing, disabled, or have another time to live than the settings say."""
        return self._tables.problems(self._lifetimes, self._about.plan())

    def close(self) -> None:
        """Give back the connections."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._writer.close()
                self._link.close()

    def _catalogue(self) -> Catalogue:
        self._see_that_it_is_open()
        return Catalogue(self._link, self._cache, self._buckets, self._families)

    def _swept(self) -> int:
        """Samples stamped before this may be gone."""
        shortest = min(self._tables.families().values(), default=FOR_EVER)
        by_itself = 0 if shortest >= FOR_EVER else now() - shortest * SECOND
        return max(self._about.swept(), by_itself)

    def _see_that_it_is_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")


def _first_plan(lifetimes: Lifetimes) -> Plan:
    return Plan().revised(lifetimes, 0, empty=True)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a URL says."""

    host: str
    port: int
    prefix: str
    admin: Admin | None
    timeout: float
    buckets: int
    form: dict[str, str]


def _checked(url: str) -> _Place:
    problems: list[Problem] = []
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 9090
    except ValueError:
        raise ConfigError([Problem("the store's URL cannot be read", hint=_EXAMPLE)]) from None
    prefix = parts.path.strip("/") or "nephoscope"
    if parts.scheme != "hbase" or not host:
        problems.append(Problem("the store's URL names no Thrift server of HBase", hint=_EXAMPLE))
    if parts.username or parts.password:
        problems.append(
            Problem("HBase's Thrift server knows no users: leave them out of the store's URL", hint=_EXAMPLE)
        )
    if not _PREFIX.fullmatch(prefix):
        problems.append(Problem("the store's URL has a prefix that is no name of tables", hint=_EXAMPLE))
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    problems += [
        Problem(f"unknown option {name!r} in the store's URL", hint=nearest(name, _OPTIONS))
        for name in sorted(options.keys() - set(_OPTIONS))
    ]
    form = {name: options[name] for name in _CHOICES if name in options}
    for name, value in form.items():
        if value not in _CHOICES[name]:
            problems.append(Problem(f"{name}={value}", hint=f"one of {', '.join(_CHOICES[name])}"))
    admin = None
    if "admin" in options:
        where, _, number = options["admin"].rpartition(":")
        if where and number.isdigit():
            admin = Admin(where, int(number))
        else:
            problems.append(Problem("admin= names no Thrift 2 server", hint="admin=host:9091"))
    timeout = _number(options, "timeout", 30.0, 0.1, 3600.0, problems)
    buckets = _number(options, "buckets", float(BUCKETS), 1.0, 256.0, problems)
    if problems:
        raise ConfigError(problems)
    return _Place(str(host), port, prefix, admin, timeout, int(buckets), form)


def _number(
    options: dict[str, str], name: str, default: float, least: float, most: float, problems: list[Problem]
) -> float:
    try:
        value = float(options.get(name, default))
        if least <= value <= most:
            return value
    except ValueError:
        pass
    problems.append(Problem(f"{name}={options[name]}", hint=f"a number from {least:g} to {most:g}"))
    return default
