"""Answers: samples, meters, resources, history, statistics."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

import numpy as np
from pymongo.database import Database

from nephoscope import filters, paging
from nephoscope.filters import EVERYTHING, Compare, Filter
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
from sinks.columns import Kinds
from sinks.mongodb.address import Document
from sinks.mongodb.catalogue import KIND_FIELDS, STATE_FIELDS, Catalogue, Memory, Pairs, States
from sinks.mongodb.ends import Ends
from sinks.mongodb.numbers import chunks
from sinks.mongodb.scan import Scan

_AT_ONCE: Final = 128
"""Resources whose ends are looked up together."""


def samples(db: Database[Document], query: SampleQuery) -> Page:
    """A page of samples."""
    order = tuple(query.order)
    after = None if query.cursor is None else paging.read_cursor(query.cursor, order)
    by_time = bool(order) and order[0][0] == "timestamp"
    tree = query.filter
    if by_time and after is not None:
        tree = filters.both(tree, Compare("timestamp", "<=" if order[0][1] == "desc" else ">=", after[0]))
    # One more than asked for says whether anything follows.
    most = None if query.limit is None else query.limit + 1
    best: list[Sample] = []
    scan = Scan(db, tree)
    small = by_time and most is not None
    for low, high in scan.windows(newest_first=by_time and order[0][1] == "desc", small=small):
        for found in scan.found(low, high):
            best += found.take(paging.select(found, order, after, most)).samples()
            if most is not None and len(best) > 8 * most:
                best = paging.in_order(best, order)[:most]
        if small and most is not None and len(best) >= most:
            break
    best = paging.in_order(best, order)
    if most is None or len(best) < most:
        return Page(tuple(best))
    page = best[: most - 1]
    return Page(tuple(page), paging.cursor_of(page[-1], order))


def each_sample(db: Database[Document], tree: Filter) -> Iterator[Sample]:
    """All samples, about in the order of time."""
    for found in Scan(db, tree).all():
        yield from found.take(np.argsort(found.time, kind="stable")).samples()


def statistics(db: Database[Document], query: StatisticsQuery, memory: Memory) -> list[Statistics]:
    """Statistics by period and group."""
    while True:
        scan = Scan(db, query.filter, Catalogue(db, memory))
        out = tallied(query, scan.first, partial(_earliest, scan), scan.all())
        if scan.catalogue.confirmed():
            return out


def _earliest(scan: Scan) -> int:
    for low, high in scan.windows(small=True):
        times = [int(found.time.min()) for found in scan.found(low, high)]
        if times:
            return min(times)
    return 0


def resources(db: Database[Document], query: ListQuery) -> ResourcePage:
    """A page of resources."""
    after = "" if query.cursor is None else paging.read_list_cursor(query.cursor, 1)[0]
    catalogue = Catalogue(db)
    out: list[Resource] = []
    for some in chunks(_listed(db, catalogue, query.filter, after), _AT_ONCE):
        ends = Ends(db, catalogue, [document["_id"] for document in some])
        newest, oldest = ends.newest(), ends.oldest()
        for document in some:
            last = newest.get(document["_id"])
            if last is None:
                continue
            if len(out) == query.limit:
                return ResourcePage(tuple(out), paging.list_cursor([out[-1].resource_id]))
            first = oldest.get(document["_id"], last.time)
            out.append(
                Resource(
                    document["n"], last.user_id, last.project_id, last.source, last.metadata, first, last.time
                )
            )  # fmt: skip
    return ResourcePage(tuple(out))


def meters(db: Database[Document], query: ListQuery) -> MeterPage:
    """A page of meters."""
    begin = None if query.cursor is None else paging.read_list_cursor(query.cursor, 5)
    catalogue = Catalogue(db)
    parts = [p for p in filters.conjuncts(query.filter) if filters.fields(p) and filters.fields(p) <= KIND_FIELDS]
    passing = set(catalogue.kinds_that_pass(filters.both(*parts) if parts else EVERYTHING).tolist())
    out: list[Meter] = []
    for some in chunks(_listed(db, catalogue, query.filter, begin[0] if begin else "", again=bool(begin)), _AT_ONCE):
        newest = Ends(db, catalogue, [document["_id"] for document in some]).newest()
        for document in some:
            number, name = document["_id"], document["n"]
            kinds = [catalogue.kind(k) for k in _kinds(document) if k in passing]
            for entry in sorted({(k.name, k.type, k.unit, k.source) for k in kinds}):
                if number not in newest or (begin and name == begin[0] and list(entry) <= begin[1:]):
                    continue
                if len(out) == query.limit:
                    last = out[-1]
                    where = [last.resource_id, last.name, last.type, last.unit, last.source]
                    return MeterPage(tuple(out), paging.list_cursor(where))
                out.append(Meter(*entry, name, newest[number].user_id, newest[number].project_id))
    return MeterPage(tuple(out))


def history(db: Database[Document], resource_id: str) -> list[State]:
    """What a resource's samples have said of it."""
    seen: dict[int, tuple[int, int]] = {}
    catalogue = Catalogue(db)
    for found in Scan(db, Compare("resource_id", "=", resource_id), catalogue).all():
        for number in np.unique(found.fields.state).tolist():
            times = found.time[found.fields.state == number]
            first, last = seen.get(number, (2**62, -(2**62)))
            seen[number] = min(first, int(times.min())), max(last, int(times.max()))
    states = catalogue.states(np.array(list(seen), np.int64))
    out = [State(s["u"], s["p"], s["m"], *seen[number]) for number, s in states.items()]
    return sorted(out, key=lambda s: (s.first_sample, s.last_sample, s.user_id, s.project_id, s.metadata))


