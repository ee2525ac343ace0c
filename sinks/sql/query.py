"""Answers: samples, meters, resources, history, statistics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from nephoscope import filters, paging
from nephoscope.filters import EVERYTHING, METADATA, Compare, Filter, field_named
from nephoscope.natural import Kind
from nephoscope.sample import Sample
from nephoscope.statistics import tallied
from nephoscope.store import (
    ListQuery,
    Meter,
    MeterPage,
    Page,
    Resource,
    ResourcePage,
    SampleQuery,
    State,
    Statistics,
    StatisticsQuery,
)
from sinks.sql import ends, schema
from sinks.sql.catalogue import KIND_FIELDS, STATE_FIELDS, Catalogue
from sinks.sql.scan import Scan
from sinks.sql.statements import Cursor, Lookup, Statement, chunks

I64 = npt.NDArray[np.int64]

_AT_ONCE: Final = 128
"""Resources of which the newest samples are looked up together."""

_names_after = Statement(
    sa.select(schema.resource.c.id, schema.resource.c.name)
    .where(schema.resource.c.name > sa.bindparam("after"))
    .order_by(schema.resource.c.name)
    .limit(512)
)
_names = Lookup(sa.select(schema.resource.c.id, schema.resource.c.name), schema.resource.c.name)
_series = Lookup(sa.select(schema.series.c.resource, schema.series.c.kind), schema.series.c.resource)
_states = Lookup(sa.select(schema.state.c.resource, schema.state.c.id), schema.state.c.resource)


def samples(cursor: Cursor, query: SampleQuery) -> Page:
    """A page of samples."""
    order = tuple(query.order)
    after = None if query.cursor is None else paging.read_cursor(query.cursor, order)
    by_time = bool(order) and order[0][0] == "timestamp"
    tree = query.filter
    if by_time and after is not None:
        tree = filters.both(tree, Compare("timestamp", "<=" if order[0][1] == "desc" else ">=", after[0]))
    scan = Scan(cursor, tree)
    # One more than asked for says whether anything follows.
    most = None if query.limit is None else query.limit + 1
    best: list[Sample] = []
    spans = scan.spans()
    newest_first = by_time and order[0][1] == "desc"
    size = 1 if by_time and most is not None else 1024
    while spans:
        some = spans[-size:] if newest_first else spans[:size]
        spans = spans[: -len(some)] if newest_first else spans[len(some) :]
        for found in scan.found(some):
            best += found.take(paging.select(found, order, after, most)).samples()
            if most is not None and len(best) > 8 * most:
                best = paging.in_order(best, order)[:most]
        if by_time and most is not None and len(best) >= most:
            break
        size = min(2 * size, 1024)
    best = paging.in_order(best, order)
    if most is None or len(best) < most:
        return Page(tuple(best))
    page = best[: most - 1]
    return Page(tuple(page), paging.cursor_of(page[-1], order))


def each_sample(cursor: Cursor, tree: Filter) -> Iterator[Sample]:
    """All samples, about in the order of time."""
    for found in Scan(cursor, tree).all():
        yield from found.take(np.argsort(found.time, kind="stable")).samples()


def statistics(cursor: Cursor, query: StatisticsQuery) -> list[Statistics]:
    """Statistics by period and group."""
    counted = (field_named(a.partition("/")[2]) for a in query.aggregates if "/" in a)
    needed = {METADATA if f.startswith(METADATA) else f for f in (*map(field_named, query.groupby), *counted)}
    scan = Scan(cursor, query.filter, needed=needed)
    return tallied(query, scan.first, partial(_earliest, scan), scan.all())


def _earliest(scan: Scan) -> int:
    spans = scan.spans()
    for begin in range(0, len(spans), 4):
        times = [int(found.time.min()) for found in scan.found(spans[begin : begin + 4])]
        if times:
            return min(times)
    return 0


def resources(cursor: Cursor, query: ListQuery) -> ResourcePage:
    """A page of resources."""
    after = "" if query.cursor is None else paging.read_list_cursor(query.cursor, 1)[0]
    catalogue = Catalogue(cursor)
    out: list[Resource] = []
    listed = _listed(cursor, catalogue, query.filter, after)
    while some := list(islice(listed, _AT_ONCE)):
        newest = ends.newest(cursor, catalogue, [number for number, _ in some])
        oldest = ends.oldest(cursor, catalogue, [number for number, _ in some])
        for number, name in some:
            if number not in newest:
                continue
            if len(out) == query.limit:
                return ResourcePage(tuple(out), paging.list_cursor([out[-1].resource_id]))
            last = newest[number]
            out.append(
                Resource(name, last.user_id, last.project_id, last.source, last.metadata, oldest[number], last.time)
            )
    return ResourcePage(tuple(out))


def meters(cursor: Cursor, query: ListQuery) -> MeterPage:
    """A page of meters."""
    begin = None if query.cursor is None else paging.read_list_cursor(query.cursor, 5)
    catalogue = Catalogue(cursor)
    passing = _passing_kinds(catalogue, query.filter)
    out: list[Meter] = []
    listed = _listed(cursor, catalogue, query.filter, begin[0] if begin else "", again=bool(begin))
    while some := list(islice(listed, _AT_ONCE)):
        numbers = [number for number, _ in some]
        newest = ends.newest(cursor, catalogue, numbers)
        kinds_of: dict[int, set[tuple[str, str, str, str]]] = defaultdict(set)
        for number, kind in _series.run(cursor, numbers):
            if kind in passing:
                one = catalogue.kinds[kind]
                kinds_of[number].add((one.name, one.type, one.unit, one.source))
        for number, name in some:
            for entry in sorted(kinds_of[number]):
                if number not in newest or (begin and name == begin[0] and list(entry) <= begin[1:]):
                    continue
                if len(out) == query.limit:
                    last = out[-1]
                    return MeterPage(
                        tuple(out), paging.list_cursor([last.resource_id, last.name, last.type, last.unit, last.source])
                    )
                out.append(Meter(*entry, name, newest[number].user_id, newest[number].project_id))
    return MeterPage(tuple(out))


def history(cursor: Cursor, resource_id: str) -> list[State]:
    """What a resource's samples have said of it."""
    seen: dict[int, tuple[int, int]] = {}
    catalogue = None
    for found in Scan(cursor, Compare("resource_id", "=", resource_id)).all():
        catalogue = found.catalogue
        for number in np.unique(found.fields.state).tolist():
            times = found.time[found.fields.state == number]
            first, last = seen.get(number, (2**62, -(2**62)))
            seen[number] = min(first, int(times.min())), max(last, int(times.max()))
    if catalogue is None:
        return []
    states = catalogue.states(np.array(list(seen), np.int64))
    said, texts = states.words("resource_metadata")
    out = [
        State(user, project, texts[text], *seen[number])
        for user, project, text, number in zip(states.users, states.projects, said.tolist(), seen, strict=True)
    ]
    return sorted(out, key=lambda s: (s.first_sample, s.last_sample, s.user_id, s.project_id, s.metadata))


