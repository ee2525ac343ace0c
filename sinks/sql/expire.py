"""Expiry: the oldest records go, in steps short enough for writers to get their turn, then what has none left."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import sqlalchemy as sa

from nephoscope import filters
from nephoscope.filters import Compare, Filter
from nephoscope.store import Expiry
from sinks.sql import schema
from sinks.sql.catalogue import Catalogue
from sinks.sql.fields import BASE, SIZES
from sinks.sql.scan import Scan
from sinks.sql.schema import ERA, SPAN, about, record, series, state
from sinks.sql.statements import Cursor, Statement, chunks

RECORDS_A_STEP: Final = 2000
_ROWS_A_STEP: Final = 1000
_PAUSE: Final = 3.0
"""How long the writers have the store to themselves after a step, in times of what the step took."""
_LEAST_PAUSE: Final = 0.005

_key = (record.c.span, record.c.resource, record.c.place, record.c.tie)
_begin = sa.tuple_(*(sa.bindparam(f"begin_{c.name}", type_=c.type) for c in _key))
_end = sa.tuple_(*(sa.bindparam(f"end_{c.name}", type_=c.type) for c in _key))
_due = sa.or_(record.c.span < sa.bindparam("last"), record.c.place < sa.bindparam("rest"))
_in_step = sa.and_(sa.tuple_(*_key) >= _begin, sa.tuple_(*_key) < _end, _due)


def _samples() -> sa.ColumnElement[int]:
    """How many samples there are in some records, by the size of their fields."""
    size: Any = sa.literal_column(str(BASE))
    for bit, more in SIZES:
        size += sa.case((record.c.form.op("&")(bit) != 0, more), else_=0)
    return sa.func.coalesce(sa.func.sum(sa.func.length(record.c.fields) / size), 0)


_oldest = Statement(sa.select(sa.func.min(record.c.span)))
_step_end = Statement(
    sa.select(*_key)
    .where(sa.tuple_(*_key) >= _begin, record.c.span <= sa.bindparam("last"))
    .order_by(*_key)
    .limit(1)
    .offset(RECORDS_A_STEP)
)
_count = Statement(sa.select(_samples()).where(_in_step))
_delete = Statement(sa.delete(record).where(_in_step))
_swept = Statement(sa.update(about).where(about.c.key == "swept").values(value=about.c.value + 1))


def _sweep(table: sa.Table, idle: sa.ColumnElement[bool]) -> tuple[Statement, Statement]:
    """(the last id of a step, the delete) for rows of a table that nothing needs."""
    after, last = table.c.id > sa.bindparam("after"), table.c.id <= sa.bindparam("last")
    ids = sa.select(table.c.id).where(after).order_by(table.c.id).limit(_ROWS_A_STEP).subquery()
    return Statement(sa.select(sa.func.max(ids.c.id))), Statement(sa.delete(table).where(after, last, idle))


def _unused(table: sa.Table, by: sa.ColumnElement[Any]) -> sa.ColumnElement[bool]:
    return ~sa.exists().where(by == table.c.id).correlate(table)


_old_states = _sweep(
    state,
    sa.or_(
        state.c.last < sa.bindparam("span"),
        sa.and_(
            state.c.last == sa.bindparam("span"),
            ~sa.exists()
            .where(record.c.span == sa.bindparam("span"), record.c.resource == state.c.resource)
            .correlate(state),
        ),
    ),
)
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
_in_window = sa.and_(series.c.resource > sa.bindparam("after"), series.c.resource <= sa.bindparam("end"))
_series_dead = Statement(sa.delete(series).where(_in_window, series.c.era < sa.bindparam("era")))
_series_doubtful = Statement(
    sa.select(series.c.resource, series.c.kind).where(_in_window, series.c.era == sa.bindparam("era"))
)
_series_removed = Statement(
    sa.delete(series).where(series.c.resource == sa.bindparam("of"), series.c.kind == sa.bindparam("which"))
)


def expire(connection: sqlite3.Connection, before: int, progress: Callable[[Expiry], None] | None = None) -> Expiry:
    """Remove what is older than `before`. The connection must be nobody else's."""
    cursor = connection.cursor()
    last, rest = before // SPAN, before % SPAN
    oldest = _oldest.first(cursor)
    begin = before if oldest is None else min(before, oldest * SPAN)
    done = Expiry(begin=begin, reached=begin, before=before)
    key: tuple[Any, ...] | None = (-(2**62), 0, 0, b"") if oldest is not None and oldest <= last else None
    while key is not None:
        with _turn(connection, cursor):
            key, samples = _remove(cursor, key, last, rest)
        reached = before if key is None else max(begin, min(before, key[0] * SPAN))
        done = Expiry(done.samples + samples, 0, begin, reached, before)
        if progress:
            progress(done)
    gone = _forget(connection, cursor, before)
    done = Expiry(done.samples, gone, begin, before, before)
    if progress:
        progress(done)
    return done


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


