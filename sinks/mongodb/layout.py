"""The collections (docs/decisions/0050-mongodb-layout.md says why they are shaped so).

::

    record    samples whose ids follow from their keys, by (hour, group, place, class, part): a field a resource of the group
    tied      samples that are known by their id alone, a document each; k: (hour, resource, place, class)
    kind      what samples of a meter have in common, under a number
    resource  its id (n), under a number; k: for each kind the last day that it has a sample of
    state     what samples said of a resource (r): user (u), project (p), metadata (m); a, z: the first and last day that one did
    event     message_id, type, time, traits, raw
    about     head: the layout's version, the plan of the classes of lifetimes, how often numbers were swept; counters; the lease of expire

A *group* is 16 resources of neighbouring numbers: number = 16 * group + slot. `hour` is the timestamp in hours, `place` the
microseconds from its start. Documents of `record` are written once and never changed: what comes later for the same key, and is
not there yet, is the next *part*. `t0`, `t1`, …, by the class, is the timestamp as the server's TTL monitor reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from bson.datetime_ms import DatetimeMS
from pymongo.database import Database
from pymongo.errors import CollectionInvalid, DuplicateKeyError

from nephoscope.errors import Problem, StoreError
from nephoscope.lifetimes import Lifetimes, Plan
from nephoscope.times import SECOND
from sinks.mongodb.address import Document

I64 = npt.NDArray[np.int64]

VERSION: Final = 1
LEAST_SERVER: Final = (6, 0)
"""The first that turns an index into a TTL index in place."""
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
GROUP: Final = 16
SLOTS: Final = "0123456789abcdef"
"""The fields of a document of `record`, by a resource's place in its group."""
FOR_EVER: Final = 2**31 - 1
"""Seconds that the server takes for a time to live that was taken back: 68 years past the timestamp."""

_KEY: Final = np.dtype([("lead", ">u8"), ("place", ">u4"), ("class", "u1"), ("part", ">u2")])
KEY_BYTES: Final = 13
"""Of a key without its part."""
LAST_PART: Final = 0xFFFF

_ZSTD: Final[dict[str, Any]] = {"storageEngine": {"wiredTiger": {"configString": "block_compressor=zstd"}}}
_INDEXES: Final[Mapping[str, tuple[tuple[str, dict[str, Any]], ...]]] = {
    "record": (),
    "tied": (("k", {}),),
    "kind": (("d", {"unique": True}),),
    "resource": (("n", {"unique": True}),),
    "state": (("d", {"unique": True}), ("r", {}), ("u", {}), ("p", {})),
    "event": (("g,_id", {}), ("e,g,_id", {}), ("traits.n,traits.v", {})),
}
_DESCENDING: Final = "g"


def keys(time: I64, number: I64, cls: I64, part: I64 | int = 0) -> npt.NDArray[Any]:
    """Keys of records or, with resources for groups, of ties; in the order of (hour, number, place, class, part)."""
    out = np.empty(len(time), _KEY)
    hour = time // HOUR
    out["lead"] = (hour << 40) | number
    out["place"] = time - hour * HOUR
    out["class"] = cls
    out["part"] = part
    return out


def cut(packed: npt.NDArray[Any]) -> list[bytes]:
    """Each key as bytes, its part included."""
    raw, size = packed.tobytes(), _KEY.itemsize
    return [raw[i : i + size] for i in range(0, len(raw), size)]


def read(raw: list[bytes], *, parts: bool) -> tuple[I64, I64]:
    """(number, timestamp) of keys, with or without parts."""
    shape = _KEY if parts else np.dtype(_KEY.descr[:-1])
    table = np.frombuffer(b"".join(raw), shape)
    lead = table["lead"].astype(np.int64)
    return lead & 0xFFFFFFFFFF, (lead >> 40) * HOUR + table["place"].astype(np.int64)


def bounds(hour: int, number: int, *, parts: bool) -> tuple[bytes, bytes]:
    """The keys between which all of a group (or resource) in an hour lie: at least the first, less than the second.

    As long as the keys themselves: the server orders bytes by their length first.
    """
    lead, rest = hour << 40 | number, bytes((KEY_BYTES + 2 if parts else KEY_BYTES) - 8)
    return lead.to_bytes(8, "big") + rest, (lead + 1).to_bytes(8, "big") + rest


