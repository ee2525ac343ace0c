"""Answers about samples: pages, all of them, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from nephoscope import filters, paging
from nephoscope.filters import Compare, Filter
from nephoscope.sample import Sample
from nephoscope.statistics import tallied
from nephoscope.store import Page, SampleQuery, State, Statistics, StatisticsQuery
from sinks.hbase.facts import Catalogue
from sinks.hbase.scan import Scan


def samples(catalogue: Catalogue, query: SampleQuery) -> Page:
    """A page of samples."""
    order = tuple(query.order)
    after = None if query.cursor is None else paging.read_cursor(query.cursor, order)
    by_time = bool(order) and order[0][0] == "timestamp"
    tree = query.filter
    if by_time and after is not None:
        tree = filters.both(tree, Compare("timestamp", "<=" if order[0][1] == "desc" else ">=", after[0]))
    scan = Scan(catalogue, tree)
    # One more than asked for says whether anything follows.
    most = None if query.limit is None else query.limit + 1
    best: list[Sample] = []
    ordered = by_time and most is not None
    rounds = scan.rounds(newest_first=order[0][1] == "desc") if ordered else ([found] for found in scan.all())
    for parts in rounds:
        for found in parts:
            best += found.take(paging.select(found, order, after, most)).samples()
            if most is not None and len(best) > 8 * most:
                best = paging.in_order(best, order)[:most]
        if ordered and most is not None and len(best) >= most:
            break
    best = paging.in_order(best, order)
    if most is None or len(best) < most:
        return Page(tuple(best))
    page = best[: most - 1]
    return Page(tuple(page), paging.cursor_of(page[-1], order))


def each_sample(catalogue: Catalogue, tree: Filter) -> Iterator[Sample]:
    """All samples, about in the order of time."""
    for parts in Scan(catalogue, tree).rounds(newest_first=False, size=32):
        for found in parts:
            yield from found.take(np.argsort(found.values.time, kind="stable")).samples()


def statistics(catalogue: Catalogue, query: StatisticsQuery) -> list[Statistics]:
    """Statistics by period and group."""
    scan = Scan(catalogue, query.filter)
    return tallied(query, scan.first, partial(_earliest, scan), scan.all())


def _earliest(scan: Scan) -> int:
    for parts in scan.rounds(newest_first=False):
        times = [int(found.values.time.min()) for found in parts]
        if times:
            return min(times)
    return 0


def history(catalogue: Catalogue, resource_id: str) -> list[State]:
    """What a resource's samples have said of it."""
    seen: dict[int, tuple[int, int]] = {}
    for found in Scan(catalogue, Compare("resource_id", "=", resource_id)).all():
        for number in np.unique(found.said).tolist():
            times = found.values.time[found.said == number]
            first, last = seen.get(number, (2**62, -(2**62)))
            seen[number] = min(first, int(times.min())), max(last, int(times.max()))
    out = [State(*catalogue.said[number], *both) for number, both in seen.items()]
    return sorted(out, key=lambda s: (s.first_sample, s.last_sample, s.user_id, s.project_id, s.metadata))
