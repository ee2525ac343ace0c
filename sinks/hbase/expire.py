"""Expiry of what HBase does not delete by itself: other times to live than the families have, and what only lists and claims know.

A list forgets a pack before the pack goes: who dies in between leaves packs that are found again, not lists that know what is no more.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from nephoscope.batch import batch_of
from nephoscope.filters import EVERYTHING
from nephoscope.lifetimes import Lifetimes, Plan
from nephoscope.sample import Sample
from nephoscope.store import Expiry
from nephoscope.times import MIN_TIME
from sinks.hbase import events, index, journal, layout, lists, pack
from sinks.hbase.about import About
from sinks.hbase.facts import REFRESH, Catalogue
from sinks.hbase.index import Era
from sinks.hbase.layout import CLAIM, COMMIT, FACT, ID, JOURNAL, MINUTE, MINUTES, SAMPLE, SPAN
from sinks.hbase.link import Cell, Link
from sinks.hbase.scan import Packed, Scan
from sinks.hbase.write import Writer

_LISTS_A_STEP: Final = 256
_ROWS_A_STEP: Final = 24


def expire(
    catalogue: Catalogue,
    about: About,
    lifetimes: Lifetimes,
    now: int,
    progress: Callable[[Expiry], None] | None = None,
) -> Expiry:
    """Remove what is older at `now` than it may live."""
    plan = about.plan()
    due = [lifetimes.before(plan.name(n), now) for n in range(len(plan.names) + 1)]
    work = _Work(catalogue, plan, due)
    done = Expiry()

    def tell(share: float, *, samples: int = 0, events_: int = 0, resources: int = 0) -> None:
        nonlocal done
        done = Expiry(done.samples + samples, done.resources + resources, done.events + events_, share)
        if progress:
            progress(done)

    for count in events.expire(catalogue.link, lifetimes.events_before(now)):
        tell(0.0, events_=count)
    latest = min(max(due), 2**32 * MINUTE - 1)
    if latest > MIN_TIME and latest > 0:
        about.sweep(latest)
        eras = list(index.eras(catalogue.link, None, latest))
        buckets = sorted({e.bucket for e in eras})
        for i, bucket in enumerate(buckets):
            work.lists(bucket, latest)
            for count in work.packs(bucket, [e for e in eras if e.bucket == bucket], latest):
                tell(i / len(buckets), samples=count)
        _prune(catalogue.link, [e for e in eras if e.end <= min(due)])
        gone = work.touched - lists.live(catalogue, work.touched)
        tell(1.0, resources=len(gone))
    work.close()
    tell(1.0)
    return done


class _Work:
    """The expiry of one call. `touched`: the resources that lost samples."""

    def __init__(self, catalogue: Catalogue, plan: Plan, due: Sequence[int]) -> None:
        self._catalogue = catalogue
        self._link: Link = catalogue.link
        self._plan = plan
        self._due = due
        self._scan = Scan(catalogue, EVERYTHING)
        self._writer = Writer(catalogue.link, catalogue.cache, catalogue.buckets, plan)
        self.touched: set[str] = set()

    def close(self) -> None:
        """Give back what it holds."""
        self._writer.close()

    def lists(self, bucket: int, latest: int) -> None:
        """The lists forget what is due."""
        start, stop = layout.commit_row(bucket, 0), layout.commit_row(bucket, latest // MINUTE) + b"\x00"
        for row, cells in self._link.scan(COMMIT, start, stop, columns=[JOURNAL], at_once=_LISTS_A_STEP):
            value, when = cells[JOURNAL]
            minute = layout.minute_of(row)
            entries = journal.entries(minute, value)
            numbers = self._catalogue.kind_numbers([e.kind for e in entries])
            kept = []
            for one, number in zip(entries, numbers, strict=True):
                begin = minute * MINUTE
                newest = begin + MINUTE - 1 if one.tied else begin + one.offset
                if newest >= self._before(number, begin + one.offset):
                    kept.append(one.raw)
            if not kept:
                self._link.delete(COMMIT, {when: {row: [JOURNAL]}})
            elif len(kept) < len(entries):
                # Where somebody adds to it at this moment, the next expiry comes to it.
                self._link.swap(COMMIT, row, JOURNAL, value, b"".join(kept))

    def packs(self, bucket: int, eras: Sequence[Era], latest: int) -> Iterator[int]:
        """Remove the packs that are due; yields how many samples each step removed."""
        keys = sorted({kind for era in eras for kind, _ in era.kinds})
        identities = sorted({self._catalogue.identities[n] for n in self._catalogue.kind_numbers(keys)})
        low = eras[0].begin // SPAN
        for identity in identities:
            start = layout.sample_row(bucket, identity, low)
            stop = layout.sample_row(bucket, identity, latest // SPAN) + b"\x00"
            some = []
            for row, cells in self._link.scan(SAMPLE, start, stop, at_once=_ROWS_A_STEP):
                some.append((row, cells))
                if len(some) == _ROWS_A_STEP:
                    yield self._remove(some)
                    some = []
            if some:
                yield self._remove(some)

    def _remove(self, rows: Sequence[tuple[bytes, dict[bytes, Cell]]]) -> int:
        cells_due: dict[int, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        claims: list[bytes] = []
        kept: list[Sample] = []
        removed = 0
        for row, cells in rows:
            bucket, _, span = layout.read_sample_row(row)
            read = {}
            for column, (cell, when) in cells.items():
                tail = column[column.index(b":") + 1 :]
                one = Packed(bucket, span * MINUTES + tail[0], tail[1:], pack.head(cell), cell)
                read[column] = one, when
            self._scan.settle([one for one, _ in read.values()])
            for column, (one, when) in read.items():
                number = self._catalogue.kind_numbers([one.head.kind])[0]
                before = self._before(number, one.head.time)
                values = pack.unpack([one.cell], one.head.flags, one.head.count)
                old = values.time < before
                if not old.any():
                    continue
                there = np.ones(one.head.count, bool)
                there[one.gone or []] = False
                removed += int((old & there).sum())
                cells_due[when][row].append(column)
                roster = self._catalogue.rosters([one.head.roster])[one.head.roster]
                self.touched.update(self._catalogue.names[n] for n in np.unique(roster.resources[old]).tolist())
                if one.head.flags & pack.TIED:
                    claims += [raw.tobytes() for raw in values.ids[old]]
                    young = np.flatnonzero(~old & there)
                    if len(young):
                        kept += [s for f in self._scan.decoded([one]) for s in f.samples() if s.timestamp >= before]
        if kept:
            # A pack of a minute of which only some is due: the rest of it first.
            self._writer.put_tied(batch_of(kept).rows)
        if claims:
            due: dict[int, dict[bytes, list[bytes]]] = defaultdict(dict)
            for row, cells in self._link.rows(ID, claims, [CLAIM]):
                due[cells[CLAIM][1]][row] = [CLAIM]
            self._link.delete(ID, due)
        self._link.delete(SAMPLE, cells_due)
        return removed

    def _before(self, kind: int, moment: int) -> int:
        return self._due[self._plan.number(self._catalogue.kinds[kind].name, moment)]


def _prune(link: Link, eras: Sequence[Era]) -> None:
    """Remove from the index what nobody can have written to lately: who writes to it writes it anew within REFRESH."""
    limit = (time.time() - 2 * REFRESH) * 1000
    due: dict[int, dict[bytes, list[bytes]]] = defaultdict(lambda: defaultdict(list))
    for era in eras:
        row = layout.era_row(era.number, era.bucket)
        for (kind, listed), when in era.kinds.items():
            if when < limit:
                due[when][row].append(b"f:k" + kind + listed)
        for roster, when in era.rosters.items():
            if when < limit:
                due[when][row].append(b"f:s" + roster)
    link.delete(FACT, due)
