"""Dedupe: a sample whose id this partition has seen within `dedupe_horizon` goes no further (docs/semantics.md).

Polled samples are known by the periods of their series: the newest, the first, and the gaps between them, which are rare. All others are
known by their id, in buckets of event time.
"""

from __future__ import annotations

import numpy as np

from flows.interning import I32, I64, Columns, Repeats
from flows.one_to_one import SeriesState
from flows.rows import Bools, Rows, Watermarks
from nephoscope import identity
from nephoscope.times import MIN_TIME, NEVER

COLUMNS = {
    "time": (np.int64, NEVER),  # newest polled timestamp on the grid
    "first": (np.int64, NEVER),  # oldest one
    "unit": (np.int32, 0),  # the grid: seconds between periods; 0: none yet
    "source": (np.int32, -1),
}
BUCKETS = 8


class Periods(SeriesState):
    """The polled periods of each series: all from `first` to `time`, but for its gaps: lists of (from, to), both missing."""

    __slots__ = ("gaps",)

    def __init__(self) -> None:
        super().__init__(COLUMNS)
        self.gaps: dict[int, list[tuple[int, int]]] = {}

    def dropped(self, slots: I64) -> None:
        """Forget the gaps of series that are forgotten."""
        if self.gaps:
            for slot in slots.tolist():
                self.gaps.pop(slot, None)

    def seen(self, slot: int, time: int, unit: int, horizon: int) -> bool:
        """Whether a period of a series was seen before, for one that is not simply the next. It is seen now."""
        newest, first = self.columns["time"], self.columns["first"]
        gaps = [*self.gaps.get(slot, ())]  # A snapshot may hold the list that was there.
        if time > newest[slot]:
            gaps.append((int(newest[slot]) + unit, time - unit))
            newest[slot] = time
        elif time < first[slot]:
            if time + unit < first[slot]:
                gaps.append((time + unit, int(first[slot]) - unit))
            first[slot] = time
        else:
            for i, (start, end) in enumerate(gaps):
                if start <= time <= end:
                    gaps[i : i + 1] = [g for g in ((start, time - unit), (time + unit, end)) if g[0] <= g[1]]
                    break
            else:
                return True
        oldest = int(newest[slot]) - horizon
        gaps = [g for g in gaps if g[1] >= oldest]
        if gaps:
            self.gaps[slot] = gaps
        else:
            self.gaps.pop(slot, None)
        return False


