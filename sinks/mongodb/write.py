"""Writing: batches to documents, without a transaction.

Documents of samples are inserted, and never changed. The unique `_id` says, for each, whether it was there:

* a natural row belongs to a key (hour, group, place, class). Its document is inserted as the key's part 0. Where there is one already, all parts
  are read, the rows that none of them has are inserted as the next part, and so on. A writer that inserts part n has seen all before
  it, and they do not change: so each row is stored once, whoever writes, and the first one's values stay.
* any other row is a document whose `_id` is the sample's.

Afterwards the days of what is stored are told (`Numbers.tell`), also of what was met: its writer may have ended before it could.

The numbers that a document refers to may be removed by an expiry that saw no sample of them. It counts `swept` up *before* it looks. So
when `swept` is the same after the insert as before, the expiry will look later and see the documents; else the writer looks
whether its numbers are there, keeps them (`x` marks what an expiry is about to remove), or takes its documents back and writes anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from nephoscope import natural
from nephoscope.batch import int_column
from nephoscope.errors import StoreError, Unavailable
from nephoscope.lifetimes import Plan
from nephoscope.store import Written
from nephoscope.times import TOO_LATE
from sinks.columns import Fields, changes, joined
from sinks.mongodb import fields, layout
from sinks.mongodb.address import Document
from sinks.mongodb.layout import GROUP, KEY_BYTES, LAST_PART, SLOTS
from sinks.mongodb.numbers import AT_ONCE, Numbers, chunks, duplicates

I64 = npt.NDArray[np.int64]

_TRIES: Final = 20
_KEYS_AT_ONCE: Final = 64


@dataclass(slots=True)
class _Rows:
    """Rows under their numbers. `cls`: the class of lifetimes; `identity` says which rows of a resource and time are the same sample."""

    resource: I64
    time: I64
    cls: I64
    identity: I64
    fields: Fields
    id: npt.NDArray[np.uint8]
    natural: npt.NDArray[np.bool_]

    def take(self, at: Any) -> _Rows:
        return _Rows(
            self.resource[at],
            self.time[at],
            self.cls[at],
            self.identity[at],
            self.fields.take(at),
            self.id[at],
            self.natural[at],
        )


@dataclass(slots=True)
class _Met:
    """What a write found or stored: it is told afterwards. `inserted`: the documents that are this write's own."""

    resource: list[I64] = field(default_factory=list)
    kind: list[I64] = field(default_factory=list)
    state: list[I64] = field(default_factory=list)
    time: list[I64] = field(default_factory=list)
    inserted: dict[str, list[bytes]] = field(default_factory=lambda: {"record": [], "tied": []})

    def add(self, resource: I64, time: I64, columns: Fields) -> None:
        self.resource.append(resource)
        self.time.append(time)
        self.kind.append(columns.kind)
        self.state.append(columns.state)

    def all(self) -> tuple[I64, I64, I64, I64]:
        parts = (self.resource, self.kind, self.state, self.time)
        resource, kind, state, time = (np.concatenate([np.zeros(0, np.int64), *p]) for p in parts)
        return resource, kind, state, time


