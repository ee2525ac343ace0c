"""What stands in the store once, under a number: kinds, resources, states; and on which days there were samples of them.

There is no transaction around it. Numbers come from counters; a unique index decides between two writers who bring the same thing, and the
number of the one who lost stays unused. What a writer remembers is a cache: numbers are only ever removed by `sinks.mongodb.expire`,
which counts `about.head.swept` up first (see sinks.mongodb.write).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pymongo import ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from nephoscope.natural import Kind, codes, content, distinct, kinds_of, words
from nephoscope.partition import partition
from sinks.mongodb.address import Document
from sinks.mongodb.layout import DAY, GROUP

I64 = npt.NDArray[np.int64]

DUPLICATE: Final = 11000
AT_ONCE: Final = 1000
_MANY: Final = 500_000
_DICTIONARIES: Final = 1024
_NO_DAY: Final = 2**40
_OPEN: Final = 64
"""Groups that have room for resources that come alone, by the resource's hash: what comes together later lies together."""


class Numbers:
    """A writer's memory of the numbers in the store. Not safe for several threads."""

    def __init__(self, db: Database[Document]) -> None:
        self._db = db
        # Slots of groups that this writer has taken, and not used yet; by its number, a group that takes resources that come alone.
        self._free: dict[int, list[int]] = {}
        self._open: dict[int, int] = {}
        self.forget()

    def forget(self) -> None:
        """Remember nothing: after an error, or when numbers were removed."""
        self.kinds: dict[Kind, int] = {}
        self.identities: dict[str, int] = {}
        self.identity: I64 = np.full(0, -1, np.int64)
        self._resources: dict[str, int] = {}
        self._dictionaries: dict[tuple[str, bytes], I64] = {}
        # Users, projects and metadata under numbers of this process alone; metadata by their digests.
        self._local: dict[str | bytes, int] = {}
        self._states: dict[tuple[int, ...], int] = {}
        # By the resource's number: its latest user, project, metadata and state.
        self._latest: I64 = np.full((4, 0), -1, np.int64)
        # By the state's number: first and last day, as far as told.
        self._seen: I64 = np.empty((2, 0), np.int64)
        self._series: dict[int, set[int]] = {}

    def begin(self) -> None:
        """A write begins: forget what has grown too large."""
        many = len(self._resources) + len(self._local) + len(self._states)
        if many + sum(map(len, self._series.values())) // 4 > _MANY:
            self.forget()
        if len(self._dictionaries) > _DICTIONARIES:
            self._dictionaries.clear()
        if len(self._free) > _MANY:
            self._free.clear()

    # -- kinds

    def kinds_of(self, rows: pa.RecordBatch) -> tuple[I64, list[Kind], I64]:
        """(each row's position in the list, the kinds of the rows, their numbers)."""
        which, kinds = kinds_of(rows)
        missing = [k for k in kinds if k not in self.kinds]
        if missing:
            digests = [digest(*k) for k in missing]
            known = self._numbered("kind", "d", dict(zip(digests, (k._asdict() for k in missing), strict=True)))
            for kind, raw in zip(missing, digests, strict=True):
                self._know_kind(kind, known[raw])
        return which, kinds, np.array([self.kinds[k] for k in kinds], np.int64)

    def identities_of(self, kind: I64) -> I64:
        """The identity of each kind's number: kinds that share one give the same ids."""
        if len(kind) and (kind.max() >= len(self.identity) or (self.identity[kind] < 0).any()):
            for document in self._db["kind"].find():
                self._know_kind(Kind(*(document[f] for f in Kind._fields)), document["_id"])
        return self.identity[kind]

    def _know_kind(self, kind: Kind, number: int) -> None:
        self.kinds[kind] = number
        if number >= len(self.identity):
            self.identity = _grown(self.identity, number + 1, -1)
        self.identity[number] = self.identities.setdefault(kind.identity, number)

    # -- resources

    def resources_of(self, rows: pa.RecordBatch) -> I64:
        """The resource's number of each row."""
        return self._by_dictionary(rows, "resource_id", self._resource_numbers)

    def _by_dictionary(self, rows: pa.RecordBatch, column: str, find: Callable[[list[str]], list[int]]) -> I64:
        code = codes(rows, column)
        dictionary = rows.column(column).dictionary
        key = (column, content(dictionary))
        table = self._dictionaries.get(key)
        if table is None:
            table = self._dictionaries[key] = np.full(len(dictionary), -1, np.int64)
        numbers = table[code]
        missing = numbers < 0
        if missing.any():
            # Only what a row uses: a dictionary may hold values of other batches.
            _, used = distinct(code[missing].astype(np.int64))
            table[used] = find(words(rows, column, used))
            numbers = table[code]
        return numbers

    def _resource_numbers(self, names: list[str]) -> list[int]:
        missing = [n for n in names if n not in self._resources]
        if missing:
            known = _found(self._db, "resource", "n", missing)
            fresh = [n for n in missing if n not in known]
            if fresh:
                there = {self._resources[n] for n in names if n in self._resources} | set(known.values())
                self._take_slots(fresh, {number // GROUP for number in there})
                known |= self._numbered("resource", "n", {n: {} for n in fresh}, self._slots(fresh))
            self._resources |= known
        return [self._resources[n] for n in names]

    def _take_slots(self, names: list[str], fellows: set[int]) -> None:
        """See that there are slots for new resources: in groups of resources that come with them, else in new ones."""
        self._fellows = [g for g in fellows if self._free.get(g)]
        if len(names) == 1 and not self._fellows:
            group = self._open.get(partition(names[0], _OPEN))
            if group is not None and self._free.get(group):
                self._fellows = [group]
        room = sum(len(self._free[g]) for g in self._fellows)
        more = -(-max(0, len(names) - room) // GROUP)
        if more:
            last = self._counted("group", more)
            fresh = list(range(last - more + 1, last + 1))
            for group in fresh:
                self._free[group] = list(range(GROUP - 1, -1, -1))
            self._fellows += fresh
            for name in names:
                self._open[partition(name, _OPEN)] = last

    def _slots(self, names: list[str]) -> Iterator[int]:
        for group in self._fellows:
            free = self._free.get(group, [])
            while free:
                yield group * GROUP + free.pop()
            self._free.pop(group, None)

    # -- states

    def states_of(self, rows: pa.RecordBatch, resource: I64) -> I64:
        """The state's number of each row: what it says of its resource."""
        user = self._by_dictionary(rows, "user_id", self._texts)
        project = self._by_dictionary(rows, "project_id", self._texts)
        said = self._by_dictionary(rows, "resource_metadata", self._metadata)
        top = int(resource.max())
        if top >= self._latest.shape[1]:
            self._latest = np.stack([_grown(line, top + 1, -1) for line in self._latest])
        latest = self._latest[:, resource]
        number: I64 = latest[3]
        other = np.flatnonzero((latest[0] != user) | (latest[1] != project) | (latest[2] != said))
        if len(other):
            number[other] = self._other_states(rows, other, resource, (user, project, said))
        return number

    def _texts(self, texts: list[str]) -> list[int]:
        return [self._local.setdefault(t, len(self._local)) for t in texts]

    def _metadata(self, texts: list[str]) -> list[int]:
        return [self._local.setdefault(digest(t), len(self._local)) for t in texts]

    def _other_states(self, rows: pa.RecordBatch, at: I64, resource: I64, said: tuple[I64, I64, I64]) -> I64:
        keys = list(zip(*(c[at].tolist() for c in (resource, *said)), strict=True))
        missing: dict[tuple[int, ...], int] = {}
        for row, key in zip(at.tolist(), keys, strict=True):
            if key not in self._states:
                missing.setdefault(key, row)
        if missing:
            some = rows.take(pa.array(list(missing.values())))
            texts = zip(
                *(some.column(c).to_pylist() for c in ("user_id", "project_id", "resource_metadata")), strict=True
            )
            wanted = {
                digest(str(key[0]), *t): {"r": key[0], "u": t[0], "p": t[1], "m": t[2]}
                for key, t in zip(missing, texts, strict=True)
            }
            known = _found(self._db, "state", "d", list(wanted))
            known |= self._numbered("state", "d", {d: facts for d, facts in wanted.items() if d not in known})
            self._states.update((key, known[d]) for key, d in zip(missing, wanted, strict=True))
        out = np.array([self._states[k] for k in keys], np.int64)
        self._latest[:, resource[at]] = *(c[at] for c in said), out
        return out

    # -- days

    def tell(self, resource: I64, kind: I64, state: I64, time: I64) -> None:
        """Say, where it is new, that there are samples of these at these times. Only of what the store really has."""
        if not len(time):
            return
        day = time // DAY
        changes = self._states_seen(state, day)
        if changes:
            self._db["state"].bulk_write(changes, ordered=False)
        changes = self._series_seen(resource, kind, day)
        if changes:
            self._db["resource"].bulk_write(changes, ordered=False)

    def _states_seen(self, state: I64, day: I64) -> list[UpdateOne]:
        top = int(state.max())
        if top >= self._seen.shape[1]:
            self._seen = np.stack([_grown(self._seen[0], top + 1, _NO_DAY), _grown(self._seen[1], top + 1, -1)])
        first, last = self._seen
        wider = (day < first[state]) | (day > last[state])
        if not wider.any():
            return []
        np.minimum.at(first, state[wider], day[wider])
        np.maximum.at(last, state[wider], day[wider])
        which = np.unique(state[wider])
        return [
            UpdateOne({"_id": n}, {"$min": {"a": low}, "$max": {"z": high}})
            for n, low, high in zip(which.tolist(), first[which].tolist(), last[which].tolist(), strict=True)
        ]

    def _series_seen(self, resource: I64, kind: I64, day: I64) -> list[UpdateOne]:
        pairs = resource << 24 | kind
        days: dict[int, dict[str, int]] = {}
        for one in np.unique(day).tolist():
            fresh = set(pairs[day == one].tolist()) - self._series.setdefault(one, set())
            self._series[one] |= fresh
            for pair in fresh:
                told = days.setdefault(pair >> 24, {})
                name = f"k.{pair & 0xFFFFFF}"
                told[name] = max(one, told.get(name, one))
        while len(self._series) > 4:
            del self._series[min(self._series)]
        return [UpdateOne({"_id": n}, {"$max": told}) for n, told in sorted(days.items())]

    # -- numbers

    def _counted(self, name: str, many: int) -> int:
        """The last of `many` fresh numbers."""
        counter: Any = self._db["about"].find_one_and_update(
            {"_id": name}, {"$inc": {"n": many}}, upsert=True, return_document=ReturnDocument.AFTER
        )
        return int(counter["n"])

    def _numbered(
        self, name: str, field: str, wanted: Mapping[Any, Mapping[str, Any]], numbers: Iterator[int] | None = None
    ) -> dict[Any, int]:
        """The numbers of things (the value of `field` that tells them apart, and what else is kept), added where they are new."""
        out: dict[Any, int] = {}
        things = list(wanted)
        if numbers is None and things:
            last = self._counted(name, len(things))
            numbers = iter(range(last - len(things) + 1, last + 1))
        for some in chunks(things, AT_ONCE):
            given = dict(zip(some, numbers or (), strict=False))
            documents = [{"_id": given[t], field: t, **wanted[t]} for t in some]
            try:
                self._db[name].insert_many(documents, ordered=False)
            except BulkWriteError as error:
                lost = [some[i] for i in duplicates(error)]
                given |= _found(self._db, name, field, lost)
            out |= given
        return out


def duplicates(error: BulkWriteError) -> list[int]:
    """Which documents were there before, in order. Raises the error again where that is not all that is wrong."""
    faults = error.details.get("writeErrors", [])
    if error.details.get("writeConcernErrors") or any(f["code"] != DUPLICATE for f in faults):
        raise error
    return sorted(f["index"] for f in faults)


def digest(*parts: str) -> bytes:
    """16 bytes that stand for some texts. Nobody can make two that share them."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode()
        hasher.update(len(raw).to_bytes(8, "big"))
        hasher.update(raw)
    return hasher.digest()


def chunks(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The values, at most `size` at a time."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def _found(db: Database[Document], name: str, field: str, wanted: Sequence[Any]) -> dict[Any, int]:
    """The numbers of those that there are."""
    out: dict[Any, int] = {}
    for some in askable(wanted):
        out |= {d[field]: d["_id"] for d in db[name].find({field: {"$in": some}}, {field: 1})}
    return out


def askable(values: Sequence[Any]) -> Iterator[list[Any]]:
    """The values, not more at a time than fit into a question."""
    some: list[Any] = []
    size = 0
    for value in values:
        if some and (len(some) >= AT_ONCE or size + len(value) > 2_000_000):
            yield some
            some, size = [], 0
        some.append(value)
        size += len(value)
    if some:
        yield some


def _grown(line: I64, size: int, filler: int) -> I64:
    out = np.full(max(size, 2 * len(line)), filler, np.int64)
    out[: len(line)] = line
    return out
