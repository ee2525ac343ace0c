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
from sinks.hbase.overlaps import Packed
from sinks.hbase.scan import Scan
from sinks.hbase.write import Writer

_LISTS_A_STEP: Final = 256
_ROWS_A_STEP: Final = 24
_PAUSE: Final = 2.0
"""How long the writers have HBase to themselves after a step, in times of what the step took."""
_EMPTY_KEPT: Final = 60.0
"""Seconds that an emptied list stays."""


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
            for count in _paced(work.lists(bucket, latest)):
                tell(i / len(buckets), samples=count)
            for count in _paced(work.packs(bucket, [e for e in eras if e.bucket == bucket], latest)):
                tell((i + 0.5) / len(buckets), samples=count)
        _prune(catalogue.link, [e for e in eras if e.end <= min(due)])
        gone = work.touched - lists.live(catalogue, work.touched)
        tell(1.0, resources=len(gone))
    work.close()
    tell(1.0)
    return done


def _paced(steps: Iterator[int]) -> Iterator[int]:
    """The steps, with time in between in which the writers have HBase to themselves."""
    while True:
        begin = time.monotonic()
        count = next(steps, None)
        if count is None:
            return
        took = time.monotonic() - begin
        yield count
        time.sleep(_PAUSE * took)


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

    def lists(self, bucket: int, latest: int) -> Iterator[int]:
        """The lists forget what is due; yields how many samples each step made forgotten.

        Whoever takes them off a list counts them. An emptied list stays for a while: where it went at once, it could take along what a
        writer adds at that moment.
        """
        start, stop = layout.commit_row(bucket, 0), layout.commit_row(bucket, latest // MINUTE) + b"\x00"
        limit = (time.time() - _EMPTY_KEPT) * 1000
        some: list[tuple[bytes, bytes]] = []
        empty: dict[int, dict[bytes, list[bytes]]] = defaultdict(dict)
        for row, cells in self._link.scan(COMMIT, start, stop, columns=[JOURNAL], at_once=_LISTS_A_STEP):
            value, when = cells[JOURNAL]
            if value:
                some.append((row, value))
            elif when < limit:
                empty[when][row] = [JOURNAL]
            if len(some) == _LISTS_A_STEP:
                yield sum(self._forget(*one) for one in some)
                some = []
        if some:
            yield sum(self._forget(*one) for one in some)
        self._link.delete(COMMIT, empty)

    def _forget(self, row: bytes, value: bytes) -> int:
        """Take what is due off a list; how many samples that were."""
        minute = layout.minute_of(row)
        while value:
            entries = journal.entries(minute, value)
            numbers = self._catalogue.kind_numbers([e.kind for e in entries])
            gone = [e for e, number in zip(entries, numbers, strict=True) if self._is_due(e, number)]
            if not gone:
                return 0
            kept = b"".join(e.raw for e in entries if e not in gone)
            if self._link.swap(COMMIT, row, JOURNAL, value, kept):
                rosters = self._catalogue.rosters(e.roster for e in gone)
                return sum(len(rosters[e.roster].resources) for e in gone)
            value = next((cells[JOURNAL][0] for _, cells in self._link.rows(COMMIT, [row], [JOURNAL])), b"")
        return 0

    def _is_due(self, one: journal.Entry, kind: int) -> bool:
        """Whether all samples of a pack are."""
        begin = one.minute * MINUTE
        newest = begin + MINUTE - 1 if one.tied else begin + one.offset
        return newest < self._before(kind, begin + one.offset)

    def packs(self, bucket: int, eras: Sequence[Era], latest: int) -> Iterator[int]:
        """Remove the packs that are due; yields how many samples each step removed of packs that no list has forgotten."""
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
            self._scan.overlaps.settle([one for one, _ in read.values()])
            for column, (one, when) in read.items():
                number = self._catalogue.kind_numbers([one.head.kind])[0]
                before = self._before(number, one.head.time)
                if not one.tied:
                    ids, old = [], np.full(one.head.count, one.head.time < before)
                else:
                    values = pack.unpack([one.cell], one.head.flags, one.head.count)
                    ids, old = [raw.tobytes() for raw in values.ids], values.time < before
                if not old.any():
                    continue
                there = np.ones(one.head.count, bool)
                there[one.gone or []] = False
                cells_due[when][row].append(column)
                roster = self._catalogue.rosters([one.head.roster])[one.head.roster]
                self.touched.update(self._catalogue.names[n] for n in np.unique(roster.resources[old]).tolist())
                if one.head.flags & pack.TIED:
                    claims += [i for i, due in zip(ids, old.tolist(), strict=True) if due]
                    end = (one.minute + 1) * MINUTE
                    if end > before and self._drop(one):
                        # Its list had it still: some of its minute may live on.
                        removed += int((old & there).sum())
                    if (~old & there).any():
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

    def _drop(self, one: Packed) -> bool:
        """Take a pack off its list. Whether it was on it."""
        row = layout.commit_row(one.bucket, one.minute)
        while True:
            value = next((cells[JOURNAL][0] for _, cells in self._link.rows(COMMIT, [row], [JOURNAL])), b"")
            kept = [
                e.raw for e in journal.entries(one.minute, value) if (e.kind, e.token) != (one.head.kind, one.token)
            ]
            rest = b"".join(kept)
            if rest == value:
                return False
            if self._link.swap(COMMIT, row, JOURNAL, value, rest):
                return True

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