class Writer:
    """Turns batches into documents. Not safe for several threads: MongoStore sees to that."""

    def __init__(self, db: Database[Document]) -> None:
        self._db = db
        self._numbers = Numbers(db)
        self._swept = -1
        self._text = ""
        self._plan = Plan()

    def write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        """All rows of the batches. After an error some may be stored: written again, the rest is."""
        try:
            if self._swept < 0:
                self._look()
            for _ in range(_TRIES):
                written = self._attempt(batches)
                if written is not None:
                    return written
        except BaseException:
            self._numbers.forget()
            self._swept = -1
            raise
        raise Unavailable("MongoDB: numbers were removed again and again while they were used")

    def _look(self) -> bool:
        """Whether anything was swept, or a meter has got another class, since this writer looked."""
        head = self._db["about"].find_one({"_id": "head"}, {"swept": 1, "plan": 1})
        if head is None:
            raise Unavailable(f"MongoDB: the document about.head of {self._db.name} is missing")
        same = (head["swept"], head["plan"]) == (self._swept, self._text)
        self._swept, self._text = head["swept"], head["plan"]
        self._plan = layout.plan_of(head)
        return not same

    def _attempt(self, batches: Sequence[pa.RecordBatch]) -> Written | None:
        """None: what was written is taken back, and everything is to be written anew."""
        numbers, plan = self._numbers, self._text
        numbers.begin()
        rows = _joined([self._numbered(batch) for batch in batches])
        met = _Met()
        stored = self._store(rows, met)
        numbers.tell(*met.all())
        while self._look():
            # Also what this write does not use may be gone.
            numbers.forget()
            if plan != self._text or not self._keep(met):
                for name, ids in met.inserted.items():
                    for some in chunks(ids, AT_ONCE):
                        self._db[name].delete_many({"_id": {"$in": some}})
                return None
            numbers.tell(*met.all())
        received = len(rows.time)
        return Written(received, stored, received - stored)

    def _keep(self, met: _Met) -> bool:
        """Keep the numbers that were used from being removed; False where one is gone."""
        resource, _, state, _ = met.all()
        for name, used in (("resource", np.unique(resource).tolist()), ("state", np.unique(state).tolist())):
            for some in chunks(used, AT_ONCE):
                wanted = {"_id": {"$in": some}}
                self._db[name].update_many({**wanted, "x": {"$exists": True}}, {"$unset": {"x": 1}})
                if self._db[name].count_documents(wanted) < len(some):
                    return False
        return True

    def _numbered(self, batch: pa.RecordBatch) -> _Rows:
        time = int_column(batch, "timestamp")
        if time.min() < 0 or time.max() >= TOO_LATE:
            raise StoreError("a timestamp must lie between 1970 and 2200")
        numbers = self._numbers
        which, kinds, kind = numbers.kinds_of(batch)
        resource = numbers.resources_of(batch)
        computed = natural.ids(kinds, which, *natural.row_keys(batch), time)
        own = natural.stored_ids(batch)
        columns = Fields(
            kind[which],
            batch.column("volume").to_numpy(),
            int_column(batch, "measured_at"),
            batch.column("late").to_numpy(zero_copy_only=False),
            numbers.states_of(batch, resource),
        )
        identity = numbers.identities_of(kind)[which]
        cls = self._plan.numbers([k.name for k in kinds], which, time)
        return _Rows(resource, time, cls, identity, columns, own, natural.same(computed, own))

    def _store(self, rows: _Rows, met: _Met) -> int:
        if rows.natural.all():
            return self._store_natural(rows, met)
        tied = self._store_tied(rows.take(~rows.natural), met)
        return tied + (self._store_natural(rows.take(rows.natural), met) if rows.natural.any() else 0)

    # -- rows that are known by their ids alone

    def _store_tied(self, rows: _Rows, met: _Met) -> int:
        _, first = np.unique(np.ascontiguousarray(rows.id).view("V16").ravel(), return_index=True)
        rows = rows.take(np.sort(first))
        ids = [raw.tobytes() for raw in rows.id]
        keys = [k[:KEY_BYTES] for k in layout.cut(layout.keys(rows.time, rows.resource, rows.cls))]
        values = fields.pack(rows.fields, np.arange(len(ids)), rows.time)
        documents = [
            {"_id": i, "k": k, "b": b, layout.clock(c): layout.moment(t)}
            for i, k, b, c, t in zip(ids, keys, values, rows.cls.tolist(), rows.time.tolist(), strict=True)
        ]
        there = _inserted(self._db["tied"], documents)
        if there:
            found: list[Document] = []
            for some in chunks([ids[i] for i in there], AT_ONCE):
                found += self._db["tied"].find({"_id": {"$in": some}}, {"k": 1, "b": 1})
            resource, time = layout.read([d["k"] for d in found], parts=False)
            columns, of = fields.unpack([d["b"] for d in found], time)
            met.add(resource[of], time[of], columns)
            rows = rows.take(np.setdiff1d(np.arange(len(ids)), there))
            ids = [raw.tobytes() for raw in rows.id]
        met.inserted["tied"] += ids
        met.add(rows.resource, rows.time, rows.fields)
        return len(ids)

    # -- rows whose ids follow from their keys

    def _store_natural(self, rows: _Rows, met: _Met) -> int:
        rows = _in_order(rows)
        stored = 0
        parts: dict[bytes, int] = {}
        while len(rows.time):
            documents, of = _documents(rows, parts)
            there = _inserted(self._db["record"], documents)
            settled = np.ones(len(documents), bool)
            settled[there] = False
            met.inserted["record"] += [d["_id"] for d, new in zip(documents, settled.tolist(), strict=True) if new]
            new = settled[of]
            met.add(rows.resource[new], rows.time[new], rows.fields.take(new))
            stored += int(np.count_nonzero(new))
            if not there:
                break
            rows = self._missing(rows.take(~new), [documents[i]["_id"][:KEY_BYTES] for i in there], parts, met)
        return stored

    def _missing(self, rows: _Rows, keys: list[bytes], parts: dict[bytes, int], met: _Met) -> _Rows:
        """The rows that no part of their key has; `parts` says where to write them."""
        resources, times, columns = [], [], []
        for some in chunks(sorted(set(keys)), _KEYS_AT_ONCE):
            ranges = [{"_id": {"$gte": k + b"\0\0", "$lte": k + b"\xff\xff"}} for k in some]
            ids: list[bytes] = []
            values: list[bytes] = []
            slots: list[int] = []
            for document in self._db["record"].find({"$or": ranges} if len(ranges) > 1 else ranges[0]):
                key = document["_id"]
                last = int.from_bytes(key[KEY_BYTES:], "big")
                parts[key[:KEY_BYTES]] = max(parts.get(key[:KEY_BYTES], 0), last + 1)
                for name, value in document.items():
                    if name in SLOTS:
                        ids.append(key)
                        values.append(value)
                        slots.append(int(name, 16))
            if not ids:
                # What was met has been deleted since.
                continue
            if max(parts[k] for k in some if k in parts) > LAST_PART:
                raise StoreError("there are too many parts of one moment")
            group, time = layout.read(ids, parts=True)
            found, of = fields.unpack(values, time)
            resources.append((group * GROUP + np.array(slots, np.int64))[of])
            times.append(time[of])
            columns.append(found)
        for key in keys:
            parts.setdefault(key, 0)
        if not columns:
            return rows
        there = joined(columns)
        resource, time = np.concatenate(resources), np.concatenate(times)
        met.add(resource, time, there)
        known = np.stack([resource, time, self._numbers.identities_of(there.kind)], axis=1)
        wanted = np.stack([rows.resource, rows.time, rows.identity], axis=1)
        _, code = np.unique(np.concatenate([known, wanted]), axis=0, return_inverse=True)
        code = code.ravel()
        return rows.take(~np.isin(code[len(known) :], code[: len(known)]))


