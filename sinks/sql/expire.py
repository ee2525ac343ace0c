"""Expiry: the oldest records go, in steps short enough for writers to get their turn, then what has none left."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from nephoscope import filters
from nephoscope.filters import Compare, Filter
from nephoscope.lifetimes import MAX_NAMES, Lifetimes, Plan
from nephoscope.store import Expiry
from sinks.sql import schema
from sinks.sql.backend import Backend
from sinks.sql.catalogue import Catalogue
from sinks.sql.counting import samples_of
from sinks.sql.events import expire_events
from sinks.sql.plan import block, blocks, plan
from sinks.sql.scan import Scan
from sinks.sql.schema import ERA, IN_BLOCK, SPAN, about, record, series, state, tie
from sinks.sql.statements import Cursor, Lookup, Statement, chunks
from sinks.sql.words import KeyOrder

RECORDS_A_STEP: Final = 2000
_ROWS_A_STEP: Final = 1000
_PAUSE: Final = 5.0
"""How long the writers have the store to themselves after a step, in times of what the step took."""
_LEAST_PAUSE: Final = 0.005
_LAST_NUMBER: Final = 2**31 - 1

_key = (record.c.span, record.c.resource, record.c.place, record.c.tie)
_from_begin = KeyOrder(_key, [sa.bindparam(f"begin_{c.name}", type_=c.type) for c in _key], after=True)
_to_end = KeyOrder(_key, [sa.bindparam(f"end_{c.name}", type_=c.type) for c in _key], after=False)
_due = sa.or_(record.c.span < sa.bindparam("last"), record.c.place < sa.bindparam("rest"))
# The bounds of the span alone say nothing new, but every planner understands them.
_in_step = sa.and_(
    record.c.span >= sa.bindparam("begin_span"),
    record.c.span <= sa.bindparam("end_span"),
    _from_begin,
    _to_end,
    _due,
)


_oldest = Statement(sa.select(sa.func.min(record.c.span)).where(record.c.span >= sa.bindparam("base")))
_step_end = Statement(
    sa.select(*_key)
    .where(record.c.span >= sa.bindparam("begin_span"), _from_begin, record.c.span <= sa.bindparam("last"))
    .order_by(*_key)
    .limit(1)
    .offset(RECORDS_A_STEP)
)
_count = Statement(sa.select(samples_of(record)).where(_in_step))
_delete = Statement(sa.delete(record).where(_in_step))
_ties_due = Statement(
    sa.select(tie.c.tie)
    .where(
        tie.c.span >= sa.bindparam("base"),
        tie.c.span <= sa.bindparam("last"),
        sa.or_(tie.c.span < sa.bindparam("last"), tie.c.place < sa.bindparam("rest")),
    )
    .limit(RECORDS_A_STEP)
)
_ties_removed = Statement(sa.delete(tie).where(tie.c.tie == sa.bindparam("of")))
_last_spans = Lookup(sa.select(state.c.resource, state.c.last), state.c.resource)
_swept = Statement(sa.update(about).where(about.c.key == "swept").values(value=about.c.value + 1))


def _sweep(table: sa.Table, idle: sa.ColumnElement[bool]) -> tuple[Statement, Statement]:
    """(the last id of a step, the delete) for rows of a table that nothing needs."""
    after, last = table.c.id > sa.bindparam("after"), table.c.id <= sa.bindparam("last")
    ids = sa.select(table.c.id).where(after).order_by(table.c.id).limit(_ROWS_A_STEP).subquery()
    return Statement(sa.select(sa.func.max(ids.c.id))), Statement(sa.delete(table).where(after, last, idle))


def _unused(table: sa.Table, by: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return ~sa.exists().where(by == table.c.id).correlate(table)


# A span in the blocks of all classes.
_span_in_blocks = [sa.bindparam(f"span_{n}", type_=sa.BigInteger) for n in range(MAX_NAMES + 1)]
_old_states = _sweep(
    state,
    sa.or_(
        state.c.last < sa.bindparam("span"),
        sa.and_(
            state.c.last == sa.bindparam("span"),
            ~sa.exists()
            .where(record.c.span.in_(_span_in_blocks), record.c.resource == state.c.resource)
            .correlate(state),
        ),
    ),
)
_states_without_series = _sweep(state, ~sa.exists().where(series.c.resource == state.c.resource).correlate(state))
_SWEEPS: Final = tuple(
    (table.name, _sweep(table, sa.and_(*(_unused(table, column) for column in by))))
    for table, by in (
        (schema.resource, (state.c.resource,)),
        (schema.word, (state.c.user, state.c.project)),
        (schema.metadata, (state.c.metadata,)),
    )
)
_resource_window = Statement(
    sa.select(schema.resource.c.id)
    .where(schema.resource.c.id > sa.bindparam("after"))
    .order_by(schema.resource.c.id)
    .limit(_ROWS_A_STEP)
)
_of_window = Statement(
    sa.select(series.c.resource, series.c.kind, series.c.era).where(
        series.c.resource > sa.bindparam("after"),
        series.c.resource <= sa.bindparam("end"),
        series.c.era <= sa.bindparam("era"),
    )
)
_series_removed = Statement(
    sa.delete(series).where(
        series.c.resource == sa.bindparam("of"),
        series.c.kind == sa.bindparam("which"),
        series.c.era == sa.bindparam("seen"),
    )
)


def expire(
    backend: Backend, connection: Any, lifetimes: Lifetimes, now: int, progress: Callable[[Expiry], None] | None = None
) -> Expiry:
    """Remove what is older than it may live. The connection must be nobody else's."""
    cursor = backend.cursor(connection)
    turns = _Turns(backend, connection, cursor)
    known = plan(cursor)
    told = _Told(progress)
    due = [lifetimes.before(known.name(n), now) for n in range(len(known.names) + 1)]
    for number, before in enumerate(due):
        _expire_samples(turns, block(number), before, told.part(number, len(due) + 1))
    for count in expire_events(cursor, lifetimes.events_before(now), lambda: turns(sweeping=True)):
        told.add(events=count)
    if max(due) >= 0:
        told.add(resources=_forget(turns, known, due))
    told.end()
    return told.done


