"""Writing: batches to records, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from nephoscope import natural
from nephoscope.batch import int_column
from nephoscope.errors import StoreError
from nephoscope.event import Event
from nephoscope.lifetimes import Plan
from nephoscope.store import Written
from nephoscope.times import TOO_LATE
from sinks.columns import Fields, changes, joined
from sinks.sql import events, fields, schema
from sinks.sql.backend import Backend, Met, Records
from sinks.sql.bulk import Insert
from sinks.sql.numbers import Numbers
from sinks.sql.plan import plan
from sinks.sql.schema import BLOCK_BITS, SPAN
from sinks.sql.statements import Cursor, Statement

I64 = npt.NDArray[np.int64]

_series_seen = Insert(schema.series, newer="era")
_resource_unused = Statement(sa.delete(schema.resource).where(schema.resource.c.id == sa.bindparam("unused")))
_state_unused = Statement(sa.delete(schema.state).where(schema.state.c.id == sa.bindparam("unused")))
_swept = Statement(sa.select(schema.about.c.value).where(schema.about.c.key == "swept"))

_TRIES: Final = 5
_NAMES: Final = ("name", "type", "unit", "source", "resource_id", "user_id", "project_id")


@dataclass(slots=True)
class _Rows:
    """Rows under their numbers. `time` is the timestamp, `span` the record's; `identity` says which fields of a record are the same."""

    resource: I64
    time: I64
    span: I64
    identity: I64
    fields: Fields
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

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._connection = backend.connect()
        backend.remember(self._connection)
        self._cursor = backend.cursor(self._connection)
        self._numbers = Numbers(backend)
        self._plan = Plan()

    def close(self) -> None:
        """Give back the connection."""
        with suppress(Exception):
            self._connection.close()

    def write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        """All rows of the batches, or none of them."""
        return self._transaction(lambda: self._write(batches))

    def write_events(self, some: Sequence[Event]) -> Written:
        """All of the events, or none."""
        return self._transaction(lambda: events.write(self._cursor, some, self._backend))

    def _transaction(self, work: Callable[[], Written]) -> Written:
        cursor = self._cursor
        for attempt in range(_TRIES):
            try:
                self._backend.begin(cursor)
                written = work()
                self._backend.end(self._connection, cursor)
            except BaseException as error:
                self._numbers.forget()
                self._backend.undo(self._connection, cursor)
                if isinstance(error, Exception) and self._backend.transient(error) and attempt < _TRIES - 1:
                    continue
                raise
            return written
        raise AssertionError

    def _write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        cursor = self._cursor
        self._numbers.begin(cursor, _swept.value(cursor))
        self._plan = plan(cursor)
        rows = _joined([self._numbered(cursor, batch) for batch in batches])
        self._backend.ready(rows.span)
        stored = self._store(cursor, rows)
        received = len(rows.time)
        return Written(received, stored, received - stored)

    def _numbered(self, cursor: Cursor, batch: pa.RecordBatch) -> _Rows:
        time = int_column(batch, "timestamp")
        if time.min() < 0 or time.max() >= TOO_LATE:
            raise StoreError("a timestamp must lie between 1970 and 2200")
        if self._backend.names_limited:
            _check_names(batch)
        which, kinds, kind = self._numbers.kinds_of(cursor, batch)
        resource = self._numbers.resources_of(cursor, batch)
        computed = natural.ids(kinds, which, *natural.row_keys(batch), time)
        own = natural.stored_ids(batch)
        columns = Fields(
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
            # The newest era of each, in the order of the keys: eras come in theirs.
            newest = {(resource, kind): era for resource, kind, era in fresh}
            _series_seen.run(cursor, [(*key, newest[key]) for key in sorted(newest)])
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
        rows = rows.take(np.sort(first))
        ties = [raw.tobytes() for raw in rows.id]
        forms, state, raw = fields.pack(rows.fields, np.arange(len(ties)), rows.time)
        fresh = self._backend.insert_tied(cursor, _records(rows, ties, state, forms, raw))
        return rows if len(fresh) == len(ties) else rows.take(np.array(fresh, np.int64))

    def _store_natural(self, cursor: Cursor, rows: _Rows) -> _Rows:
        """Rows whose ids follow from their keys: a record a resource and time. Returns those that were not there."""
        rows, starts = _grouped(rows)
        forms, state, raw = fields.pack(rows.fields, starts, rows.time)
        n = len(starts)
        records = _records(rows.take(starts), [b""] * n, state, forms, raw)
        met = self._backend.insert_natural(cursor, records)
        if not met:
            return rows
        number = np.array([m[0] for m in met], np.int64)
        absent = np.ones(len(rows.time), bool)
        absent[_ranges(starts, len(rows.time), number)] = False
        other = [m for m in met if m[1:] != (state[m[0]], forms[m[0]], raw[m[0]])]
        if other:
            other = self._backend.locked(cursor, records, other)
            absent[self._merge(cursor, rows, starts, other)] = True
        return rows.take(absent)

    def _merge(self, cursor: Cursor, rows: _Rows, starts: I64, met: list[Met]) -> I64:
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
        kept = order[changes(identity[order], record_of[order])]
        record_of = record_of[kept]
        first = np.flatnonzero(changes(record_of))
        together = joined([old, rows.fields.take(at)]).take(kept)
        forms, state, raw = fields.pack(together, first, time[record_of])
        added = kept >= len(of)
        changed = np.unique(record_of[added]).tolist()
        records = _records(heads, [b""] * len(met), state, forms, raw)
        self._backend.update(cursor, records.take(changed))
        return at[kept[added] - len(of)]


def _records(heads: _Rows, ties: list[bytes], state: I64, forms: I64, raw: list[bytes]) -> Records:
    """Records to write. `heads`: a row of each."""
    return Records(heads.span, heads.resource, heads.time % SPAN, ties, state, forms, raw)


def _check_names(batch: pa.RecordBatch) -> None:
    for column in _NAMES:
        dictionary = batch.column(column).dictionary
        if dictionary.nbytes <= schema.MAX_NAME or pc.max(pc.binary_length(dictionary)).as_py() <= schema.MAX_NAME:
            continue
        _, used = natural.distinct(natural.codes(batch, column).astype(np.int64))
        for word in natural.words(batch, column, used):
            if len(word) * 4 > schema.MAX_NAME and len(word.encode()) > schema.MAX_NAME:
                raise StoreError(f"{column} is longer than {schema.MAX_NAME} bytes: {word[:40]!r}…")


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
        joined([p.fields for p in parts]),
        np.concatenate([p.id for p in parts]),
        np.concatenate([p.natural for p in parts]),
    )


def _grouped(rows: _Rows) -> tuple[_Rows, I64]:
    """The rows in the order of the records' keys, the first of each id only; and where each record starts."""
    time, resource, identity = rows.time, rows.resource, rows.identity
    span = rows.span
    if (time == time[0]).all() and (span == span[0]).all() and resource.max() < 2**31 and identity.max() < 2**31:
        order = np.argsort(resource << 31 | identity, kind="stable")
    else:
        order = np.lexsort((identity, time, resource, span))
    rows = rows.take(order)
    fresh = changes(rows.span, rows.resource, rows.time, rows.identity)
    if not fresh.all():
        rows = rows.take(fresh)
    return rows, np.flatnonzero(changes(rows.span, rows.resource, rows.time))