def _inserted(collection: Collection[Document], documents: list[Document]) -> list[int]:
    """Insert them; the positions of those that were there before."""
    try:
        collection.insert_many(documents, ordered=False)
    except BulkWriteError as error:
        return duplicates(error)
    return []


def _documents(rows: _Rows, parts: dict[bytes, int]) -> tuple[list[Document], I64]:
    """(documents, the document's position of each row), given rows in order, and the part to write of a key (0 where not given)."""
    starts = np.flatnonzero(changes(rows.resource, rows.time, rows.cls))
    values = fields.pack(rows.fields, starts, rows.time)
    group = rows.resource // GROUP
    fresh = changes(group, rows.time, rows.cls)
    heads = np.flatnonzero(fresh)
    raw = layout.cut(layout.keys(rows.time[heads], group[heads], rows.cls[heads]))
    if parts:
        raw = [k[:KEY_BYTES] + parts.get(k[:KEY_BYTES], 0).to_bytes(2, "big") for k in raw]
    documents = [
        {"_id": key, layout.clock(c): layout.moment(t)}
        for key, c, t in zip(raw, rows.cls[heads].tolist(), rows.time[heads].tolist(), strict=True)
    ]
    of = np.cumsum(fresh) - 1
    slots = (rows.resource[starts] % GROUP).tolist()
    for document, slot, value in zip(of[starts].tolist(), slots, values, strict=True):
        documents[document][SLOTS[slot]] = value
    return documents, of


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    return _Rows(
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
        np.concatenate([p.cls for p in parts]),
        np.concatenate([p.identity for p in parts]),
        joined([p.fields for p in parts]),
        np.concatenate([p.id for p in parts]),
        np.concatenate([p.natural for p in parts]),
    )


def _in_order(rows: _Rows) -> _Rows:
    """The rows in the order of the documents' keys, the first of each id only."""
    time, resource, identity = rows.time, rows.resource, rows.identity
    if (
        (time == time[0]).all()
        and (rows.cls == rows.cls[0]).all()
        and resource.max() < 2**31
        and identity.max() < 2**31
    ):
        order = np.argsort(resource << 31 | identity, kind="stable")
    else:
        order = np.lexsort((identity, resource, rows.cls, time, resource // GROUP))
    rows = rows.take(order)
    first = changes(rows.resource, rows.time, rows.cls, rows.identity)
    return rows if first.all() else rows.take(first)
