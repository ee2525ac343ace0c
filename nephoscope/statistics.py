"""Statistics of volumes by period and group, for stores that work them out here.

Samples come as columns, in parts of any size and order. Sums are those of exact arithmetic, rounded once (math.fsum), so
that neither the order nor the parts show in the result; the deviation is worked out around each part's mean and merged
(Chan, Golub and LeVeque 1983).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope.filters import METADATA, Columns, field_named, metadata_value
from nephoscope.store import Statistics, StatisticsQuery
from nephoscope.times import SECOND

I64 = npt.NDArray[np.int64]

_STANDARD: Final = ("count", "sum", "avg", "min", "max")


@dataclass(slots=True)
class _Group:
    """What is known of one period and group so far."""

    first: int
    last: int
    unit: str
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    parts: list[float] = field(default_factory=list)
    mean: float = 0.0
    squares: float = 0.0
    seen: list[set[int]] = field(default_factory=list)


class _Numbering:
    """Numbers for values, in the order in which they come."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Any) -> int:
        # 1, 1.0 and True are three values here, though not for a dict.
        key = value if isinstance(value, str) else (type(value), _hashable(value))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = len(self.values)
            self.values.append(value)
        return found


def tallied(
    query: StatisticsQuery, first: int | None, earliest: Callable[[], int], found: Iterable[Columns]
) -> list[Statistics]:
    """The statistics of samples. Periods begin at `first`, the least time that the question allows, or where it allows any at the `earliest` sample's."""
    anchor = 0
    if query.period:
        anchor = earliest() if first is None else first
    tally = Tally(query, anchor)
    for columns in found:
        tally.add(columns)
    return tally.result()


class Tally:
    """Collects samples; `result` gives the statistics. `anchor`: where the periods begin."""

    def __init__(self, query: StatisticsQuery, anchor: int = 0) -> None:
        self._query = query
        self._anchor = anchor
        self._wanted = frozenset(a for a in query.aggregates if "/" not in a) or (
            frozenset(_STANDARD) if not query.aggregates else frozenset()
        )
        self._distinct = tuple(dict.fromkeys(a.partition("/")[2] for a in query.aggregates if "/" in a))
        self._by = [_Numbering() for _ in query.groupby]
        self._of = [_Numbering() for _ in self._distinct]
        self._groups: dict[tuple[int, ...], _Group] = {}

    def add(self, columns: Columns) -> None:
        """Take some samples."""
        if not columns.length:
            return
        time = columns.numbers("timestamp")
        period = self._query.period * SECOND
        number = (time - self._anchor) // period if period else np.zeros(columns.length, np.int64)
        keys: list[I64] = [
            number,
            *(_numbered(columns, f, n) for f, n in zip(self._query.groupby, self._by, strict=True)),
        ]
        counted = [_numbered(columns, field_named(f), n) for f, n in zip(self._distinct, self._of, strict=True)]
        units, unit_values = columns.words("unit")
        # Where all is one group, the sorts of keys that are all alike are saved.
        order = np.lexsort((time, *reversed(keys))) if period or self._by else np.argsort(time, kind="stable")
        keys = [k[order] for k in keys]
        changed = np.zeros(columns.length, bool)
        changed[0] = True
        for key in keys:
            changed[1:] |= key[1:] != key[:-1]
        starts = np.flatnonzero(changed)
        ends = np.append(starts[1:], columns.length)
        volume = columns.numbers("volume")[order]
        lows, highs = np.minimum.reduceat(volume, starts).tolist(), np.maximum.reduceat(volume, starts).tolist()
        time, units = time[order], units[order]
        first, last = time[starts].tolist(), time[ends - 1].tolist()
        volumes = volume.tolist()
        counted = [c[order] for c in counted]
        groups: list[tuple[int, ...]] = list(zip(*(k[starts].tolist() for k in keys), strict=True))
        for i, group_key in enumerate(groups):
            begin, end = int(starts[i]), int(ends[i])
            newest = np.searchsorted(time[begin:end], last[i]) + begin
            unit = max(unit_values[u] for u in np.unique(units[newest:end]).tolist())
            group = self._groups.get(group_key)
            if group is None:
                group = self._groups[group_key] = _Group(first[i], last[i], unit, seen=[set() for _ in counted])
            elif (last[i], unit) > (group.last, group.unit):
                group.unit = unit
            group.first, group.last = min(group.first, first[i]), max(group.last, last[i])
            group.low, group.high = min(group.low, lows[i]), max(group.high, highs[i])
            self._sum(group, volumes[begin:end])
            for seen, values in zip(group.seen, counted, strict=True):
                seen.update(values[begin:end].tolist())

    def result(self) -> list[Statistics]:
        """The statistics of all that came."""
        out = [self._statistics(key, group) for key, group in self._groups.items()]
        return sorted(out, key=lambda s: (s.period_start, [_rank(s.groupby[g]) for g in self._query.groupby]))

    def _sum(self, group: _Group, volumes: list[float]) -> None:
        n = len(volumes)
        total = _fsum(volumes)
        group.parts.append(total)
        if n > 1 and math.isfinite(total):
            # What the part's sum lost by rounding, so that a sum over many parts is as good as one over all.
            group.parts.append(_fsum([*volumes, -total]))
        if "stddev" in self._wanted:
            mean = total / n
            away = [v - mean for v in volumes]
            rest = _fsum(away)
            squares = _fsum([a * a for a in away]) - rest * rest / n
            apart, whole = mean - group.mean, group.count + n
            group.squares += squares + apart * apart * group.count * n / whole
            group.mean += apart * n / whole
        group.count += n

    def _statistics(self, key: Sequence[int], group: _Group) -> Statistics:
        query, wanted = self._query, self._wanted
        period = query.period * SECOND
        start = self._anchor + key[0] * period if period else group.first
        total = _fsum(group.parts)
        return Statistics(
            period=query.period,
            period_start=start,
            period_end=start + period if period else group.last,
            duration_start=group.first,
            duration_end=group.last,
            unit=group.unit,
            groupby={f: n.values[k] for f, n, k in zip(query.groupby, self._by, key[1:], strict=True)},
            count=group.count if "count" in wanted else None,
            sum=total if "sum" in wanted else None,
            avg=total / group.count if "avg" in wanted else None,
            min=group.low if "min" in wanted else None,
            max=group.high if "max" in wanted else None,
            stddev=math.sqrt(max(0.0, group.squares) / group.count) if "stddev" in wanted else None,
            cardinality={f: len(s) for f, s in zip(self._distinct, group.seen, strict=True)},
        )


def _fsum(values: list[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:
        # Too large, at least on the way. Powers of two change no digit; the last product may be infinite, and then so is the sum.
        return math.fsum(v * 2.0**-80 for v in values) * 2.0**80


def _numbered(columns: Columns, name: str, numbering: _Numbering) -> I64:
    metadata = name.startswith(METADATA)
    codes, values = columns.words("resource_metadata" if metadata else name)
    path = name.removeprefix(METADATA)
    used, which = np.unique(codes, return_inverse=True)
    table = [numbering.number(metadata_value(values[c], path) if metadata else values[c]) for c in used.tolist()]
    return np.array(table, np.int64)[which.ravel()]


def _hashable(value: Any) -> Hashable:
    return msgspec.json.encode(value, order="deterministic") if isinstance(value, dict | list) else value


def _rank(value: Any) -> tuple[int, Any]:
    """An order of values of all kinds: nothing, booleans, numbers, text, the rest."""
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    if isinstance(value, str):
        return 3, value
    return 4, msgspec.json.encode(value, order="deterministic")