class SeenIds:
    """Ids in buckets of the watermark at their arrival; the oldest buckets are dropped whole."""

    __slots__ = ("buckets", "frozen", "length", "of")

    def __init__(self, horizon: int) -> None:
        self.length = max(horizon // BUCKETS, 1)
        self.of: dict[bytes, int] = {}
        self.buckets: dict[int, list[bytes]] = {}
        self.frozen: dict[int, tuple[int, bytes]] = {}

    def bucket(self, watermark: int) -> int:
        """The bucket that is current at this watermark."""
        return max(watermark, 0) // self.length if watermark > MIN_TIME else 0

    def double(self, raw: bytes, bucket: int) -> bool:
        """Whether this id was seen within the horizon; it is seen now."""
        before = self.of.get(raw)
        if before is not None and bucket - before <= BUCKETS:
            return True
        self.of[raw] = bucket
        self.buckets.setdefault(bucket, []).append(raw)
        return False

    def expire(self, watermark: int) -> None:
        """Give the memory of old buckets back."""
        current = self.bucket(watermark)
        for old in [b for b in self.buckets if current - b > BUCKETS]:
            for raw in self.buckets.pop(old):
                if self.of.get(raw) == old:
                    del self.of[raw]
            self.frozen.pop(old, None)

    def dump(self) -> dict[int, bytes]:
        """The ids of each bucket, end to end; a bucket that has not changed is not copied again."""
        for number, ids in self.buckets.items():
            known = self.frozen.get(number)
            if known is None or known[0] != len(ids):
                done, text = known or (0, b"")
                self.frozen[number] = (len(ids), text + b"".join(ids[done:]))
        return {number: self.frozen[number][1] for number in self.buckets}

    def load(self, buckets: dict[int, bytes]) -> None:
        """Take over what dump gave."""
        self.of, self.buckets, self.frozen = {}, {}, {}
        for number in sorted(buckets):
            text = buckets[number]
            ids = [text[i : i + 16] for i in range(0, len(text), 16)]
            self.buckets[number] = ids
            self.frozen[number] = (len(ids), text)
            self.of.update(dict.fromkeys(ids, number))


def dedupe(
    periods: Periods,
    ids: SeenIds,
    rows: Rows,
    slot: I32,
    close: I32 | slice,
    repeated: Repeats | None,
    marks: Watermarks,
    ttl: int,
    horizon: int,
    ahead: Bools | None,
) -> Bools | None:
    """Which rows are new (None: all).

    slot: of each row's series; close: the same, as a slice where it can be; repeated: where some occur more than once; ahead: rows too far in the future to move anything.
    """
    if ahead is None and _all_next(periods.columns, rows, close, repeated, marks, ttl):
        return None
    watermark = marks.at(rows.position)
    new = np.ones(len(rows), bool)
    by_id = np.ones(len(rows), bool)
    for part in repeated.rounds if repeated is not None else [np.arange(len(rows))]:
        index = part[rows.polled[part] > 0]
        if ahead is not None:
            index = index[~ahead[index]]
        if len(index):
            _on_grid(periods, rows, slot, index, watermark, ttl, horizon, new, by_id)
    order = np.flatnonzero(by_id)
    if len(order):
        raw = identity.pack(rows.hi[order], rows.lo[order]).tobytes()
        for k, i in enumerate(order.tolist()):
            if ids.double(raw[16 * k : 16 * k + 16], ids.bucket(int(watermark[i]))):
                new[i] = False
    return None if new.all() else new


def _all_next(
    columns: Columns, rows: Rows, slot: I32 | slice, repeated: Repeats | None, marks: Watermarks, ttl: int
) -> bool:
    """The usual case, done here: every row is the next period of a series that is known. False: nothing was done.

    The newest timestamp lies on the grid, so the one a period later does. All rows of a call have one interval.
    """
    interval = int(rows.polled[0])
    if interval <= 0:
        return False
    newest, units, sources = columns["time"], columns["unit"], columns["source"]
    if repeated is None:
        time, before, some = rows.time, newest[slot], slot
        same = sources[some] == rows.source
    else:
        time, some = rows.time[repeated.order], repeated.slots
        before = repeated.before(newest, time)
        same = np.repeat(sources[some], repeated.lengths) == rows.source[repeated.order]
    if not (
        (time - before == interval).all()
        and (units[some] == interval // 1_000_000).all()
        and same.all()
        and marks.last - int(before.min()) <= ttl
    ):
        return False
    newest[some] = time if repeated is None else time[repeated.tail]
    return True


def _on_grid(
    periods: Periods,
    rows: Rows,
    slot: I32,
    index: I64,
    watermark: I64,
    ttl: int,
    horizon: int,
    new: Bools,
    by_id: Bools,
) -> None:
    """Look up polled rows, each of a series of its own, among its periods; clears `by_id` of those that it could judge."""
    at, time, interval, source = slot[index], rows.time[index], rows.polled[index], rows.source[index]
    newest, first, units, sources = (periods.columns[n] for n in ("time", "first", "unit", "source"))
    before = newest[at]
    fresh = (before == NEVER) | (watermark[index] - before > ttl) & (before != NEVER)
    unit: I64 = np.where(fresh, interval, units[at].astype(np.int64) * 1_000_000)
    fits = (fresh | (sources[at] == source)) & (time % unit == 0)
    judged = fits & (fresh | (time >= before - horizon))
    start = judged & fresh
    if start.any():
        some = at[start]
        newest[some] = first[some] = time[start]
        units[some], sources[some] = (interval[start] // 1_000_000).astype(np.int32), source[start]
        periods.dropped(some)
    on = judged & ~fresh
    after = on & (time == before + unit)
    newest[at[after]] = time[after]
    for i in np.flatnonzero(on & ~after).tolist():
        if periods.seen(int(at[i]), int(time[i]), int(unit[i]), horizon):
            new[index[i]] = False
    by_id[index[judged]] = False
