"""What a store and a publisher are: the contract that every sink in `sinks/` keeps, and the words of its queries.

A store is found by its URL's scheme: entry points of the group ``nephoscope.store``, a callable that takes the URL and,
as its second argument, the Lifetimes, and gives a Store (see `OpenStore`). Publishers likewise (``nephoscope.publisher``, the URL
alone). All times are microseconds UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa

from nephoscope.errors import Problem, StoreError, Unavailable, nearest
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription
from nephoscope.filters import EVERYTHING, METADATA, Filter, field_named
from nephoscope.lifetimes import Lifetimes
from nephoscope.sample import Sample

Rows: TypeAlias = pa.RecordBatch | Sequence[pa.RecordBatch]
"""One batch of samples (nephoscope.batch.SCHEMA), or several that belong together, in the order of the log."""

NEWEST_FIRST: Final = (("timestamp", "desc"),)
GROUPS: Final = ("user_id", "project_id", "resource_id", "source")
"""What statistics can be grouped by, beside ``metadata.PATH``."""
AGGREGATES: Final = ("count", "sum", "avg", "min", "max", "stddev", "cardinality")


# -- writing


@dataclass(frozen=True, slots=True)
class Written:
    """What a write did: rows received, newly stored, and those that the store had already."""

    received: int = 0
    stored: int = 0
    doubles: int = 0

    def __add__(self, other: Written) -> Written:
        """Both together."""
        return Written(self.received + other.received, self.stored + other.stored, self.doubles + other.doubles)


@dataclass(frozen=True, slots=True)
class Expiry:
    """How far an expire has come: what is gone so far, and the share of the work that is done, from 0 to 1."""

    samples: int = 0
    resources: int = 0
    events: int = 0
    share: float = 0.0


# -- asking


@dataclass(frozen=True, slots=True)
class SampleQuery:
    """Which samples, in which order, how many, and after which one.

    `order`: (field, 'asc' or 'desc') pairs; what they leave open is decided by timestamp, newest first, then resource, name and id, so
    that pages never overlap. `cursor`: what the page before gave. `limit` None: all of them.
    """

    filter: Filter = EVERYTHING
    order: Sequence[tuple[str, str]] = NEWEST_FIRST
    limit: int | None = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        """Settle names; StoreError for what means nothing."""
        settled = []
        for name, direction in self.order:
            way = direction.lower()
            if way not in {"asc", "desc"}:
                raise StoreError(f"order of {name}: asc or desc, not {direction!r}")
            settled.append((field_named(name), way))
        object.__setattr__(self, "order", tuple(settled))
        check_limit(self.limit)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Which meters or resources: those that have a sample which passes. In the order of the resource's id.

    Where the filter reads the time, volume, id or lateness of samples, the samples themselves are looked at; otherwise what the
    store knows of the resources is enough.
    """

    filter: Filter = EVERYTHING
    limit: int | None = 100
    cursor: str | None = None

    def __post_init__(self) -> None:
        """StoreError for a bad limit."""
        check_limit(self.limit)


@dataclass(frozen=True, slots=True)
class StatisticsQuery:
    """Statistics of the volumes of what passes the filter.

    `period`: seconds; 0: one period for all. Periods are anchored at the filter's first timestamp, where it has one, else at
    the earliest sample that passes; empty ones are left out. `groupby`: of GROUPS, or ``metadata.PATH``.
    `aggregates`: names of AGGREGATES, ``cardinality/FIELD`` with its field; empty: all but stddev and cardinality.
    """

    filter: Filter = EVERYTHING
    period: int = 0
    groupby: Sequence[str] = ()
    aggregates: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Settle names; StoreError for what means nothing."""
        if self.period < 0:
            raise StoreError(f"period must be 0 or more, not {self.period}")
        groups = tuple(dict.fromkeys(field_named(g) for g in self.groupby))
        for group in groups:
            if group not in GROUPS and not group.startswith(METADATA):
                raise StoreError(f"cannot group by {group!r} ({nearest(group, (*GROUPS, 'metadata.NAME'))})")
        for aggregate in self.aggregates:
            name, _, of = aggregate.partition("/")
            if name not in AGGREGATES:
                raise StoreError(f"there is no aggregate {name!r} ({nearest(name, AGGREGATES)})")
            if (name == "cardinality") is not bool(of):
                raise StoreError(f"{aggregate!r}: cardinality/FIELD takes a field, the others none")
            if of and field_named(of) not in GROUPS:
                raise StoreError(f"there is no cardinality of {of!r} ({nearest(of, GROUPS)})")
        object.__setattr__(self, "groupby", groups)


@dataclass(frozen=True, slots=True)
class Page:
    """Some samples, and the cursor of what follows; None: nothing does."""

    samples: tuple[Sample, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Meter:
    """A meter of a resource, with the resource's newest user and project."""

    name: str
    type: str
    unit: str
    source: str
    resource_id: str
    user_id: str
    project_id: str


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as its newest sample says it is (metadata: the text of a JSON object), and when it was first and last seen."""

    resource_id: str
    user_id: str
    project_id: str
    source: str
    metadata: str
    first_sample: int
    last_sample: int


@dataclass(frozen=True, slots=True)
class State:
    """What a resource's samples said of it, and the first and last sample that said so."""

    user_id: str
    project_id: str
    metadata: str
    first_sample: int
    last_sample: int


