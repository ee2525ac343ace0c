"""Reading samples: what a filter lets through, window of time by window of time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from pymongo.database import Database

from nephoscope import filters
from nephoscope.filters import EVERYTHING, Compare, Filter
from nephoscope.times import SECOND, TOO_LATE
from sinks.columns import Fields
from sinks.mongodb import fields, layout
from sinks.mongodb.address import Document
from sinks.mongodb.catalogue import KIND_FIELDS, STATE_FIELDS, Catalogue
from sinks.mongodb.found import Found
from sinks.mongodb.layout import GROUP, HOUR, SLOTS
from sinks.mongodb.numbers import chunks

I64 = npt.NDArray[np.int64]
_Part: TypeAlias = tuple[I64, I64, Fields, npt.NDArray[np.uint8] | None]
"""Rows that were read: resource, time, the rest, and the ids of those that have ids of their own."""

_DOCUMENTS_AT_ONCE: Final = 2000
_RANGES_AT_ONCE: Final = 128
_FEW: Final = 64
"""So many resources are read by their keys, whatever else there is."""
_MOST_HOURS: Final = 128 * HOUR
_MOST_MINUTES: Final = 64 * 60 * SECOND


class Scan:
    """The samples that a filter lets through. It reads what it must: the filter's times, the resources that it names."""

    def __init__(self, db: Database[Document], tree: Filter, catalogue: Catalogue | None = None) -> None:
        self.catalogue = catalogue or Catalogue(db)
        self._db = db
        first, last = filters.span_of_time(tree)
        self.first, self.last = first, last
        self._kinds: I64 | None = None
        self._of_kinds: Filter | None = None
        self._states: I64 | None = None
        self.resources: I64 | None = None
        rest: list[Filter] = []
        of_states: list[Filter] = []
        of_kinds: list[Filter] = []
        for part in filters.conjuncts(tree):
            read = filters.fields(part)
            if isinstance(part, Compare) and part.field == "timestamp" and part.op in {"=", "<", "<=", ">", ">="}:
                continue
            (of_kinds if read <= KIND_FIELDS else of_states if read <= STATE_FIELDS else rest).append(part)
        if of_kinds:
            self._of_kinds = filters.both(*of_kinds)
            self._kinds = self.catalogue.kinds_that_pass(self._of_kinds)
            if not len(self._kinds):
                self._look_again()
        if of_states:
            self._pick_states(filters.both(*of_states))
        self._rest = filters.both(*rest) if rest else EVERYTHING

    @cached_property
    def _clocks(self) -> list[str]:
        head = self._db["about"].find_one({"_id": "head"}) or {}
        return [layout.clock(n) for n in range(len(layout.plan_of(head).names) + 1)]

    @classmethod
    def of_resources(cls, db: Database[Document], catalogue: Catalogue, numbers: Sequence[int]) -> Scan:
        """All samples of the resources of these numbers."""
        scan = cls(db, EVERYTHING, catalogue)
        scan.resources = np.array(numbers, np.int64)
        return scan

    def _pick_states(self, tree: Filter) -> None:
        names = filters.allowed(tree, "resource_id")
        plain = all(
            isinstance(p, Compare) and p.field == "resource_id" and p.op in {"=", "in"} for p in filters.conjuncts(tree)
        )
        if plain and names is not None:
            self.resources = self.catalogue.resource_numbers(names)
            return
        states, resources = self.catalogue.states_that_pass(tree)
        self._states, self.resources = np.sort(states), np.unique(resources)

    def _look_again(self) -> None:
        """A kind may have come that passes."""
        assert self._of_kinds is not None
        self.catalogue.look_again()
        self._kinds = self.catalogue.kinds_that_pass(self._of_kinds)

    # -- when

    def windows(self, *, newest_first: bool = False, small: bool = False) -> Iterator[tuple[int, int]]:
        """(first, last) times that together are all that there is to read, in order. `small`: begin with small ones."""
        if any(some is not None and not len(some) for some in (self._kinds, self._states, self.resources)):
            return
        unit, most = (HOUR, _MOST_HOURS) if self._by_key else (60 * SECOND, _MOST_MINUTES)
        size = unit if small else most
        low, high = max(self.first or 0, 0), min(TOO_LATE if self.last is None else self.last, TOO_LATE)
        if self._by_key and not small and low <= high < low + most:
            yield low, high
            return
        while low <= high:
            at = self._next(low, high, newest_first=newest_first)
            if at is None:
                return
            if newest_first:
                begin = max(low, (at // unit + 1) * unit - size)
                yield begin, at
                high = begin - 1
            else:
                end = min(high, at // unit * unit + size - 1)
                yield max(low, at), end
                low = end + 1
            size = min(2 * size, most)

    def ends(self) -> tuple[int, int]:
        """Times between which all samples lie that there are; (0, -1) where there are none."""
        first = self._next(0, TOO_LATE, newest_first=False)
        last = self._next(0, TOO_LATE, newest_first=True)
        return (0, -1) if first is None or last is None else (first, last)

    def _next(self, low: int, high: int, *, newest_first: bool) -> int | None:
        """A time not after the first document between two times (or not before the last)."""
        found: list[int] = []
        for name in ("record", "tied"):
            for clock in self._clocks:
                document = self._db[name].find_one(
                    {clock: _between(low, high)}, {clock: 1}, sort=[(clock, -1 if newest_first else 1)]
                )
                if document is not None:
                    # Rounded up when it was stored.
                    micros = int(document[clock]) * 1000
                    found.append(micros if newest_first else max(low, micros - 999))
        if not found:
            return None
        return min(high, max(found)) if newest_first else min(found)

    # -- what

    def found(self, low: int, high: int) -> Iterator[Found]:
        """What passes between two times, both included, in parts."""
        last: _Part | None = None
        for part in self._records(low, high):
            if last is not None:
                yield from self._passed(*last, low, high)
            last = part
        # What the last rows refer to is looked up along with the ties: one question instead of three.
        along = () if last is None else self.catalogue.along(np.unique(last[0]), np.unique(last[2].state))
        ties = self._ties(low, high, along)
        first = next(ties, None)
        if last is not None:
            yield from self._passed(*last, low, high)
        if first is not None:
            yield from self._passed(*first, low, high)
        for part in ties:
            yield from self._passed(*part, low, high)

    def _records(self, low: int, high: int) -> Iterator[_Part]:
        for ids, slots, values in self._values(low, high):
            group, time = layout.read(ids, parts=True)
            columns, of = fields.unpack(values, time)
            number = group * GROUP + np.array(slots, np.int64)
            yield number[of], time[of], columns, None

    def _ties(self, low: int, high: int, along: Sequence[Document]) -> Iterator[_Part]:
        for documents in self._tied(low, high, along):
            number, time = layout.read([d["k"] for d in documents], parts=False)
            columns, of = fields.unpack([d["b"] for d in documents], time)
            ties = np.frombuffer(b"".join(d["_id"] for d in documents), np.uint8).reshape(-1, 16)
            yield number[of], time[of], columns, ties[of]

    def all(self) -> Iterator[Found]:
        """All that passes, about in the order of time."""
        for low, high in self.windows():
            yield from self.found(low, high)

    @cached_property
    def _by_key(self) -> bool:
        """Whether to read by resource and hour, instead of all that there is at a time."""
        if self.resources is None:
            return False
        if len(self.resources) <= _FEW:
            return True
        # A range of keys costs about as much as ten documents that are read for nothing.
        return len(self.resources) * 8 < self._db["resource"].estimated_document_count()

    def _values(self, low: int, high: int) -> Iterator[tuple[list[bytes], list[int], list[bytes]]]:
        """(key, slot, value) of records, in parts."""
        if not self._by_key:
            for clock in self._clocks:
                yield from self._opened({clock: _between(low, high)}, None, clock)
            return
        assert self.resources is not None
        groups = np.unique(self.resources // GROUP).tolist()
        slots = {SLOTS[s] for s in np.unique(self.resources % GROUP).tolist()}
        pairs = ((hour, group) for hour in range(low // HOUR, high // HOUR + 1) for group in groups)
        for some in chunks(pairs, _RANGES_AT_ONCE):
            yield from self._opened(_ranges("_id", some), slots, "")

    def _opened(
        self, wanted: Document, slots: set[str] | None, order: str
    ) -> Iterator[tuple[list[bytes], list[int], list[bytes]]]:
        wide = slots is None or len(slots) > GROUP // 2
        projection = None if wide else dict.fromkeys(sorted(slots or ()), 1)
        cursor = self._db["record"].find(wanted, projection, batch_size=_DOCUMENTS_AT_ONCE)
        if order:
            cursor = cursor.sort(order, 1)
        only = next(iter(slots)) if slots and len(slots) == 1 else None
        while documents := cursor.to_list(_DOCUMENTS_AT_ONCE):
            if only is not None:
                some = [d for d in documents if only in d]
                if some:
                    yield [d["_id"] for d in some], [int(only, 16)] * len(some), [d[only] for d in some]
                continue
            ids: list[bytes] = []
            at: list[int] = []
            values: list[bytes] = []
            for document in documents:
                key = document.pop("_id")
                for name, value in document.items():
                    if name in SLOTS:
                        ids.append(key)
                        at.append(int(name, 16))
                        values.append(value)
            if ids:
                yield ids, at, values

    def _tied(self, low: int, high: int, along: Sequence[Document]) -> Iterator[list[Document]]:
        collection = self._db["tied"]
        if self.resources is None or not self._by_key:
            for clock in self._clocks:
                cursor = collection.find({clock: _between(low, high)}, {"k": 1, "b": 1}).sort(clock, 1)
                yield from chunks(cursor, _DOCUMENTS_AT_ONCE)
            return
        numbers = self.resources.tolist()
        pairs = ((hour, number) for hour in range(low // HOUR, high // HOUR + 1) for number in numbers)
        for some in chunks(pairs, _RANGES_AT_ONCE):
            stages = [{"$match": _ranges("k", some)}, {"$project": {"k": 1, "b": 1}}, *along]
            along = ()
            with collection.aggregate(stages, batchSize=_DOCUMENTS_AT_ONCE) as answer:
                while documents := answer.to_list(_DOCUMENTS_AT_ONCE):
                    tied = [d for d in documents if not self.catalogue.take(d)]
                    if tied:
                        yield tied

    def _passed(
        self, resource: I64, time: I64, columns: Fields, ties: npt.NDArray[np.uint8] | None, low: int, high: int
    ) -> Iterator[Found]:
        passed = (time >= low) & (time <= high)
        if self._kinds is not None:
            if any(k not in self.catalogue.kinds for k in np.unique(columns.kind).tolist()):
                self._look_again()
            passed &= np.isin(columns.kind, self._kinds)
        if self._states is not None:
            passed &= np.isin(columns.state, self._states)
        elif self.resources is not None:
            passed &= np.isin(resource, self.resources)
        at = np.flatnonzero(passed)
        if not len(at):
            return
        if ties is None:
            tied, ties = np.zeros(len(at), bool), np.broadcast_to(np.zeros(16, np.uint8), (len(at), 16))
        else:
            tied, ties = np.ones(len(at), bool), ties[at]
        found = Found(self.catalogue, resource[at], time[at], columns.take(at), tied, ties).known()
        if self._rest is not EVERYTHING:
            found = found.take(filters.evaluate(self._rest, found))
        if found.length:
            yield found


def _between(low: int, high: int) -> Document:
    return {"$gte": layout.moment(low), "$lte": layout.moment(high)}


def _ranges(field: str, pairs: list[tuple[int, int]]) -> Document:
    """The documents of these (hour, number); neighbouring numbers make one range."""
    out: list[Document] = []
    end = b""
    for hour, number in pairs:
        first, after = layout.bounds(hour, number, parts=field == "_id")
        if first == end:
            out[-1][field]["$lt"] = end = after
        else:
            out.append({field: {"$gte": first, "$lt": after}})
            end = after
    return {"$or": out} if len(out) > 1 else out[0]
