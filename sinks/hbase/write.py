"""Writing: batches to packs, packs into the list of what counts (see sinks.hbase.journal)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nephoscope.errors import StoreError, Unavailable
from nephoscope.lifetimes import Plan
from nephoscope.store import Written
from nephoscope.times import TOO_LATE
from sinks.hbase import journal, layout, pack
from sinks.hbase.facts import Cache
from sinks.hbase.layout import COMMIT, FACT, JOURNAL, MINUTE, MINUTES, SAMPLE
from sinks.hbase.link import Link
from sinks.hbase.numbers import Numbers, Planned, Rows, Unit, joined
from sinks.hbase.ties import Ties

I64 = npt.NDArray[np.int64]
_LISTS: Final = 4096
_ATTEMPTS: Final = 1000
_AGES: Final = 8
"""Timestamps that the cells of a write and minute may have, each a call of its own; if there are more, all get the newest."""


@dataclass(slots=True)
class _List:
    """A list of packs as last seen. `there`: the rosters of those without ids of their own, by identity and offset."""

    value: bytes = b""
    there: dict[tuple[bytes, int], list[bytes]] = field(default_factory=dict)


class Writer:
    """Turns batches into cells. Not safe for several threads: HBaseStore sees to that."""

    def __init__(self, link: Link, cache: Cache, buckets: int, plan: Plan) -> None:
        self._link = link
        self._cache = cache
        self.plan = plan
        self._numbers = Numbers(buckets)
        self._lists: dict[Unit, _List] = {}
        # By bucket: the newest minute whose list was seen, and whether nobody had been there before.
        self._newest: dict[int, tuple[int, bool]] = {}
        self._tokens = os.urandom(5)
        self._writes = 0
        self._ties = Ties(link, self)

    def write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        """All rows of the batches."""
        self._numbers.begin()
        if len(self._lists) > _LISTS:
            self._lists.clear()
        rows = joined([self._numbers.rows_of(b) for b in batches])
        time = rows.values.time
        if int(time.min()) < 0 or int(time.max()) >= TOO_LATE:
            raise StoreError("a timestamp is not between 1970 and 2200")
        stored = 0
        if not rows.natural.all():
            stored += self._ties.write(rows.take(np.flatnonzero(~rows.natural)))
            rows = rows.take(np.flatnonzero(rows.natural))
        if len(rows):
            stored += self._write_natural(rows)
        received = sum(b.num_rows for b in batches)
        return Written(received, stored, received - stored)

    def _write_natural(self, rows: Rows) -> int:
        """Rows whose ids follow from their keys. Returns how many were not there."""
        todo = self._grouped(rows)
        stored = 0
        for _ in range(_ATTEMPTS):
            self.look(todo)
            plans: dict[Unit, list[Planned]] = {}
            for unit, groups in todo.items():
                plans[unit] = [p for group in groups if (p := self._plan(unit, group)) is not None]
            lost = self.commit(plans)
            stored += sum(len(p.rows) for unit, some in plans.items() if unit not in lost for p in some)
            todo = {unit: todo[unit] for unit in lost}
            if not todo:
                return stored
        raise Unavailable("HBase: others write to the same minutes without end")

    def _grouped(self, rows: Rows) -> dict[Unit, list[Rows]]:
        """The first row of each id, by unit; a group is of one kind and time, in the order of its resources' numbers."""
        time, kind, resource = rows.values.time, rows.kind, rows.resource
        bucket = self._numbers.bucket[resource]
        identity = self._numbers.identity[kind]
        simple = len(np.unique(identity)) == len(np.unique(kind))
        if not simple:
            order = np.lexsort((identity, resource, time))
            fresh = _changes(identity[order], resource[order], time[order])
            return self._cut(rows.take(np.sort(order[fresh])))
        if (time == time[0]).all() and (bucket == bucket[0]).all():
            order = np.argsort(kind << 32 | resource, kind="stable")
        else:
            order = np.lexsort((resource, kind, time, bucket))
        fresh = _changes(resource[order], kind[order], time[order])
        return self._cut(rows.take(order[fresh]), in_order=True)

    def _cut(self, rows: Rows, *, in_order: bool = False) -> dict[Unit, list[Rows]]:
        if not in_order:
            bucket = self._numbers.bucket[rows.resource]
            rows = rows.take(np.lexsort((rows.resource, rows.kind, rows.values.time, bucket)))
        time, bucket = rows.values.time, self._numbers.bucket[rows.resource]
        starts = np.flatnonzero(_changes(bucket, time, rows.kind))
        out: dict[Unit, list[Rows]] = {}
        units = zip(bucket[starts].tolist(), (time[starts] // MINUTE).tolist(), strict=True)
        for unit, begin, end in zip(units, starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            out.setdefault(unit, []).append(rows.take(slice(begin, end)))
        return out

    def _plan(self, unit: Unit, group: Rows) -> Planned | None:
        """What of a group the list does not have yet."""
        kind = int(group.kind[0])
        offset = int(group.values.time[0]) % MINUTE
        known = self._lists[unit].there.get((self._numbers.identities[kind], offset))
        if known is not None:
            there = np.concatenate([self._resources_of(r) for r in known])
            absent = np.flatnonzero(~np.isin(group.resource, there))
            if not len(absent):
                return None
            group = group.take(absent)
        return Planned(unit, kind, (b"", b""), group, tied=False)

    def _resources_of(self, roster: bytes) -> I64:
        raw = self._cache.values(self._link, [roster])[roster]
        listed = self._cache.values(self._link, [raw[:16]])[raw[:16]]
        return self._numbers.resource_numbers(msgspec.msgpack.decode(listed, type=list[str]))

    # -- what is shared with samples of ids of their own

    def look(self, units: Iterable[Unit]) -> None:
        """Know the lists of units: read them, or take them for empty.

        Where nobody had been at a bucket's newest minute before this writer, a still newer one is taken for empty without a look. If it
        is not, the step that adds to the list fails, as it does where somebody else is quicker, and the list is read then.
        """
        unknown = []
        for unit in sorted(units):
            if unit not in self._lists:
                bucket, minute = unit
                newest, first = self._newest.get(bucket, (-1, False))
                if first and minute > newest:
                    self._lists[unit] = _List()
                    self._newest[bucket] = minute, True
                else:
                    unknown.append(unit)
        self._read(unknown)

    def _read(self, units: Iterable[Unit]) -> None:
        missing = {layout.commit_row(*unit): unit for unit in units}
        for row, cells in self._link.rows(COMMIT, sorted(missing), [JOURNAL]) if missing else ():
            self._know(missing[row], cells[JOURNAL][0])
        for unit in missing.values():
            known = self._lists.setdefault(unit, _List())
            bucket, minute = unit
            if minute >= self._newest.get(bucket, (-1, False))[0]:
                self._newest[bucket] = minute, not known.value

    def commit(self, plans: dict[Unit, list[Planned]]) -> set[Unit]:
        """Write the packs, and let them count. Returns the units in which somebody else was quicker: nothing of theirs counts."""
        plans = {unit: some for unit, some in plans.items() if some}
        if not plans:
            return set()
        self._writes += 1
        facts: dict[bytes, dict[bytes, bytes]] = {}
        cells: dict[int, dict[bytes, dict[bytes, bytes]]] = {}
        added: dict[Unit, list[bytes]] = {}
        there: dict[Unit, list[tuple[tuple[bytes, int], bytes]]] = {}
        for unit, some in plans.items():
            bucket, minute = unit
            ages = [int(p.rows.values.time.max()) // 1000 for p in some]
            if len(set(ages)) > _AGES:
                ages = [max(ages)] * len(some)
            counts: dict[bytes, int] = {}
            for plan, age in zip(some, ages, strict=True):
                rows = cells.setdefault(age, {})
                numbers, values = self._numbers, plan.rows.values
                plan.roster = numbers.roster(plan.rows.resource, plan.rows.said, facts)
                numbers.seen(plan.kind, bucket, minute * MINUTE, plan.roster, facts)
                row = layout.sample_row(bucket, numbers.identities[plan.kind], minute // MINUTES)
                count = counts[row] = counts.get(row, -1) + 1
                token = self.token(count)
                key = numbers.kind_keys[plan.kind]
                cell = pack.pack(key, plan.roster[1], values, tied=plan.tied)
                family = layout.family(self.plan.number(numbers.kinds[plan.kind].name, int(values.time[0])))
                rows.setdefault(row, {})[family + b":" + bytes([minute % MINUTES]) + token] = cell
                offset = int(values.time.min()) % MINUTE
                added.setdefault(unit, []).append(journal.entry(key, token, plan.roster[1], offset, tied=plan.tied))
                if not plan.tied:
                    there.setdefault(unit, []).append(((numbers.identities[plan.kind], offset), plan.roster[1]))
        if facts:
            self._link.put(FACT, facts)
            self._numbers.wrote(facts)
        for timestamp, rows in cells.items():
            self._link.put(SAMPLE, rows, timestamp)
        counted = self._ties.each(
            lambda unit: self._let_count(unit, b"".join(added[unit]), there.get(unit, ())), list(added)
        )
        return {unit for unit, ours in zip(added, counted, strict=True) if not ours}

    def _let_count(self, unit: Unit, entries: bytes, ours: Sequence[tuple[tuple[bytes, int], bytes]]) -> bool:
        """Add entries to a unit's list, whoever else does at the same time. False: others had something of ours."""
        while not self._count(unit, entries):
            # What others have added says nothing against our packs, unless it is of the same kind and time.
            if any(key in self._lists[unit].there for key, _ in ours):
                return False
        for key, roster in ours:
            self._lists[unit].there.setdefault(key, []).append(roster)
        return True

    def _count(self, unit: Unit, entries: bytes) -> bool:
        """Add entries to a unit's list. False: the list is another than we knew (it is known anew now)."""
        known = self._lists[unit]
        row = layout.commit_row(*unit)
        try:
            if self._link.swap(COMMIT, row, JOURNAL, known.value, known.value + entries):
                known.value += entries
                return True
        except BaseException:
            # It may have happened or not.
            del self._lists[unit]
            raise
        del self._lists[unit]
        self._read([unit])
        # The Thrift server itself tries again where a region server did not answer: the first attempt may have been heard.
        return entries in self._lists[unit].value

    def _know(self, unit: Unit, value: bytes) -> None:
        found = _List(value)
        listed = journal.entries(unit[1], value)
        kinds = self._cache.kinds(self._link, {e.kind for e in listed})
        for one in listed:
            if not one.tied:
                key = layout.identity_key(kinds[one.kind].identity), one.offset
                found.there.setdefault(key, []).append(one.roster)
        self._lists[unit] = found

    def token(self, count: int) -> bytes:
        """The name of the `count`th pack of a write in its row: no other has it."""
        return self._tokens + (self._writes & 0xFFFFFF).to_bytes(3, "big") + count.to_bytes(2, "big")

    def put_tied(self, batch: pa.RecordBatch) -> None:
        """Write rows with ids of their own whose claims are there."""
        self._ties.put(self._numbers.rows_of(batch))

    def close(self) -> None:
        """End the threads."""
        self._ties.close()

    @property
    def numbers(self) -> Numbers:
        """This writer's numbers."""
        return self._numbers


def _changes(*keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a row's keys are not those of the row before."""
    out = np.ones(len(keys[0]), bool)
    out[1:] = False
    for key in keys:
        out[1:] |= key[1:] != key[:-1]
    return out