def moment(timestamp: int) -> DatetimeMS:
    """A timestamp for the TTL monitor: rounded up, so that nothing goes too early."""
    return DatetimeMS(-(-timestamp // 1000))


def clock(cls: int) -> str:
    """The field that says a class's timestamps to the TTL monitor."""
    return f"t{cls}"


# -- making it, and looking after it


def create(db: Database[Document]) -> None:
    """Make what is not there. StoreError for a database of something else, or of another layout."""
    head = db["about"].find_one({"_id": "head"})
    if head is None:
        names = set(db.list_collection_names())
        # Another process that makes the same database writes `about` first, too.
        if names - {"about"} and db["about"].find_one({"_id": "head"}) is None:
            raise StoreError(f"the database {db.name} is of something else: name one of its own")
        fresh = {"_id": "head", "version": VERSION, "swept": 0, "plan": Plan().to_json()}
        _unless_there(lambda: db["about"].insert_one(fresh))
        head = db["about"].find_one({"_id": "head"})
    found = head and head.get("version")
    if found != VERSION:
        raise StoreError(f"the database {db.name} has layout {found}; this Nephoscope knows {VERSION}")
    names = set(db.list_collection_names())
    for name, indexes in _INDEXES.items():
        if name not in names:
            _unless_there(lambda name=name: db.create_collection(name, **_ZSTD))
        for fields, options in indexes:
            db[name].create_index(_spec(fields), name=fields, **options)


def plan_of(head: Mapping[str, Any]) -> Plan:
    """The plan of the classes of lifetimes that the store keeps."""
    return Plan.from_json(head["plan"])


def take_up(db: Database[Document], lifetimes: Lifetimes | None, now: int) -> None:
    """Settle which meters are in which class, and how long each class lives. None: as it was; indexes that are missing are made."""
    while True:
        head = db["about"].find_one({"_id": "head"}) or {}
        plan = plan_of(head)
        if lifetimes is None:
            break
        empty = db["record"].find_one({}, {"_id": 1}) is None and db["tied"].find_one({}, {"_id": 1}) is None
        revised = plan.revised(lifetimes, now, empty=empty)
        if revised == plan:
            break
        text = {"plan": revised.to_json()}
        if db["about"].update_one({"_id": "head", "plan": head["plan"]}, {"$set": text}).modified_count:
            plan = revised
            break
    for number in range(len(plan.names) + 1):
        seconds = None if lifetimes is None else lifetimes.seconds(plan.name(number))
        for name in ("record", "tied"):
            _live(db, name, clock(number), seconds)
    _live(db, "event", "t", None if lifetimes is None else lifetimes.events)


def lives(db: Database[Document], name: str, field: str) -> int | None:
    """The seconds after which the server deletes by a field; -1: never; None: the index is missing."""
    index = db[name].index_information().get(_ttl(field))
    if index is None:
        return None
    seconds = int(index.get("expireAfterSeconds", -1))
    return -1 if seconds >= FOR_EVER else seconds


def problems(db: Database[Document]) -> list[Problem]:
    """Which collections and indexes are missing."""
    out = []
    there = set(db.list_collection_names())
    head = db["about"].find_one({"_id": "head"})
    if head is None:
        return [Problem("the document about.head is missing: the store cannot be used", file=db.name)]
    classes = [clock(n) for n in range(len(plan_of(head).names) + 1)]
    for name, indexes in _INDEXES.items():
        if name not in there:
            out.append(Problem(f"the collection {name} is missing", file=db.name))
            continue
        wanted = [fields for fields, _ in indexes]
        wanted += [_ttl(f) for f in (classes if name in {"record", "tied"} else ["t"] if name == "event" else ())]
        known = db[name].index_information()
        hint = "it is made at the next start"
        out += [
            Problem(f"the index {i} of {name} is missing", file=db.name, hint=hint) for i in wanted if i not in known
        ]
    return out


def _live(db: Database[Document], name: str, field: str, seconds: int | None) -> None:
    """Give an index its time to live, in place. None: as it is."""
    now = lives(db, name, field)
    wanted = -1 if seconds is None else min(seconds, FOR_EVER - 1)
    if now is None:
        options: dict[str, Any] = {} if wanted < 0 else {"expireAfterSeconds": wanted}
        only = {field: {"$exists": True}}
        db[name].create_index([(field, 1)], name=_ttl(field), partialFilterExpression=only, **options)
    elif seconds is not None and now != wanted:
        lasting = FOR_EVER if wanted < 0 else wanted
        db.command("collMod", name, index={"name": _ttl(field), "expireAfterSeconds": lasting})


def _ttl(field: str) -> str:
    return f"ttl_{field}"


def _spec(fields: str) -> list[tuple[str, int]]:
    return [(f, -1 if f == _DESCENDING else 1) for f in fields.split(",")]


def _unless_there(make: Any) -> None:
    """Somebody else may make it at the same moment."""
    try:
        make()
    except (CollectionInvalid, DuplicateKeyError):
        pass
    except Exception as error:
        if getattr(error, "code", None) != 48:  # NamespaceExists
            raise
