"""Dedupe: a sample whose id this partition has seen within `dedupe_horizon` goes no further (docs/semantics.md).

Polled samples are known by a bitmap of 64 periods a series; all others by their id, in buckets of event time.
"""

from __future__ import annotations

import numpy as np

from flows.interning import Columns, I32, I64, Repeats
from flows.rows import Bools, Rows, U64, Watermarks
from nephoscope import identity
from nephoscope.times import MIN_TIME, NEVER

COLUMNS = {
    "time": (np.int64, NEVER),  # newest polled timestamp on the grid
    "seen": (np.uint64, 0),  # bit k: the period k before the newest was seen
    "unit": (np.int32, 0),  # the grid: seconds between periods; 0: none yet
    "source": (np.int32, -1),
}
BUCKETS = 8
_ONE = np.uint64(1)


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
    columns: Columns,
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
    if ahead is None and _all_next(columns, rows, close, repeated, marks, ttl, horizon):
        return None
    watermark = marks.at(rows.position)
    new = np.ones(len(rows), bool)
    by_id = np.ones(len(rows), bool)
    for part in repeated.rounds if repeated is not None else [np.arange(len(rows))]:
        index = part[rows.polled[part] > 0]
        if ahead is not None:
            index = index[~ahead[index]]
        if len(index):
            _on_grid(columns, rows, slot, index, watermark, ttl, horizon, new, by_id)
    order = np.flatnonzero(by_id)
    if len(order):
        raw = identity.pack(rows.hi[order], rows.lo[order]).tobytes()
        for k, i in enumerate(order.tolist()):
            if ids.double(raw[16 * k : 16 * k + 16], ids.bucket(int(watermark[i]))):
                new[i] = False
    return None if new.all() else new


def _all_next(
    columns: Columns, rows: Rows, slot: I32 | slice, repeated: Repeats | None, marks: Watermarks, ttl: int, horizon: int
) -> bool:
    """The usual case, done here: every row is the next period of a series that is known. False: nothing was done.

    The newest timestamp lies on the grid, so the one a period later does. All rows of a call have one interval.
    """
    interval = int(rows.polled[0])
    if interval <= 0 or 64 * interval < horizon:
        return False
    newest, units, sources = columns["time"], columns["unit"], columns["source"]
    if repeated is None:
        time, source = rows.time, rows.source
        before = newest[slot]
        some: I32 | slice = slot
    else:
        time, source = rows.time[repeated.order], rows.source[repeated.order]
        before = repeated.before(newest, time)
        some = repeated.slots
        if repeated.lengths.max() >= 64 or not (source == np.repeat(sources[some], repeated.lengths)).all():
            return False
    if not (
        (time - before == interval).all()
        and (units[some] == interval // 1_000_000).all()
        and (repeated is not None or (sources[some] == source).all())
        and marks.last - int(before.min()) <= ttl
    ):
        return False
    seen = columns["seen"]
    if repeated is None:
        newest[slot] = time
        seen[slot] = (seen[slot] << _ONE) | _ONE
    else:
        count = repeated.lengths.astype(np.uint64)
        newest[some] = time[repeated.tail]
        seen[some] = (seen[some] << count) | ((_ONE << count) - _ONE)
    return True


def _on_grid(
    columns: Columns,
    rows: Rows,
    slot: I32,
    index: I64,
    watermark: I64,
    ttl: int,
    horizon: int,
    new: Bools,
    by_id: Bools,
) -> None:
    """Look up polled rows, each of a series of its own, in the bitmaps; clears `by_id` of those that it could judge."""
    at, time, interval, source = slot[index], rows.time[index], rows.polled[index], rows.source[index]
    newest, seen, units, sources = (columns[n] for n in ("time", "seen", "unit", "source"))
    before = newest[at]
    fresh = (units[at] == 0) | (watermark[index] - before > ttl) & (before != NEVER)
    unit: I64 = np.where(fresh, interval, units[at].astype(np.int64) * 1_000_000)
    fits = (fresh | (sources[at] == source)) & (time % unit == 0) & (64 * unit >= horizon)
    grid = fresh & fits
    set_now = at[grid]
    units[set_now] = (interval[grid] // 1_000_000).astype(np.int32)
    sources[set_now] = source[grid]
    seen[set_now] = 0
    newest[set_now] = NEVER
    first = fits & (newest[at] == NEVER)
    before = np.where(first, time, newest[at])
    ahead = (time - before) // unit
    old = fits & (ahead <= -64)
    judged = fits & ~old
    bits = seen[at]
    forward = judged & (ahead >= 0) & ((ahead > 0) | first)
    back = judged & ~forward
    bit: U64 = _ONE << np.clip(-ahead, 0, 63).astype(np.uint64)
    double = back & ((bits & bit) != 0)
    shifted = np.where(ahead >= 64, np.uint64(0), bits << np.clip(ahead, 0, 63).astype(np.uint64))
    after = np.where(forward, shifted | _ONE, np.where(back, bits | bit, bits))
    moved = forward | back
    seen[at[moved]] = after[moved]
    newest[at[forward]] = time[forward]
    new[index[double]] = False
    by_id[index[judged]] = False