@dataclass(frozen=True, slots=True)
class MeterPage:
    """Some meters, and the cursor of what follows."""

    meters: tuple[Meter, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class ResourcePage:
    """Some resources, and the cursor of what follows."""

    resources: tuple[Resource, ...]
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of one period and group. `stddev` is that of the population; what was not asked for is None.

    `unit` is the newest sample's. `duration_start` and `duration_end` are the first and last sample's timestamps; without a period,
    `period_start` and `period_end` are the same.
    """

    period: int
    period_start: int
    period_end: int
    duration_start: int
    duration_end: int
    unit: str
    groupby: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None
    sum: float | None = None
    avg: float | None = None
    min: float | None = None
    max: float | None = None
    stddev: float | None = None
    cardinality: Mapping[str, int] = field(default_factory=dict)

    @property
    def duration(self) -> float:
        """Seconds between the first and the last sample."""
        return (self.duration_end - self.duration_start) / 1e6


@dataclass(frozen=True, slots=True)
class Description:
    """What a store is and can do. `capabilities` has Ceilometer's names (``samples:query:complex``)."""

    kind: str
    server: str
    guarantee: str
    capabilities: Mapping[str, bool] = field(default_factory=dict)


CAPABILITIES: Final = (
    "meters:pagination",
    "meters:query:simple",
    "meters:query:metadata",
    "resources:pagination",
    "resources:query:simple",
    "resources:query:metadata",
    "samples:pagination",
    "samples:query:simple",
    "samples:query:metadata",
    "samples:query:complex",
    "statistics:groupby",
    "statistics:query:simple",
    "statistics:query:metadata",
    "statistics:aggregation:standard",
    *(f"statistics:aggregation:selectable:{a}" for a in AGGREGATES),
    "expire:samples",
    "expire:events",
    "events:query:simple",
    "events:pagination",
)
"""Everything that a store may be able to do."""


class OpenStore(Protocol):
    """What an entry point of the group ``nephoscope.store`` names."""

    def __call__(self, url: str, lifetimes: Lifetimes | None = None) -> Store:
        """The store at a URL, its tables and indexes made where they are not there.

        `lifetimes`: what is deleted when, from now on; the store takes a change up without a rebuild. None: as it was, for who
        only asks. Raises ConfigError for a URL that cannot be used, StoreError for what will never succeed, Unavailable
        where the store is away.
        """
        ...


class Store(Protocol):
    """Keeps samples and events, each id once, and answers questions about them. Safe for several threads and processes.

    Every method raises Unavailable where the store is away (the same call may succeed later) and StoreError for what will
    never succeed.
    """

    guarantee: str
    """One sentence: what is sure once `write` has returned."""

    def write(self, rows: Rows) -> Written:
        """Store the rows in one transaction; returns once the store has them. Idempotent: the first write of an id wins."""
        ...

    def samples(self, query: SampleQuery) -> Page:
        """Samples as they were written, in every attribute."""
        ...

    def each_sample(self, tree: Filter = EVERYTHING) -> Iterator[Sample]:
        """All samples that pass, about in the order of time, in bounded memory."""
        ...

    def meters(self, query: ListQuery) -> MeterPage:
        """Which meters there are, of which resource."""
        ...

    def resources(self, query: ListQuery) -> ResourcePage:
        """Which resources there are, with their newest metadata."""
        ...

    def history(self, resource_id: str) -> list[State]:
        """What a resource's samples have said of it, in the order in which it was first said."""
        ...

    def statistics(self, query: StatisticsQuery) -> list[Statistics]:
        """Statistics by period and group, in the order of time, then of the groups."""
        ...

    def write_events(self, events: Sequence[Event]) -> Written:
        """Store the events in one transaction. Idempotent: the first write of a message_id wins. StoreError for a bad one."""
        ...

    def events(self, query: EventQuery) -> EventPage:
        """Events as they were written, newest first; their traits in the order of the names."""
        ...

    def event_types(self) -> list[str]:
        """The types of the events that there are, in order."""
        ...

    def trait_descriptions(self, event_type: str) -> list[TraitDescription]:
        """The traits that events of a type have, by name, then type."""
        ...

    def traits(self, event_type: str, name: str | None = None, limit: int | None = 100) -> list[Trait]:
        """The different traits (or those of one name) of the events of a type, by name, type and value."""
        ...

    def expire(self, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
        """Remove the samples and events that are older at `now` than they may live; then what has none left.

        In bounded steps, while writing goes on; `progress` is called after each. Safe to run twice at once. What the store
        deletes by itself is left to it, and not counted. Resources, users and projects without samples go everywhere.
        """
        ...

    def describe(self) -> Description:
        """What it is and can do."""
        ...

    def check(self) -> list[Problem]:
        """What is wrong with it (tables, indexes, privileges, versions); empty: nothing."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


# -- publishers


class Refused(StoreError):
    """A publisher's receiver will never take `rows`, or `events`. All else that was published is out."""

    def __init__(self, message: str, rows: Sequence[pa.RecordBatch] = (), events: Sequence[Event] = ()) -> None:
        self.rows = list(rows)
        self.events = list(events)
        super().__init__(message)


class Publisher(Protocol):
    """Passes samples on. Not safe for several threads. nephoscope.publishers says what else its class may have."""

    guarantee: str
    """One sentence: what is sure once `flush` has returned, and what happens after a restart."""

    def publish(self, rows: Rows) -> None:
        """Take the rows, in their order; they are out once `flush` has returned.

        Raises Unavailable, the same call may succeed later; Refused, or StoreError where none of it will ever be taken.
        """
        ...

    def flush(self) -> None:
        """Send what was published. Raises as publish does; after Unavailable the next flush sends what did not go out."""
        ...

    def discard(self) -> int:
        """Forget what was published and is not out. How many samples that were."""
        ...

    def close(self) -> None:
        """Flush, and give back what it holds."""
        ...


@runtime_checkable
class EventPublisher(Protocol):
    """A publisher that takes events as well. Its class may have ``check_events(url)``, as ``check``, for a URL in an event pipeline."""

    def publish_events(self, events: Sequence[Event]) -> None:
        """Take events, in their order; `flush` and `discard` are for them too. Refused then holds `events`."""
        ...

    def flush(self) -> None:
        """See Publisher."""
        ...

    def discard(self) -> int:
        """See Publisher."""
        ...

    def close(self) -> None:
        """See Publisher."""
        ...


@runtime_checkable
class Positioned(Protocol):
    """A publisher that can go back: with its position in the flow's snapshot, each sample is in its output once."""

    def position(self) -> str:
        """Where the output ends now, everything published included."""
        ...

    def truncate(self, position: str) -> None:
        """Take back what was published after that position."""
        ...


def traits_of(events: Iterable[Event], name: str | None, limit: int | None) -> list[Trait]:
    """What `Store.traits` gives, of these events."""
    some = {t for e in events for t in e.traits if name is None or t.name == name}
    # Of one name and type, all values are texts or all numbers.
    return sorted(some, key=lambda t: (t.name, t.type, t.value))[:limit]


def batches(rows: Rows) -> list[pa.RecordBatch]:
    """The batches that have rows, as a list."""
    some = [rows] if isinstance(rows, pa.RecordBatch) else list(rows)
    return [r for r in some if r.num_rows]


def refusals(store: Store, rows: Rows) -> list[tuple[pa.RecordBatch, StoreError]]:
    """Write the rows, and find by halves what the store refuses for good: (a batch of one row, why) each. Raises Unavailable."""
    some = batches(rows)
    try:
        store.write(some)
    except Unavailable:
        raise
    except StoreError as error:
        if len(some) > 1:
            return [one for batch in some for one in refusals(store, batch)]
        (batch,) = some
        if batch.num_rows == 1:
            return [(batch, error)]
        half = batch.num_rows // 2
        return refusals(store, batch.slice(0, half)) + refusals(store, batch.slice(half))
    return []


def check_limit(limit: int | None) -> None:
    """StoreError unless it is None or above 0."""
    if limit is not None and limit < 1:
        raise StoreError(f"limit must be above 0, not {limit}")