# -- which resources


def _listed(
    db: Database[Document], catalogue: Catalogue, tree: Filter, after: str, *, again: bool = False
) -> Iterator[Document]:
    """The resources that pass and come after an id, in order. `again`: that one, too."""
    numbers = _resources_that_pass(db, catalogue, tree)
    cursor = db["resource"].find({"n": {"$gte" if again else "$gt": after}}).sort("n", 1)
    return (document for document in cursor if numbers is None or document["_id"] in numbers)


def _kinds(document: Document) -> list[int]:
    return [int(number) for number in document.get("k", ())]


def _resources_that_pass(db: Database[Document], catalogue: Catalogue, tree: Filter) -> set[int] | None:
    """The resources that pass; None: all."""
    parts = filters.conjuncts(tree)
    read = [filters.fields(p) for p in parts]
    if any(not r <= (KIND_FIELDS | STATE_FIELDS) for r in read):
        passed: set[int] = set()
        for found in Scan(db, tree).all():
            passed.update(np.unique(found.resource).tolist())
        return passed
    of_states = [p for p, r in zip(parts, read, strict=True) if r <= STATE_FIELDS]
    of_kinds = [p for p, r in zip(parts, read, strict=True) if r and r <= KIND_FIELDS]
    if len(of_states) + sum(1 for r in read if r and r <= KIND_FIELDS) < len(parts):
        return _pairs_that_pass(db, catalogue, tree)
    result: set[int] | None = None
    if of_states:
        result = set(catalogue.states_that_pass(filters.both(*of_states))[1].tolist())
    if of_kinds:
        kinds = set(catalogue.kinds_that_pass(filters.both(*of_kinds)).tolist())
        having = {d["_id"] for d in db["resource"].find({}, {"k": 1}) if not kinds.isdisjoint(_kinds(d))}
        result = having if result is None else result & having
    return result


def _pairs_that_pass(db: Database[Document], catalogue: Catalogue, tree: Filter) -> set[int]:
    """For a filter that weighs meters against metadata: every state of a resource with every meter of it."""
    passed: set[int] = set()
    numbers = list(catalogue.kinds)
    at = {number: i for i, number in enumerate(numbers)}
    kinds = Kinds([catalogue.kinds[n] for n in numbers])
    for some in chunks(db["resource"].find({}, {"k": 1}), 512):
        of = {document["_id"]: [at[k] for k in _kinds(document) if k in at] for document in some}
        states = list(catalogue.states_of(list(of)))
        pairs = [(i, k) for i, state in enumerate(states) for k in of[state["r"]]]
        if pairs:
            state, kind = (np.array(c, np.int64) for c in zip(*pairs, strict=True))
            both = Pairs(States(catalogue, states), state, kinds, kind)
            hit = state[filters.evaluate(tree, both)]
            passed.update(states[i]["r"] for i in np.unique(hit).tolist())
    return passed
