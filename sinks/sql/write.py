"""Writing: batches to records, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from nephoscope import natural
from nephoscope.batch import int_column
from nephoscope.errors import StoreError
from nephoscope.event import Event
from nephoscope.lifetimes import Plan
from nephoscope.store import Written
from nephoscope.times import TOO_LATE
from sinks.sql import events, fields, schema
from sinks.sql.fields import Columns
from sinks.sql.numbers import Numbers
from sinks.sql.plan import plan
from sinks.sql.schema import BLOCK_BITS, SPAN, record
from sinks.sql.statements import Cursor, Lookup, Statement

I64 = npt.NDArray[np.int64]

MET: Final = "nephoscope_met"
"""The SQL function that tells a writer which records were there before. It lets no update happen."""

_KEY: Final = (record.c.span, record.c.resource, record.c.place, record.c.tie)
_natural = insert(record)
_insert_natural = Statement(
    _natural.on_conflict_do_update(
        index_elements=_KEY,
        set_={"form": record.c.form},
        where=getattr(sa.func, MET)(sa.bindparam("row"), record.c.state, record.c.form, record.c.fields),
    )
)
_insert_tied = Statement(sa.insert(record))
_merged = Statement(
    sa.update(record)
    .where(*(c == sa.bindparam(f"at_{c.name}") for c in _KEY))
    .values(state=sa.bindparam("new_state"), form=sa.bindparam("new_form"), fields=sa.bindparam("new_fields"))
)
_series = insert(schema.series)
_series_seen = Statement(
    _series.on_conflict_do_update(
        index_elements=(schema.series.c.resource, schema.series.c.kind),
        set_={"era": _series.excluded.era},
        where=schema.series.c.era < _series.excluded.era,
    )
)
_ties = Lookup(sa.select(record.c.tie).where(record.c.tie != sa.literal_column("x''")), record.c.tie)
_resource_unused = Statement(sa.delete(schema.resource).where(schema.resource.c.id == sa.bindparam("unused")))
_state_unused = Statement(sa.delete(schema.state).where(schema.state.c.id == sa.bindparam("unused")))
_swept = Statement(sa.select(schema.about.c.value).where(schema.about.c.key == "swept"))

_INSERT_ORDER: Final = ("span", "resource", "place", "tie", "state", "form", "fields")


@dataclass(slots=True)
class _Rows:
    """Rows under their numbers. `time` is the timestamp, `span` the record's; `identity` says which fields of a record are the same."""

    resource: I64
    time: I64
    span: I64
    identity: I64
    fields: Columns
    id: npt.NDArray[np.uint8]
    natural: npt.NDArray[np.bool_]

    def take(self, at: Any) -> _Rows:
        return _Rows(
            self.resource[at],
            self.time[at],
            self.span[at],
            self.identity[at],
            self.fields.take(at),
            self.id[at],
            self.natural[at],
        )


