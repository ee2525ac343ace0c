"""Reading packs: what a filter lets through, in parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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
from sinks.hbase.pack import Head, Values

I64 = npt.NDArray[np.int64]

_KEYS: Final = 512
_KEYS_AT_ONCE: Final = 96
_ROWS_AT_ONCE: Final = 24
_COLUMNS: Final = 48
_RANGES: Final = 8


@dataclass(slots=True)
class Packed:
    """A pack that was read. `gone`: positions of rows that an earlier pack has."""

    bucket: int
    minute: int
    token: bytes
    head: Head
    cell: bytes
    gone: list[int] | None = None


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
        low = -1 if self.first is None else self.first // MINUTE
        high = 2**62 if self.last is None else self.last // MINUTE
        packs: list[Packed] = []
        size = 0
        for row, cells in rows:
            bucket, _, span = layout.read_sample_row(row)
            some = []
            for column, (cell, _) in cells.items():
                tail = column[column.index(b":") + 1 :]
                minute = span * MINUTES + tail[0]
                if low <= minute <= high:
                    some.append(Packed(bucket, minute, tail[1:], pack.head(cell), cell))
                    size += len(cell)
            packs += self.settle(some)
            if size > 8_000_000:
                yield from self.decoded(packs)
                packs, size = [], 0
        yield from self.decoded(packs)

    def settle(self, packs: list[Packed]) -> list[Packed]:
        """The packs of one row; where two of them have one sample, which is seldom, only the first of those that count."""
        by_minute: dict[int, list[Packed]] = defaultdict(list)
        for one in packs:
            by_minute[one.minute].append(one)
        for minute, some in by_minute.items():
            if len(some) > 1 and self._overlap(some):
                row = layout.commit_row(some[0].bucket, minute)
                value = next((c[JOURNAL][0] for _, c in self.link.rows(COMMIT, [row], [JOURNAL])), b"")
                place = journal.tokens(value)
                some.sort(key=lambda p: (place.get(p.head.kind + p.token, 2**62), p.token, p.head.kind))
                seen: set[object] = set()
                for one in some:
                    names = self._names(one)
                    one.gone = [i for i, name in enumerate(names) if name in seen]
                    seen.update(names)
        return packs

    def _overlap(self, packs: list[Packed]) -> bool:
        keys = [(p.head.flags & pack.TIED, p.head.time) for p in packs if not p.head.flags & pack.TIED]
        tied = sum(1 for p in packs if p.head.flags & pack.TIED)
        if len(set(keys)) == len(keys) and tied < 2:
            return False
        names = [name for p in packs for name in self._names(p)]
        return len(set(names)) < len(names)

    def _names(self, one: Packed) -> list[object]:
        """What tells the samples of a pack from others in its row."""
        head = one.head
        if head.flags & pack.TIED:
            return [raw.tobytes() for raw in pack.unpack([one.cell], head.flags, head.count).ids]
        resources = self.catalogue.rosters([head.roster])[head.roster].resources
        return [(head.time, r) for r in resources.tolist()]

    def decoded(self, packs: list[Packed]) -> Iterator[Found]:
        """The samples of packs that pass, in one part; nothing where none does."""
        if not packs:
            return
        groups: dict[tuple[int, bytes, bytes, int], list[Packed]] = defaultdict(list)
        passes = self.kind_passes([p.head.kind for p in packs])
        for one, yes in zip(packs, passes, strict=True):
            if yes:
                groups[one.head.flags, one.head.kind, one.head.roster, one.head.count].append(one)
        rosters = self.catalogue.rosters(roster for _, _, roster, _ in groups)
        places = self.places(roster for _, _, roster, _ in groups)
        parts = []
        for (flags, kind, roster, count), some in groups.items():
            at = places[roster]
            if at is not None and not len(at):
                continue
            whole = [p for p in some if not p.gone]
            for few in (whole, *([p] for p in some if p.gone)):
                if not few:
                    continue
                keep = at
                if few[0].gone:
                    keep = np.setdiff1d(np.arange(count) if at is None else at, np.array(few[0].gone))
                    if not len(keep):
                        continue
                values = pack.unpack([p.cell for p in few], flags, count, keep)
                n, whole_roster = len(values.time), rosters[roster]
                who, said = whole_roster.resources, whole_roster.said
                if keep is not None:
                    who, said = who[keep], said[keep]
                tied = bool(flags & pack.TIED)
                if not tied:
                    values.ids = np.zeros((n, 16), np.uint8)
                parts.append(
                    Found(
                        self.catalogue,
                        np.full(n, self.catalogue.kind_numbers([kind])[0], np.int64),
                        np.tile(who, len(few)),
                        np.tile(said, len(few)),
                        values,
                        np.full(n, tied),
                    )
                )
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


__all__ = ["Packed", "Scan", "Values"]