# -- which resources


def _listed(
    cursor: Cursor, catalogue: Catalogue, tree: Filter, after: str, *, again: bool = False
) -> Iterator[tuple[int, str]]:
    """(number, id) of the resources that pass and come after an id, in order. `again`: that one once more."""
    numbers = _resources_that_pass(cursor, catalogue, tree)
    if again:
        for number, name in _names.run(cursor, [after]):
            if numbers is None or number in numbers:
                yield number, name
    while rows := _names_after.run(cursor, after=after).fetchall():
        after = rows[-1][1]
        for number, name in rows:
            if numbers is None or number in numbers:
                yield number, name


def _resources_that_pass(cursor: Cursor, catalogue: Catalogue, tree: Filter) -> set[int] | None:
    """The resources that pass; None: all."""
    parts = filters.conjuncts(tree)
    read = [filters.fields(p) for p in parts]
    if any(not r <= (KIND_FIELDS | STATE_FIELDS) for r in read):
        passed: set[int] = set()
        for found in Scan(cursor, tree).all():
            passed.update(np.unique(found.resource).tolist())
        return passed
    of_states = [p for p, r in zip(parts, read, strict=True) if r <= STATE_FIELDS]
    of_kinds = [p for p, r in zip(parts, read, strict=True) if r and r <= KIND_FIELDS]
    mixed = [p for p, r in zip(parts, read, strict=True) if not (r <= STATE_FIELDS or r <= KIND_FIELDS)]
    if mixed:
        return _pairs_that_pass(cursor, catalogue, tree)
    result: set[int] | None = None
    if of_states:
        result = set(catalogue.states_that_pass(filters.both(*of_states))[1].tolist())
    if of_kinds:
        kinds = set(catalogue.kinds_that_pass(filters.both(*of_kinds)).tolist())
        having = {r for r, k in _all_series.run(cursor) if k in kinds}
        result = having if result is None else result & having
    return result


_all_series = Statement(sa.select(schema.series.c.resource, schema.series.c.kind))


def _pairs_that_pass(cursor: Cursor, catalogue: Catalogue, tree: Filter) -> set[int]:
    """For a filter that weighs meters against metadata: every state of a resource with every meter of it."""
    passed: set[int] = set()
    kinds_of: dict[int, list[int]] = {}
    for resource, kind in _all_series.run(cursor):
        kinds_of.setdefault(resource, []).append(kind)
    for some in chunks(sorted(kinds_of), 512):
        rows = [(r, s, k) for r, s in _states.run(cursor, some) for k in kinds_of[r]]
        if rows:
            resource, state, kind = (np.array(c, np.int64) for c in zip(*rows, strict=True))
            pairs = _Pairs(catalogue, kind, state)
            passed.update(resource[filters.evaluate(tree, pairs)].tolist())
    return passed


class _Pairs:
    """States with kinds, as filters.Columns."""

    def __init__(self, catalogue: Catalogue, kind: I64, state: I64) -> None:
        self.length = len(kind)
        self._catalogue = catalogue
        self._kind = kind
        used, self._state = np.unique(state, return_inverse=True)
        self._states = catalogue.states(used)

    def numbers(self, field: str) -> npt.NDArray[Any]:
        """See filters.Columns."""
        raise NotImplementedError(field)

    def ids(self) -> npt.NDArray[np.uint8]:
        """See filters.Columns."""
        raise NotImplementedError

    def words(self, field: str) -> tuple[npt.NDArray[Any], Sequence[str]]:
        """See filters.Columns."""
        if field in KIND_FIELDS:
            used, codes = np.unique(self._kind, return_inverse=True)
            return codes, [getattr(self._catalogue.kinds[k], field) for k in used.tolist()]
        codes, values = self._states.words(field)
        return codes[self._state], values


def _passing_kinds(catalogue: Catalogue, tree: Filter) -> set[int]:
    parts = [p for p in filters.conjuncts(tree) if filters.fields(p) and filters.fields(p) <= KIND_FIELDS]
    return set(catalogue.kinds_that_pass(filters.both(*parts) if parts else EVERYTHING).tolist())


__all__ = ["Kind", "each_sample", "history", "meters", "resources", "samples", "statistics"]