class Writer:
    """Turns batches into records over one connection. Not safe for several threads: SQLStore sees to that."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._numbers = Numbers()
        self._met: list[tuple[int, int, int, bytes]] = []
        self._plan = Plan()
        connection.create_function(MET, 4, self._remember)

    def write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        """All rows of the batches, or none of them."""
        cursor = self._cursor
        cursor.execute("BEGIN IMMEDIATE")
        try:
            self._numbers.begin(cursor, _swept.value(cursor))
            self._plan = plan(cursor)
            rows = _joined([self._numbered(cursor, batch) for batch in batches])
            stored = self._store(cursor, rows)
            cursor.execute("COMMIT")
        except BaseException:
            self._numbers.forget()
            if self._connection.in_transaction:
                cursor.execute("ROLLBACK")
            raise
        received = len(rows.time)
        return Written(received, stored, received - stored)

    def write_events(self, some: Sequence[Event]) -> Written:
        """All of the events, or none."""
        self._cursor.execute("BEGIN IMMEDIATE")
        try:
            written = events.write(self._cursor, some)
            self._cursor.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._cursor.execute("ROLLBACK")
            raise
        return written

    def _remember(self, row: int, state: int, form: int, raw: bytes) -> bool:
        self._met.append((row, state, form, raw))
        return False

    def _numbered(self, cursor: Cursor, batch: pa.RecordBatch) -> _Rows:
        time = int_column(batch, "timestamp")
        if time.min() < 0 or time.max() >= TOO_LATE:
            raise StoreError("a timestamp must lie between 1970 and 2200")
        which, kinds, kind = self._numbers.kinds_of(cursor, batch)
        resource = self._numbers.resources_of(cursor, batch)
        computed = natural.ids(kinds, which, *natural.row_keys(batch), time)
        own = natural.stored_ids(batch)
        columns = Columns(
            kind[which],
            batch.column("volume").to_numpy(),
            int_column(batch, "measured_at"),
            batch.column("late").to_numpy(zero_copy_only=False),
            self._numbers.states_of(cursor, batch, resource, time // SPAN),
        )
        identity = self._numbers.identities_of(cursor, kind)[which]
        span = time // SPAN
        if self._plan.names:
            # The class is that of the first kind that gives the same ids: one id, one place.
            first = [self._numbers.names[n] for n in self._numbers.identities_of(cursor, kind).tolist()]
            span = span + (self._plan.numbers(first, which, time) << BLOCK_BITS)
        return _Rows(resource, time, span, identity, columns, own, natural.same(computed, own))

    def _store(self, cursor: Cursor, rows: _Rows) -> int:
        if rows.natural.all():
            stored = self._store_natural(cursor, rows)
        elif not rows.natural.any():
            stored = self._store_tied(cursor, rows)
        else:
            tied = self._store_tied(cursor, rows.take(~rows.natural))
            stored = _joined([tied, self._store_natural(cursor, rows.take(rows.natural))])
        if len(stored.time):
            fresh = self._numbers.new_series(stored.resource, stored.fields.kind, stored.time // SPAN)
            if fresh:
                cursor.executemany(_series_seen.sql, fresh)
        if len(stored.time) < len(rows.time):
            self._clean(cursor, rows, stored)
        return len(stored.time)

    def _clean(self, cursor: Cursor, rows: _Rows, stored: _Rows) -> None:
        """What only doubles brought is not kept."""
        resources, states = self._numbers.unused(rows.resource, stored.resource, stored.fields.state)
        if resources or states:
            _resource_unused.run_many(cursor, [{"unused": number} for number in resources])
            _state_unused.run_many(cursor, [{"unused": number} for number in states])
            self._numbers.forget()

    def _store_tied(self, cursor: Cursor, rows: _Rows) -> _Rows:
        """Rows that are known by their ids alone: a record each. Returns those that were not there."""
        _, first = np.unique(np.ascontiguousarray(rows.id).view("V16").ravel(), return_index=True)
        ties = [raw.tobytes() for raw in rows.id[np.sort(first)]]
        there = {tie for (tie,) in _ties.run(cursor, ties)}
        rows = rows.take(np.sort(first))
        if there:
            absent = [tie not in there for tie in ties]
            rows, ties = rows.take(np.array(absent)), [tie for tie in ties if tie not in there]
        if ties:
            forms, state, raw = fields.pack(rows.fields, np.arange(len(ties)), rows.time)
            cursor.executemany(_insert_tied.sql, _records(rows, ties, state, forms, raw))
        return rows

    def _store_natural(self, cursor: Cursor, rows: _Rows) -> _Rows:
        """Rows whose ids follow from their keys: a record a resource and time. Returns those that were not there."""
        rows, starts = _grouped(rows)
        forms, state, raw = fields.pack(rows.fields, starts, rows.time)
        n = len(starts)
        self._met.clear()
        records = _records(rows.take(starts), [b""] * n, state, forms, raw)
        cursor.executemany(_insert_natural.sql, ((*record, i) for i, record in enumerate(records)))
        met = self._met
        if not met:
            return rows
        number = np.array([m[0] for m in met], np.int64)
        absent = np.ones(len(rows.time), bool)
        absent[_ranges(starts, len(rows.time), number)] = False
        other = [m for m in met if m[1:] != (state[m[0]], forms[m[0]], raw[m[0]])]
        if other:
            absent[self._merge(cursor, rows, starts, other)] = True
        return rows.take(absent)

    def _merge(self, cursor: Cursor, rows: _Rows, starts: I64, met: list[tuple[int, int, int, bytes]]) -> I64:
        """Add to records what they do not have yet; what is there stays. Returns which rows were added."""
        number = np.array([m[0] for m in met], np.int64)
        begin = starts[number]
        heads = rows.take(begin)
        time = heads.time
        old, of = fields.unpack([m[2] for m in met], [m[3] for m in met], [m[1] for m in met], time)
        at = _ranges(starts, len(rows.time), number)
        position = np.searchsorted(number, np.searchsorted(starts, at, side="right") - 1)
        identity = np.concatenate([self._numbers.identities_of(cursor, old.kind), rows.identity[at]])
        record_of = np.concatenate([of, position])
        # Stable: of two fields with one identity, the old one comes first and stays.
        order = np.lexsort((identity, record_of))
        kept = order[_changes(identity[order], record_of[order])]
        record_of = record_of[kept]
        first = np.flatnonzero(_changes(record_of))
        together = fields.joined([old, rows.fields.take(at)]).take(kept)
        forms, state, raw = fields.pack(together, first, time[record_of])
        added = kept >= len(of)
        changed = np.unique(record_of[added]).tolist()
        records = list(_records(heads, [b""] * len(met), state, forms, raw))
        cursor.executemany(_merged.sql, [(*records[i][4:], *records[i][:4]) for i in changed])
        return at[kept[added] - len(of)]


def _records(heads: _Rows, ties: list[bytes], state: I64, forms: I64, raw: list[bytes]) -> Iterator[tuple[Any, ...]]:
    """The rows of the table, in the order of _INSERT_ORDER. `heads`: a row of each record."""
    return zip(
        heads.span.tolist(),
        heads.resource.tolist(),
        (heads.time % SPAN).tolist(),
        ties,
        state.tolist(),
        forms.tolist(),
        raw,
        strict=True,
    )


def _ranges(starts: I64, end: int, number: I64) -> I64:
    """The rows of some records, one after the other."""
    begin = starts[number]
    lengths = np.append(starts[1:], end)[number] - begin
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(before, lengths) + np.repeat(begin, lengths)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    return _Rows(
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
        np.concatenate([p.span for p in parts]),
        np.concatenate([p.identity for p in parts]),
        fields.joined([p.fields for p in parts]),
        np.concatenate([p.id for p in parts]),
        np.concatenate([p.natural for p in parts]),
    )


def _changes(*keys: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where a row's keys are not those of the row before."""
    out = np.ones(len(keys[0]), bool)
    out[1:] = False
    for key in keys:
        out[1:] |= key[1:] != key[:-1]
    return out


def _grouped(rows: _Rows) -> tuple[_Rows, I64]:
    """The rows in the order of the records' keys, the first of each id only; and where each record starts."""
    time, resource, identity = rows.time, rows.resource, rows.identity
    span = rows.span
    if (time == time[0]).all() and (span == span[0]).all() and resource.max() < 2**31 and identity.max() < 2**31:
        order = np.argsort(resource << 31 | identity, kind="stable")
    else:
        order = np.lexsort((identity, time, resource, span))
    rows = rows.take(order)
    fresh = _changes(rows.span, rows.resource, rows.time, rows.identity)
    if not fresh.all():
        rows = rows.take(fresh)
    return rows, np.flatnonzero(_changes(rows.span, rows.resource, rows.time))


# Rows go to the driver as tuples, in this order.
assert _insert_natural.names[:7] == _INSERT_ORDER
assert _insert_tied.names == _INSERT_ORDER
assert _merged.names == ("new_state", "new_form", "new_fields", "at_span", "at_resource", "at_place", "at_tie")