class _Told:
    """How far it is, and who wants to know."""

    def __init__(self, progress: Callable[[Expiry], None] | None) -> None:
        self.done = Expiry()
        self._progress = progress
        self._begin, self._width = 0.0, 1.0

    def part(self, number: int, of: int) -> _Told:
        """From now on, shares are those of one part of several."""
        self._begin, self._width = number / of, 1 / of
        return self

    def add(self, samples: int = 0, events: int = 0, resources: int = 0, share: float = 1.0) -> None:
        """Something more is gone."""
        so_far = max(self.done.share, self._begin + self._width * share)
        done = self.done
        self.done = Expiry(done.samples + samples, done.resources + resources, done.events + events, so_far)
        if self._progress:
            self._progress(self.done)

    def end(self) -> None:
        """That was all."""
        self._begin, self._width = 0.0, 1.0
        self.add()


def _expire_samples(turns: _Turns, base: int, before: int, told: _Told) -> None:
    """The samples of one class, whose spans begin at `base`."""
    if before < 0:
        return
    last, rest = base + min(before // SPAN, IN_BLOCK), before % SPAN
    cursor = turns.cursor
    oldest = _oldest.first(cursor, base=base)
    if oldest is not None and oldest <= last:
        turns.backend.drop_due(base, last, lambda count: told.add(count, share=0.5))
        _expire_ties(turns, base, last, rest)
    if oldest is None or oldest > last:
        return
    key: tuple[Any, ...] | None = (base, 0, 0, b"")
    while key is not None:
        with turns():
            key, samples = _remove(cursor, key, last, rest)
        told.add(samples, share=1.0 if key is None else (key[0] - oldest) / max(1, last - oldest))


def _remove(cursor: Cursor, key: tuple[Any, ...], last: int, rest: int) -> tuple[tuple[Any, ...] | None, int]:
    """A step from a key on: (the key where the next one begins, samples removed)."""
    names = [c.name for c in _key]
    at = {f"begin_{n}": v for n, v in zip(names, key, strict=True)}
    end = _step_end.run(cursor, **at, last=last).fetchone()
    bounds = at | {f"end_{n}": v for n, v in zip(names, end or (last + 1, 0, 0, b""), strict=True)}
    samples = _count.value(cursor, **bounds, last=last, rest=rest)
    if samples:
        _delete.run(cursor, **bounds, last=last, rest=rest)
    return end, samples


def _forget(turns: _Turns, known: Plan, due: Sequence[int]) -> int:
    """Remove series, states, resources, users, projects and metadata without samples; returns the number of resources."""
    _forget_series(turns, due)
    removed = 0
    if min(due) >= 0:
        removed = _in_steps(turns, _old_states, **_spans_of(min(due) // SPAN, known))
    if len(due) > 1:
        # What was said of a resource can live as long as its longest class; with its last series it goes in any case.
        removed += _in_steps(turns, _states_without_series)
    gone = 0
    if removed:
        for name, statements in _SWEEPS:
            count = _in_steps(turns, statements)
            gone = count if name == "resource" else gone
    return gone


def _spans_of(span: int, known: Plan) -> dict[str, int]:
    some = [base + span for base in blocks(known)]
    some += [some[0]] * (len(_span_in_blocks) - len(some))
    return {"span": span, **{f"span_{n}": s for n, s in enumerate(some)}}


def _forget_series(turns: _Turns, due: Sequence[int]) -> None:
    cursor = turns.cursor
    catalogue = Catalogue(cursor)
    bounds: dict[int, tuple[int, int]] = {}
    for number in catalogue.kinds:
        some = [due[n] for n in catalogue.classes_of(number)]
        bounds[number] = min(some) // SPAN // ERA, max(some) // SPAN // ERA
    newest = max(high for _, high in bounds.values()) if bounds else -1
    still = Compare("timestamp", ">=", max(0, min(due)))
    after, end = 0, 0
    while end < _LAST_NUMBER and newest >= 0:
        window = [number for (number,) in _resource_window.run(cursor, after=after)]
        # Beyond the last resource there may be series of resources that are gone.
        end = window[-1] if len(window) == _ROWS_A_STEP else _LAST_NUMBER
        old = _of_window.run(cursor, after=after, end=end, era=newest).fetchall()
        dead = {(r, k, e) for r, k, e in old if k in bounds and e < bounds[k][0]}
        doubtful = {(r, k, e) for r, k, e in old if k in bounds and bounds[k][0] <= e <= bounds[k][1]}
        # Reading takes its time: looked at first without keeping the writers waiting, and again what seems to be gone.
        gone = _without_samples(cursor, doubtful, still)
        if dead or gone:
            with turns(sweeping=True):
                gone = _without_samples(cursor, gone, still) | dead
                for of, which, seen in sorted(gone):
                    _series_removed.run(cursor, of=of, which=which, seen=seen)
                _swept.run(cursor)
        after = end


def _without_samples(cursor: Cursor, rows: set[tuple[int, int, int]], tree: Filter) -> set[tuple[int, int, int]]:
    """Those (resource, kind, era) of which no sample passes the filter."""
    if not rows:
        return set()
    newest = max(era for _, _, era in rows)
    tree = filters.both(tree, Compare("timestamp", "<", (newest + 1) * ERA * SPAN))
    catalogue = Catalogue(cursor)
    wanted: dict[int, set[int]] = defaultdict(set)
    for resource, kind, _ in rows:
        wanted[resource].add(resource << 32 | kind)
    out: set[int] = set()
    for some in chunks(sorted(wanted), 64):
        missing = set().union(*(wanted[resource] for resource in some))
        scan = Scan.of_resources(cursor, catalogue, some, tree)
        last = max((span for _, span in _last_spans.run(cursor, some)), default=IN_BLOCK)
        spans = [span for span in scan.spans() if span <= last]
        # One sample is enough, and what lives has a new one.
        size = 1
        while spans and missing:
            spans, newer = spans[:-size], spans[-size:]
            for found in scan.found(newer):
                missing.difference_update(np.unique(found.resource << 32 | found.fields.kind).tolist())
            size = min(2 * size, 64)
        out |= missing
    return {row for row in rows if row[0] << 32 | row[1] in out}


def _expire_ties(turns: _Turns, base: int, last: int, rest: int) -> None:
    """Where ties are kept apart from their records."""
    if turns.cursor.dialect == "sqlite":
        return
    due = {"base": base, "last": last, "rest": rest}
    while some := [t for (t,) in _ties_due.run(turns.cursor, **due).fetchall()]:
        with turns():
            _ties_removed.run_many(turns.cursor, [{"of": t} for t in some])


def _in_steps(turns: _Turns, statements: tuple[Statement, Statement], **values: int) -> int:
    step_end, delete = statements
    cursor = turns.cursor
    removed = after = 0
    while (last := step_end.first(cursor, after=after)) is not None:
        with turns(sweeping=True):
            count = delete.run(cursor, after=after, last=last, **values).rowcount
            if count:
                # Whoever remembers these numbers must forget them.
                _swept.run(cursor)
        removed += count
        after = last
    return removed


class _Turns:
    """Transactions, and after each a pause in which the others have theirs."""

    def __init__(self, backend: Backend, connection: Any, cursor: Cursor) -> None:
        self.backend, self.connection, self.cursor = backend, connection, cursor

    @contextmanager
    def __call__(self, *, sweeping: bool = False) -> Iterator[None]:
        """One transaction; `sweeping`: it removes numbers."""
        (self.backend.sweeping if sweeping else self.backend.removing)(self.cursor)
        begin = time.monotonic()
        try:
            yield
            self.backend.end(self.connection, self.cursor)
        except BaseException:
            self.backend.undo(self.connection, self.cursor)
            raise
        time.sleep(max(_LEAST_PAUSE, _PAUSE * (time.monotonic() - begin)))
