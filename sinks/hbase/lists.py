"""Answers about resources and meters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from nephoscope import filters, paging
from nephoscope.filters import And, Compare, Filter
from nephoscope.sample import Sample
from nephoscope.store import ListQuery, Meter, MeterPage, Resource, ResourcePage
from sinks.hbase import index
from sinks.hbase.facts import Catalogue
from sinks.hbase.found import KIND_FIELDS, ROSTER_FIELDS, Found, Who
from sinks.hbase.index import Era
from sinks.hbase.scan import Scan

_AT_ONCE: Final = 512
"""Resources whose ends are looked up together, at most."""


@dataclass(slots=True)
class _Known:
    """What the index has of a resource: its kinds with the newest era of each, and the eras at both ends."""

    kinds: dict[int, Era] = field(default_factory=dict)
    oldest: Era | None = None
    newest: Era | None = None


def resources(catalogue: Catalogue, query: ListQuery) -> ResourcePage:
    """A page of resources."""
    after = None if query.cursor is None else paging.read_list_cursor(query.cursor, 1)[0]
    known = _known(catalogue)
    names = _passing(catalogue, query.filter, known)
    out: list[Resource] = []
    for some in _chunks([n for n in names if after is None or n > after], query.limit):
        newest = _newest(catalogue, known, some)
        oldest = _oldest(catalogue, known, list(newest))
        for name in some:
            last = newest.get(name)
            if last is None:
                continue
            if len(out) == query.limit:
                return ResourcePage(tuple(out), paging.list_cursor([out[-1].resource_id]))
            out.append(
                Resource(name, last.user_id, last.project_id, last.source, last.metadata, oldest[name], last.timestamp)
            )
    return ResourcePage(tuple(out))


def meters(catalogue: Catalogue, query: ListQuery, swept: int) -> MeterPage:
    """A page of meters. `swept`: before this, what the index has may be gone."""
    begin = None if query.cursor is None else paging.read_list_cursor(query.cursor, 5)
    known = _known(catalogue)
    names = _passing(catalogue, query.filter, known)
    parts = [p for p in filters.conjuncts(query.filter) if filters.fields(p) and filters.fields(p) <= KIND_FIELDS]
    passing = _kinds_that_pass(catalogue, parts)
    out: list[Meter] = []
    for some in _chunks([n for n in names if begin is None or n >= begin[0]], query.limit):
        newest = _newest(catalogue, known, some)
        for name in some:
            if name not in newest:
                continue
            entries: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
            for kind, era in known[name].kinds.items():
                if kind in passing and (era.begin >= swept or _alive(catalogue, name, kind)):
                    one = catalogue.kinds[kind]
                    entries[one.name, one.type, one.unit, one.source].append(kind)
            for entry in sorted(entries):
                if begin and name == begin[0] and list(entry) <= begin[1:]:
                    continue
                if len(out) == query.limit:
                    last = out[-1]
                    return MeterPage(
                        tuple(out), paging.list_cursor([last.resource_id, last.name, last.type, last.unit, last.source])
                    )
                out.append(Meter(*entry, name, newest[name].user_id, newest[name].project_id))
    return MeterPage(tuple(out))


def live(catalogue: Catalogue, names: Iterable[str]) -> set[str]:
    """Which of these resources have a sample."""
    known = _known(catalogue)
    return set(_newest(catalogue, known, [n for n in names if n in known]))


# -- what the index knows


def _known(catalogue: Catalogue) -> dict[str, _Known]:
    eras = list(index.eras(catalogue.link, None, None))
    lists = catalogue.lists(digest for era in eras for _, digest in era.kinds)
    catalogue.kind_numbers([key for era in eras for key, _ in era.kinds])
    out: dict[str, _Known] = defaultdict(_Known)
    for era in eras:
        kinds = catalogue.kind_numbers([key for key, _ in era.kinds])
        for (_, digest), kind in zip(era.kinds, kinds, strict=True):
            for number in lists[digest].tolist():
                known = out[catalogue.names[number]]
                known.kinds[kind] = era
                known.oldest = known.oldest or era
                known.newest = era
    return dict(out)


def _passing(catalogue: Catalogue, tree: Filter, known: dict[str, _Known]) -> list[str]:
    """The resources that pass, in order."""
    read = filters.fields(tree)
    if not read <= (KIND_FIELDS | ROSTER_FIELDS):
        passed: set[int] = set()
        for found in Scan(catalogue, tree).all():
            passed.update(np.unique(found.resource).tolist())
        return sorted(catalogue.names[n] for n in passed)
    if not read:
        return sorted(known) if filters.evaluate(tree, _one(catalogue)).all() else []
    named = filters.allowed(tree, "resource_id")
    pairs: dict[str, set[int]] = defaultdict(set)
    if read & ROSTER_FIELDS - {"resource_id"}:
        # Of rosters that the index has: each says what samples of its resources said.
        eras = index.eras(catalogue.link, None, None)
        digests = {d for era in eras for d in era.rosters}
        rosters = catalogue.rosters(digests)
        for one in digests:
            for number, said in zip(rosters[one].resources.tolist(), rosters[one].said.tolist(), strict=True):
                pairs[catalogue.names[number]].add(said)
    out = []
    for some in _chunks([n for n in sorted(known) if named is None or n in named]):
        rows = [(k, catalogue.name_number(n), s) for n in some for k in known[n].kinds for s in pairs.get(n) or (-1,)]
        kind, resource, said = (np.array(c, np.int64) for c in zip(*rows, strict=True))
        passed_rows = filters.evaluate(tree, Who(catalogue, kind, resource, said))
        there = set(resource[passed_rows].tolist())
        out += [n for n in some if catalogue.name_number(n) in there]
    return out


def _one(catalogue: Catalogue) -> Who:
    zero = np.zeros(1, np.int64)
    return Who(catalogue, zero, zero, zero)


def _kinds_that_pass(catalogue: Catalogue, parts: Sequence[Filter]) -> set[int]:
    every = np.arange(len(catalogue.kinds))
    nobody = np.zeros(len(every), np.int64)
    passed = filters.evaluate(And(tuple(parts)), Who(catalogue, every, nobody, nobody))
    return set(every[passed].tolist())


# -- the ends of a resource's life


def _newest(catalogue: Catalogue, known: dict[str, _Known], names: Sequence[str]) -> dict[str, Sample]:
    """The sample that says what a resource is. Of several at one time, the last by name and id."""
    out: dict[str, Sample] = {}
    by_era: dict[int, list[str]] = defaultdict(list)
    for name in names:
        newest = known[name].newest
        if newest is not None:
            by_era[newest.end].append(name)
    for end, some in by_era.items():
        for found in _ends(catalogue, some, Compare("timestamp", "<", end), newest_first=True):
            order = np.lexsort((-found.values.time, found.resource))
            rows = found.take(order)
            first = np.flatnonzero(np.diff(rows.resource, prepend=-1))
            newest_time = np.repeat(rows.values.time[first], np.diff(first, append=rows.length))
            for sample in rows.take(rows.values.time == newest_time).samples():
                other = out.get(sample.resource_id)
                if other is None or _rank(sample) > _rank(other):
                    out[sample.resource_id] = sample
    return out


def _oldest(catalogue: Catalogue, known: dict[str, _Known], names: Sequence[str]) -> dict[str, int]:
    out: dict[str, int] = {}
    by_era: dict[int, list[str]] = defaultdict(list)
    for name in names:
        oldest = known[name].oldest
        if oldest is not None:
            by_era[oldest.begin].append(name)
    for begin, some in by_era.items():
        for found in _ends(catalogue, some, Compare("timestamp", ">=", begin), newest_first=False):
            for number in np.unique(found.resource).tolist():
                time = int(found.values.time[found.resource == number].min())
                name = catalogue.names[number]
                out[name] = min(out.get(name, time), time)
    return out


def _ends(catalogue: Catalogue, names: list[str], bound: Filter, *, newest_first: bool) -> Iterable[Found]:
    """For each resource what the first round that has anything of it has."""
    scan = Scan(catalogue, And((Compare("resource_id", "in", names), bound)))
    left: dict[int, set[int]] = defaultdict(set)
    for name in names:
        number = catalogue.name_number(name)
        left[catalogue.bucket_of(number)].add(number)
    done: set[int] = set()
    for parts in scan.rounds(newest_first=newest_first, done=done):
        there: set[int] = set()
        for found in parts:
            mine = np.isin(found.resource, np.array([n for some in left.values() for n in some], np.int64))
            if mine.any():
                there.update(np.unique(found.resource[mine]).tolist())
                yield found.take(mine)
        for bucket, some in list(left.items()):
            some -= there
            if not some:
                done.add(bucket)
                del left[bucket]
        if not left:
            return


def _rank(sample: Sample) -> tuple[int, str, bytes]:
    return sample.timestamp, sample.name, sample.id


def _alive(catalogue: Catalogue, name: str, kind: int) -> bool:
    one = catalogue.kinds[kind]
    parts = [Compare("resource_id", "=", name)]
    parts += [Compare(f, "=", getattr(one, f)) for f in ("name", "type", "unit", "source", "origin")]
    return next(Scan(catalogue, And(tuple(parts))).all(), None) is not None


def _chunks(names: Sequence[str], limit: int | None = None) -> Iterable[list[str]]:
    size = _AT_ONCE if limit is None else min(_AT_ONCE, limit + 1)
    for begin in range(0, len(names), size):
        yield list(names[begin : begin + size])
