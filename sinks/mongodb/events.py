"""Events: a document each, found by type, time and traits.

``{_id: message_id, e: type, g: generated, t: the same for the TTL monitor, traits: [{n: name, k: type, v: value}], raw}``
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import BulkWriteError

from nephoscope import event as events_
from nephoscope.event import Event, EventPage, EventQuery, Trait, TraitDescription, TraitTest
from nephoscope.store import Written
from sinks.mongodb import layout
from sinks.mongodb.address import Document
from sinks.mongodb.numbers import duplicates

_OPERATORS: Final = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte"}
_SAFE: Final = 2**53


def write(db: Database[Document], events: Sequence[Event]) -> Written:
    """Store those that are not there."""
    fresh: dict[str, Event] = {}
    for one in events:
        fresh.setdefault(one.message_id, one.settled())
    documents = [_document(one) for one in fresh.values()]
    stored = len(documents)
    if documents:
        try:
            db["event"].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            stored -= len(duplicates(error))
    return Written(len(events), stored, len(events) - stored)


def query(db: Database[Document], asked: EventQuery) -> EventPage:
    """A page of events."""
    page: list[Event] = []
    for one in _found(db, asked):
        if len(page) == asked.limit:
            return EventPage(tuple(page), events_.cursor_of(page[-1]))
        page.append(one)
    return EventPage(tuple(page))


def event_types(db: Database[Document]) -> list[str]:
    """The types that there are."""
    return sorted(row["_id"] for row in db["event"].aggregate([{"$group": {"_id": "$e"}}], allowDiskUse=True))


def trait_descriptions(db: Database[Document], event_type: str) -> list[TraitDescription]:
    """The traits of a type."""
    pipeline: list[Document] = [
        {"$match": {"e": {"$eq": event_type}}},
        {"$unwind": "$traits"},
        {"$group": {"_id": {"n": "$traits.n", "k": "$traits.k"}}},
    ]
    return sorted(
        TraitDescription(r["_id"]["n"], r["_id"]["k"]) for r in db["event"].aggregate(pipeline, allowDiskUse=True)
    )


def traits(db: Database[Document], event_type: str, name: str | None, limit: int | None) -> list[Trait]:
    """The different traits of a type, by name, type and value."""
    of_name = [] if name is None else [{"$match": {"traits.n": {"$eq": name}}}]
    pipeline: list[Document] = [
        {"$match": {"e": {"$eq": event_type}}},
        {"$unwind": "$traits"},
        *of_name,
        {"$group": {"_id": {"n": "$traits.n", "k": "$traits.k", "v": "$traits.v"}}},
        {"$sort": {"_id.n": 1, "_id.k": 1, "_id.v": 1}},
        *([] if limit is None else [{"$limit": limit}]),
    ]
    return [_trait(row["_id"]) for row in db["event"].aggregate(pipeline, allowDiskUse=True)]


def _document(one: Event) -> Document:
    return {
        "_id": one.message_id,
        "e": one.event_type,
        "g": one.generated,
        "t": layout.moment(one.generated),
        "traits": [{"n": t.name, "k": t.type, "v": t.value} for t in one.traits],
        "raw": one.raw,
    }


def _event(document: Document) -> Event:
    return Event(
        message_id=document["_id"],
        event_type=document["e"],
        generated=int(document["g"]),
        traits=tuple(_trait(t) for t in document["traits"]),
        raw=document["raw"],
    )


def _trait(document: Document) -> Trait:
    value = document["v"]
    # The driver has a type of its own for 64 bits.
    return Trait(document["n"], document["k"], int(value) if isinstance(value, int) else value)


def _found(db: Database[Document], asked: EventQuery) -> Iterator[Event]:
    """What is asked for, in order, from the cursor on. What the server may see otherwise is decided by `nephoscope.event.passes`."""
    wanted: list[Document] = []
    if asked.event_type is not None:
        wanted.append({"e": {"$eq": asked.event_type}})
    if asked.message_id is not None:
        wanted.append({"_id": {"$eq": asked.message_id}})
    if asked.start is not None:
        wanted.append({"g": {"$gte": _near(asked.start)}})
    if asked.end is not None:
        wanted.append({"g": {"$lt": _near(asked.end)}})
    if asked.cursor is not None:
        at, name = events_.read_cursor(asked.cursor)
        wanted.append({"$or": [{"g": {"$lt": _near(at)}}, {"g": _near(at), "_id": {"$gt": name}}]})
    wanted += [_test(test) for test in asked.traits]
    found = db["event"].find({"$and": wanted} if wanted else {}).sort([("g", -1), ("_id", 1)])
    events = (_event(document) for document in found)
    return (one for one in events if events_.passes(asked, one))


def _test(test: TraitTest) -> Document:
    facts: Document = {"n": {"$eq": test.name}, "k": {"$in": list(test.types)}}
    value: Any = test.value
    # Beyond 2**53 not every integer is a float64, nor the other way round: those are compared here, not there.
    if isinstance(value, str) or (test.op in _OPERATORS and -_SAFE < value < _SAFE):
        facts["v"] = {_OPERATORS[test.op]: value}
    return {"traits": {"$elemMatch": facts}}


def _near(time: int) -> int:
    """A time that the server can compare with: none lies beyond."""
    return max(-(2**62), min(2**62, time))