def _forget(connection: sqlite3.Connection, cursor: Cursor, before: int) -> int:
    """Remove states, resources, users, projects, metadata and series without samples; returns the number of resources."""
    removed = {"state": _in_steps(connection, cursor, _old_states, span=before // SPAN)}
    if removed["state"]:
        for name, statements in _SWEEPS:
            removed[name] = _in_steps(connection, cursor, statements)
    _forget_series(connection, cursor, before)
    return removed.get("resource", 0)


def _forget_series(connection: sqlite3.Connection, cursor: Cursor, before: int) -> None:
    after, end = 0, 0
    era = before // SPAN // ERA
    last_of_era = ((era + 1) * ERA) * SPAN - 1
    still = filters.And((Compare("timestamp", ">=", before), Compare("timestamp", "<=", last_of_era)))
    while end < 2**62:
        window = [number for (number,) in _resource_window.run(cursor, after=after)]
        # Beyond the last resource there may be series of resources that are gone.
        end = window[-1] if len(window) == _ROWS_A_STEP else 2**62
        doubtful = set(_series_doubtful.run(cursor, after=after, end=end, era=era).fetchall())
        # Reading takes its time: looked at first without keeping the writers waiting, and again what seems to be gone.
        gone = _without_samples(cursor, doubtful, still)
        with _turn(connection, cursor):
            removed = _series_dead.run(cursor, after=after, end=end, era=era).rowcount
            gone = _without_samples(cursor, gone, still)
            _series_removed.run_many(cursor, [{"of": of, "which": which} for of, which in sorted(gone)])
            if removed + len(gone):
                _swept.run(cursor)
        after = end


def _without_samples(cursor: Cursor, pairs: set[tuple[int, int]], tree: Filter) -> set[tuple[int, int]]:
    """Those (resource, kind) of which no sample passes the filter."""
    gone = set(pairs)
    for some in chunks(sorted({resource for resource, _ in pairs}), 64):
        for found in Scan.of_resources(cursor, Catalogue(cursor), some, tree).all():
            there = np.unique(found.resource << 32 | found.fields.kind).tolist()
            gone.difference_update((pair >> 32, pair & 0xFFFFFFFF) for pair in there)
    return gone


def _in_steps(
    connection: sqlite3.Connection, cursor: Cursor, statements: tuple[Statement, Statement], **values: int
) -> int:
    step_end, delete = statements
    removed = after = 0
    while (last := step_end.first(cursor, after=after)) is not None:
        with _turn(connection, cursor):
            count = delete.run(cursor, after=after, last=last, **values).rowcount
            if count:
                # Whoever remembers these numbers must forget them.
                _swept.run(cursor)
        removed += count
        after = last
    return removed


@contextmanager
def _turn(connection: sqlite3.Connection, cursor: Cursor) -> Iterator[None]:
    """A transaction, and then a pause in which the others have theirs."""
    cursor.execute("BEGIN IMMEDIATE")
    begin = time.monotonic()
    try:
        yield
        cursor.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            cursor.execute("ROLLBACK")
        raise
    time.sleep(max(_LEAST_PAUSE, _PAUSE * (time.monotonic() - begin)))
