"""Writing: batches to records, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from nephoscope import natural
from nephoscope.batch import int_column
from nephoscope.store import Written
from sinks.sql import fields, schema
from sinks.sql.fields import Columns
from sinks.sql.numbers import Numbers
from sinks.sql.schema import SPAN, record
from sinks.sql.statements import Cursor, Statement

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
_insert_tied = Statement(insert(record).on_conflict_do_nothing())
_merged = Statement(
    sa.update(record)
    .where(*(c == sa.bindparam(f"at_{c.name}") for c in _KEY))
    .values(state=sa.bindparam("new_state"), form=sa.bindparam("new_form"), fields=sa.bindparam("new_fields"))
)
_series_added = Statement(insert(schema.series).on_conflict_do_nothing())
_swept = Statement(sa.select(schema.about.c.value).where(schema.about.c.key == "swept"))

_INSERT_ORDER: Final = ("span", "resource", "place", "tie", "state", "form", "fields")


@dataclass(slots=True)
class _Rows:
    """Rows under their numbers. `time` is the timestamp; `identity` says which fields of a record are the same."""

    resource: I64
    time: I64
    identity: I64
    fields: Columns
    id: npt.NDArray[np.uint8]
    natural: npt.NDArray[np.bool_]

    def take(self, at: Any) -> _Rows:
        return _Rows(
            self.resource[at], self.time[at], self.identity[at], self.fields.take(at), self.id[at], self.natural[at]
        )


class Writer:
    """Turns batches into records over one connection. Not safe for several threads: SQLStore sees to that."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._cursor = connection.cursor()
        self._numbers = Numbers()
        self._met: list[tuple[int, int, int, bytes]] = []
        connection.create_function(MET, 4, self._remember)

    def write(self, batches: Sequence[pa.RecordBatch]) -> Written:
        """All rows of the batches, or none of them."""
        cursor = self._cursor
        cursor.execute("BEGIN IMMEDIATE")
        try:
            self._numbers.begin(_swept.value(cursor))
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

    def _remember(self, row: int, state: int, form: int, raw: bytes) -> bool:
        self._met.append((row, state, form, raw))
        return False

    def _numbered(self, cursor: Cursor, batch: pa.RecordBatch) -> _Rows:
        time = int_column(batch, "timestamp")
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
        return _Rows(resource, time, identity, columns, own, natural.same(computed, own))

    def _store(self, cursor: Cursor, rows: _Rows) -> int:
        if rows.natural.all():
            return self._store_natural(cursor, rows)
        stored = self._store_tied(cursor, rows.take(~rows.natural))
        if rows.natural.any():
            stored += self._store_natural(cursor, rows.take(rows.natural))
        return stored

    def _store_tied(self, cursor: Cursor, rows: _Rows) -> int:
        """Rows that are known by their ids alone: a record each."""
        _, first = np.unique(rows.id.view("V16").ravel(), return_index=True)
        rows = rows.take(np.sort(first))
        n = len(rows.time)
        forms, state, raw = fields.pack(rows.fields, np.arange(n), rows.time)
        span = rows.time // SPAN
        ties = rows.id.tobytes()
        before = self._connection.total_changes
        cursor.executemany(
            _insert_tied.sql,
            zip(
                span.tolist(),
                rows.resource.tolist(),
                (rows.time - span * SPAN).tolist(),
                [ties[i : i + 16] for i in range(0, 16 * n, 16)],
                state.tolist(),
                forms.tolist(),
                raw,
                strict=True,
            ),
        )
        stored = self._connection.total_changes - before
        self._store_series(cursor, rows)
        return stored

    def _store_natural(self, cursor: Cursor, rows: _Rows) -> int:
        """Rows whose ids follow from their keys: a record a resource and time."""
        rows, starts = _grouped(rows)
        forms, state, raw = fields.pack(rows.fields, starts, rows.time)
        time, resource = rows.time[starts], rows.resource[starts]
        span = time // SPAN
        place = time - span * SPAN
        n = len(starts)
        self._met.clear()
        cursor.executemany(
            _insert_natural.sql,
            zip(
                span.tolist(),
                resource.tolist(),
                place.tolist(),
                [b""] * n,
                state.tolist(),
                forms.tolist(),
                raw,
                range(n),
                strict=True,
            ),
        )
        doubles = 0
        met = self._met
        if met:
            lengths = np.diff(starts, append=len(rows.time))
            same = [m for m in met if m[3] == raw[m[0]] and m[2] == forms[m[0]] and m[1] == state[m[0]]]
            doubles = int(lengths[[m[0] for m in same]].sum())
            if len(same) < len(met):
                equal = {m[0] for m in same}
                doubles += self._merge(cursor, rows, starts, [m for m in met if m[0] not in equal])
        self._store_series(cursor, rows)
        return len(rows.time) - doubles

    def _merge(self, cursor: Cursor, rows: _Rows, starts: I64, met: list[tuple[int, int, int, bytes]]) -> int:
        """Add to records what they do not have yet; what is there stays. Returns the number of fields that were there."""
        number = np.array([m[0] for m in met], np.int64)
        begin = starts[number]
        old, of = fields.unpack([m[2] for m in met], [m[3] for m in met], [m[1] for m in met], rows.time[begin])
        lengths = np.diff(starts, append=len(rows.time))[number]
        position = np.repeat(np.arange(len(met)), lengths)
        at = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths) + np.repeat(begin, lengths)
        identity = np.concatenate([self._numbers.identities_of(cursor, old.kind), rows.identity[at]])
        record_of = np.concatenate([of, position])
        # Stable: of two fields with one identity, the old one comes first and stays.
        order = np.lexsort((identity, record_of))
        kept = order[_changes(identity[order], record_of[order])]
        all_fields = fields.joined([old, rows.fields.take(at)]).take(kept)
        record_of = record_of[kept]
        added = np.bincount(record_of[kept >= len(of)], minlength=len(met))
        first = np.flatnonzero(_changes(record_of))
        forms, state, raw = fields.pack(all_fields, first, rows.time[begin][record_of])
        time, resource = rows.time[begin], rows.resource[begin]
        span = time // SPAN
        changed = np.flatnonzero(added).tolist()
        _merged.run_many(
            cursor,
            [
                {
                    "at_span": int(span[i]),
                    "at_resource": int(resource[i]),
                    "at_place": int(time[i] - span[i] * SPAN),
                    "at_tie": b"",
                    "new_state": int(state[i]),
                    "new_form": int(forms[i]),
                    "new_fields": raw[i],
                }
                for i in changed
            ],
        )
        return int(lengths.sum() - added.sum())

    def _store_series(self, cursor: Cursor, rows: _Rows) -> None:
        fresh = self._numbers.new_series(rows.resource, rows.fields.kind)
        if fresh:
            cursor.executemany(_series_added.sql, fresh)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    return _Rows(
        np.concatenate([p.resource for p in parts]),
        np.concatenate([p.time for p in parts]),
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
    if (time == time[0]).all() and resource.max() < 2**31 and identity.max() < 2**31:
        order = np.argsort(resource << 31 | identity, kind="stable")
    else:
        order = np.lexsort((identity, time, resource, time // SPAN))
    rows = rows.take(order)
    fresh = _changes(rows.resource, rows.time, rows.identity)
    if not fresh.all():
        rows = rows.take(fresh)
    return rows, np.flatnonzero(_changes(rows.resource, rows.time))


assert _insert_natural.names[:7] == _INSERT_ORDER
assert _insert_tied.names == _INSERT_ORDER
