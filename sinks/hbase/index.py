"""The index of eras: which kinds, resources and rosters each bucket has in an era. It may name what has no sample left."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from sinks.hbase import layout
from sinks.hbase.layout import ERA, FACT
from sinks.hbase.link import Link

_KINDS = b"f:k"
_ROSTERS = b"f:s"
_FEW = 256
"""Rows that are asked for by their keys."""


@dataclass(slots=True)
class Era:
    """What a bucket has in an era: (key of a kind, list of resources) pairs, and rosters; when each was last written, in milliseconds."""

    number: int
    bucket: int
    kinds: dict[tuple[bytes, bytes], int] = field(default_factory=dict)
    rosters: dict[bytes, int] = field(default_factory=dict)

    @property
    def begin(self) -> int:
        """Its first microsecond."""
        return self.number * ERA

    @property
    def end(self) -> int:
        """The first microsecond after it."""
        return self.begin + ERA


def eras(link: Link, first: int | None, last: int | None, buckets: Collection[int] | None = None) -> Iterator[Era]:
    """The eras between two times (both inclusive; None: no bound), in the order of time, then of buckets."""
    low = 0 if first is None or first < 0 else min(first // ERA, 2**32 - 1)
    high = 2**32 - 1 if last is None else min(last // ERA, 2**32 - 1)
    if last is not None and last < 0:
        return
    if buckets is not None and (high - low + 1) * len(buckets) <= _FEW:
        rows = link.rows(FACT, [layout.era_row(n, b) for n in range(low, high + 1) for b in sorted(buckets)])
    else:
        rows = link.scan(FACT, layout.era_row(low, 0), layout.era_row(high, 255) + b"\x00", at_once=128)
    for row, cells in rows:
        number, bucket = layout.read_era_row(row)
        if buckets is not None and bucket not in buckets:
            continue
        era = Era(number, bucket)
        for column, (_, when) in cells.items():
            rest = column[3:]
            if column.startswith(_KINDS):
                era.kinds[rest[:8], rest[8:]] = when
            elif column.startswith(_ROSTERS):
                era.rosters[rest] = when
        yield era
