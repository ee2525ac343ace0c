"""Reading packs: what a filter lets through, in parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from nephoscope import filters
from nephoscope.filters import EVERYTHING, Compare, Filter
from sinks.hbase import index, journal, layout, pack
from sinks.hbase.facts import Catalogue
from sinks.hbase.found import KIND_FIELDS, ROSTER_FIELDS, Found, Who, joined
from sinks.hbase.index import Era
from sinks.hbase.layout import COMMIT, JOURNAL, MINUTE, MINUTES, SAMPLE, SPAN
from sinks.hbase.link import Cell, Link
from sinks.hbase.overlaps import Overlaps, Packed
from sinks.hbase.pack import Head

I64 = npt.NDArray[np.int64]

_KEYS: Final = 512
_KEYS_AT_ONCE: Final = 96
_ROWS_AT_ONCE: Final = 24
_COLUMNS: Final = 48
_RANGES: Final = 8
_BYTES_AT_ONCE: Final = 8_000_000

_Alike: TypeAlias = defaultdict[bytes, list[bytes]]
"""Packs by pack.shape."""


class Scan:
    """The samples that a filter lets through. It reads what it must: the buckets of the resources, the rows of the meters, the hours."""

    def __init__(self, catalogue: Catalogue, tree: Filter) -> None:
        self.catalogue = catalogue
        self.link: Link = catalogue.link
        self.first, self.last = filters.span_of_time(tree)
        of_kinds: list[Filter] = []
        of_rosters: list[Filter] = []
        rest: list[Filter] = []
        for part in filters.conjuncts(tree):
            read = filters.fields(part)
            if isinstance(part, Compare) and part.field == "timestamp" and part.op in {"=", "<", "<=", ">", ">="}:
                continue
            if isinstance(part, Compare) and part.field == "resource_id" and part.op in {"=", "in"}:
                # Of names there may be thousands: by number, not by comparing each with each.
                continue
            (of_kinds if read <= KIND_FIELDS else of_rosters if read <= ROSTER_FIELDS else rest).append(part)
        self._of_kinds = filters.both(*of_kinds) if of_kinds else None
        self._of_rosters = filters.both(*of_rosters) if of_rosters else None
        self._rest = filters.both(*rest) if rest else EVERYTHING
        names = _named(tree)
        self._named = None if names is None else np.array([catalogue.name_number(n) for n in sorted(names)], np.int64)
        names = filters.allowed(tree, "resource_id")
        self.buckets = None if names is None else {layout.bucket_of(n, catalogue.buckets) for n in names}
        self._places: dict[bytes, I64 | None] = {}
        self._kinds: dict[int, bool] = {}
        self._eras: list[Era] | None = None
        self.overlaps = Overlaps(catalogue)

    # -- which

    def eras(self) -> list[Era]:
        """What the index has for the filter's times and buckets."""
        if self._eras is None:
            self._eras = list(index.eras(self.link, self.first, self.last, self.buckets))
        return self._eras

    def kind_passes(self, keys: Sequence[bytes]) -> list[bool]:
        """Whether samples of these kinds may pass."""
        numbers = self.catalogue.kind_numbers(keys)
        if self._of_kinds is None:
            return [True] * len(keys)
        fresh = np.array(sorted({n for n in numbers if n not in self._kinds}), np.int64)
        if len(fresh):
            nobody = np.zeros(len(fresh), np.int64)
            passed = filters.evaluate(self._of_kinds, Who(self.catalogue, fresh, nobody, nobody))
            self._kinds.update(zip(fresh.tolist(), passed.tolist(), strict=True))
        return [self._kinds[n] for n in numbers]

    def places(self, digests: Iterable[bytes]) -> Mapping[bytes, I64 | None]:
        """For each roster: the positions of those that may pass; None: all."""
        if self._of_rosters is None and self._named is None:
            return defaultdict(lambda: None)
        missing = [d for d in dict.fromkeys(digests) if d not in self._places]
        if missing:
            rosters = self.catalogue.rosters(missing)
            for one in missing:
                roster = rosters[one]
                passed = np.ones(len(roster.resources), bool)
                if self._named is not None:
                    passed = np.isin(roster.resources, self._named)
                if self._of_rosters is not None and passed.any():
                    who = Who(self.catalogue, np.zeros(0, np.int64), roster.resources, roster.said)
                    passed &= filters.evaluate(self._of_rosters, who)
                self._places[one] = None if passed.all() else np.flatnonzero(passed)
        return self._places

    # -- all of it

    def all(self) -> Iterator[Found]:
        """All that passes, bucket by bucket."""
        by_bucket: dict[int, list[Era]] = defaultdict(list)
        for era in self.eras():
            by_bucket[era.bucket].append(era)
        for bucket, eras in sorted(by_bucket.items()):
            keys = sorted({kind for era in eras for kind, _ in era.kinds})
            passing = [k for k, yes in zip(keys, self.kind_passes(keys), strict=True) if yes]
            numbers = self.catalogue.kind_numbers(passing)
            identities = sorted({self.catalogue.identities[n] for n in numbers})
            if not identities:
                continue
            low = max(eras[0].begin, self.first if self.first is not None else 0) // SPAN
            high = min(eras[-1].end - 1, self.last if self.last is not None else 2**62) // SPAN
            yield from self._found(self._rows(bucket, identities, low, high))

    def _rows(
        self, bucket: int, identities: list[bytes], low: int, high: int
    ) -> Iterator[tuple[bytes, dict[bytes, Cell]]]:
        spans = range(low, high + 1)
        if len(spans) * len(identities) <= _KEYS:
            keys = [layout.sample_row(bucket, i, s) for i in identities for s in spans]
            for begin in range(0, len(keys), _KEYS_AT_ONCE):
                yield from self.link.rows(SAMPLE, keys[begin : begin + _KEYS_AT_ONCE])
        elif len(identities) <= _RANGES or self.first is not None:
            for one in identities:
                start, stop = layout.sample_row(bucket, one, low), layout.sample_row(bucket, one, high) + b"\x00"
                yield from self.link.scan(SAMPLE, start, stop, at_once=_ROWS_AT_ONCE)
        else:
            wanted = set(identities)
            prefix = bytes([bucket])
            for row, cells in self.link.scan(SAMPLE, prefix, layout.after(prefix), at_once=_ROWS_AT_ONCE):
                if row[1:9] in wanted:
                    yield row, cells

    # -- by the minute

    def rounds(self, *, newest_first: bool, size: int = 2, done: Collection[int] = ()) -> Iterator[list[Found]]:
        """What passes, in the order of time from round to round; within one in any order. `done`: buckets to read no further."""
        buckets = sorted({e.bucket for e in self.eras()})
        low = layout.commit_row(0, max(0, self.first or 0) // MINUTE)[1:]
        high = layout.commit_row(0, min(2**32 - 1, (2**62 if self.last is None else self.last) // MINUTE))[1:]
        if self.last is not None and self.last < 0:
            return
        bounds = {b: (bytes([b]) + low, bytes([b]) + high + b"\x00") for b in buckets}
        waiting: dict[int, list[tuple[int, bytes]]] = {b: [] for b in buckets}
        while bounds or any(waiting.values()):
            for bucket in done:
                bounds.pop(bucket, None)
                waiting.pop(bucket, None)
            for bucket, (start, stop) in list(bounds.items()):
                if waiting[bucket]:
                    continue
                part = []
                for row, cells in self.link.scan(
                    COMMIT, start, stop, columns=[JOURNAL], backwards=newest_first, at_once=size
                ):
                    part.append((layout.minute_of(row), cells[JOURNAL][0]))
                    start, stop = (start, row) if newest_first else (row + b"\x00", stop)
                    if len(part) == size:
                        break
                waiting[bucket] = part
                bounds[bucket] = start, stop
                if len(part) < size:
                    del bounds[bucket]
            # What all that go on have got to is complete.
            ends = [waiting[b][-1][0] for b in bounds]
            edge = (max(ends) if newest_first else min(ends)) if ends else None
            due: dict[tuple[int, int], bytes] = {}
            for bucket, some in waiting.items():
                ready = [m for m in some if edge is None or (m[0] >= edge if newest_first else m[0] <= edge)]
                waiting[bucket] = some[len(ready) :]
                due |= {(bucket, minute): value for minute, value in ready}
            yield self._of_lists(due)
            size = min(2 * size, 256)

    def _of_lists(self, lists: dict[tuple[int, int], bytes]) -> list[Found]:
        """What passes of the packs in some lists."""
        wanted: dict[tuple[int, int], set[tuple[bytes, bytes]]] = defaultdict(set)
        entries = [(bucket, e) for (bucket, minute), value in lists.items() for e in journal.entries(minute, value)]
        if not entries:
            return []
        passes = self.kind_passes([e.kind for _, e in entries])
        entries = [pair for pair, yes in zip(entries, passes, strict=True) if yes]
        places = self.places(e.roster for _, e in entries)
        numbers = self.catalogue.kind_numbers([e.kind for _, e in entries])
        for (bucket, e), number in zip(entries, numbers, strict=True):
            some = places[e.roster]
            if some is None or len(some):
                row = layout.sample_row(bucket, self.catalogue.identities[number], e.minute // MINUTES)
                wanted[bucket, e.minute // MINUTES].add((row, bytes([e.minute % MINUTES]) + e.token))
        out: list[Found] = []
        for pairs in wanted.values():
            rows = sorted({row for row, _ in pairs})
            tails = {tail for _, tail in pairs}
            columns = None
            if len(tails) <= _COLUMNS:
                columns = [family + b":" + tail for tail in tails for family in self.catalogue.families]
            minutes = {tail[0] for tail in tails}
            read = (
                (row, {c: cell for c, cell in cells.items() if c[c.index(b":") + 1] in minutes})
                for row, cells in self.link.rows(SAMPLE, rows, columns)
            )
            out += self._found(read)
        return out

    # -- from cells to samples

    def _found(self, rows: Iterable[tuple[bytes, dict[bytes, Cell]]]) -> Iterator[Found]:
        """What passes of whole rows, or of all packs of a minute in them."""
        low = -1 if self.first is None else self.first // MINUTE
        high = 2**62 if self.last is None else self.last // MINUTE
        alike: _Alike = defaultdict(list)
        packs: list[Packed] = []
        size = 0
        for row, columns in rows:
            bucket, _, span = layout.read_sample_row(row)
            begin = span * MINUTES
            cells = {column[column.index(b":") + 1 :]: cell for column, (cell, _) in columns.items()}
            if begin < low or begin + MINUTES - 1 > high:
                cells = {tail: cell for tail, cell in cells.items() if low <= begin + tail[0] <= high}
            size += sum(map(len, cells.values()))
            if len({pack.moment(cell) for cell in cells.values()}) == len(cells):
                for cell in cells.values():
                    alike[pack.shape(cell)].append(cell)
            else:
                # There may be two of one sample.
                some = [
                    Packed(bucket, begin + tail[0], tail[1:], pack.head(cell), cell) for tail, cell in cells.items()
                ]
                self.overlaps.settle(some)
                packs += some
            if size > _BYTES_AT_ONCE:
                yield from self._decoded(alike, packs)
                alike, packs, size = defaultdict(list), [], 0
        yield from self._decoded(alike, packs)

    def decoded(self, packs: list[Packed]) -> Iterator[Found]:
        """The samples of packs that pass, in one part; nothing where none does."""
        yield from self._decoded(defaultdict(list), packs)

    def _decoded(self, alike: _Alike, packs: list[Packed]) -> Iterator[Found]:
        for one in packs:
            if not one.gone:
                alike[pack.shape(one.cell)].append(one.cell)
        some: list[tuple[Head, list[bytes], list[int]]] = [(pack.head(cells[0]), cells, []) for cells in alike.values()]
        some += [(one.head, [one.cell], one.gone) for one in packs if one.gone]
        passes = self.kind_passes([head.kind for head, _, _ in some])
        some = [one for one, yes in zip(some, passes, strict=True) if yes]
        rosters = self.catalogue.rosters(head.roster for head, _, _ in some)
        places = self.places(head.roster for head, _, _ in some)
        parts = []
        for head, cells, gone in some:
            at = places[head.roster]
            if gone:
                at = np.setdiff1d(np.arange(head.count) if at is None else at, np.array(gone))
            if at is not None and not len(at):
                continue
            values = pack.unpack(cells, head.flags, head.count, at)
            n, roster = len(values.time), rosters[head.roster]
            who, said = roster.resources, roster.said
            if at is not None:
                who, said = who[at], said[at]
            tied = bool(head.flags & pack.TIED)
            if not tied:
                values.ids = np.zeros((n, 16), np.uint8)
            kind = np.full(n, self.catalogue.kind_numbers([head.kind])[0], np.int64)
            who, said = np.tile(who, len(cells)), np.tile(said, len(cells))
            parts.append(Found(self.catalogue, kind, who, said, values, np.full(n, tied)))
        if not parts:
            return
        found = joined(parts)
        passed = np.ones(found.length, bool)
        if self.first is not None:
            passed &= found.values.time >= self.first
        if self.last is not None:
            passed &= found.values.time <= self.last
        if not passed.all():
            found = found.take(passed)
        if self._rest is not EVERYTHING:
            found = found.take(filters.evaluate(self._rest, found))
        if found.length:
            yield found


def _named(tree: Filter) -> frozenset[str] | None:
    """The resources that a filter plainly names; None: it names none."""
    result: frozenset[str] | None = None
    for part in filters.conjuncts(tree):
        if isinstance(part, Compare) and part.field == "resource_id" and part.op in {"=", "in"}:
            some = frozenset(part.value if part.op == "in" else (part.value,))
            result = some if result is None else result & some
    return result
