"""What databases with a server share: records that were there are found by asking, in the same transaction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from sinks.sql.backend import Backend, Met, Records
from sinks.sql.bulk import Insert
from sinks.sql.schema import record, tie
from sinks.sql.statements import Cursor, Lookup, Statement, chunks, padded
from sinks.sql.words import DB2

KEY = (record.c.span, record.c.resource, record.c.place)
RECORDS = Insert(record, ignore=True)
PLAIN_RECORDS = Insert(record)
_SAVEPOINT = "SAVEPOINT records"
_BACK = "ROLLBACK TO SAVEPOINT records"
_SPANS, _RESOURCES = 8, 64


def _natural_ones(no_tie: str) -> sa.Select[Any]:
    """The records that are known by their keys, of some spans and resources."""
    return sa.select(*KEY, record.c.state, record.c.form, record.c.fields).where(
        record.c.span.in_([sa.bindparam(f"span_{i}") for i in range(_SPANS)]),
        record.c.resource.in_([sa.bindparam(f"resource_{i}") for i in range(_RESOURCES)]),
        record.c.tie == sa.literal_column(no_tie),
    )


_there = Statement(_natural_ones("''"), **{DB2: _natural_ones("BX''")})
_ties = Lookup(sa.select(tie.c.tie), tie.c.tie)
_ties_added = Insert(tie)
_merged = Statement(
    sa.update(record)
    .where(*(c == sa.bindparam(f"at_{c.name}") for c in (*KEY, record.c.tie)))
    .values(state=sa.bindparam("new_state"), form=sa.bindparam("new_form"), fields=sa.bindparam("new_fields"))
)


class Server(Backend):
    """A database with a server."""

    def insert_natural(self, cursor: Cursor, records: Records) -> list[Met]:
        """See Backend. Most batches are new as a whole: that is tried first."""
        count = len(records.fields)
        cursor.execute(_SAVEPOINT)
        if RECORDS.run_columns(cursor, records) == count:
            return []
        while True:
            cursor.execute(_BACK)
            met = self.find(cursor, records, lock=False)
            there = {m.row for m in met}
            absent = [i for i in range(count) if i not in there]
            if not absent or RECORDS.run_columns(cursor, records.take(absent)) == len(absent):
                return met
            # Another writer was faster in between. It has committed, so the next look finds its records.

    def locked(self, cursor: Cursor, records: Records, met: list[Met]) -> list[Met]:
        """See Backend."""
        rows = [m.row for m in met]
        return [m._replace(row=rows[m.row]) for m in self.find(cursor, records.take(rows), lock=True)]

    @abstractmethod
    def find(self, cursor: Cursor, records: Records, *, lock: bool) -> list[Met]:
        """Those of the records that are there, in order; locked: kept from others until the end."""

    def insert_tied(self, cursor: Cursor, records: Records) -> list[int]:
        """See Backend."""
        fresh = self.new_ties(cursor, records)
        if fresh:
            PLAIN_RECORDS.run_columns(cursor, records.take(fresh))
        return fresh

    @abstractmethod
    def new_ties(self, cursor: Cursor, records: Records) -> list[int]:
        """Keep the ties that are not there; which those are."""


class InTurns(Server):
    """A database whose writers take turns: nothing changes between a look and what follows from it."""

    def find(self, cursor: Cursor, records: Records, *, lock: bool) -> list[Met]:
        """See Server. Nothing need be locked."""
        wanted = {key: i for i, key in enumerate(zip(*(c.tolist() for c in records[:3]), strict=True))}
        met = []
        for spans in chunks(np.unique(records.span).tolist(), _SPANS):
            here = np.isin(records.span, spans)
            for resources in chunks(np.unique(records.resource[here]).tolist(), _RESOURCES):
                values = {f"span_{i}": s for i, s in enumerate(padded(spans, _SPANS))}
                values |= {f"resource_{i}": r for i, r in enumerate(padded(resources, _RESOURCES))}
                for span, resource, place, *rest in _there.run(cursor, **values).fetchall():
                    row = wanted.get((span, resource, place))
                    if row is not None:
                        met.append(Met(row, *rest))
        return sorted(met)

    def new_ties(self, cursor: Cursor, records: Records) -> list[int]:
        """See Server."""
        there = {bytes(t) for (t,) in _ties.run(cursor, records.tie)}
        fresh = [i for i, t in enumerate(records.tie) if t not in there]
        if fresh:
            _ties_added.run_columns(cursor, tie_columns(records.take(fresh)))
        return fresh

    def update(self, cursor: Cursor, records: Records) -> None:
        """See Backend."""
        _merged.run_rows(cursor, [(*row[4:], *row[:4]) for row in records.rows()])


def tie_columns(records: Records) -> Sequence[Any]:
    """The records' rows in the table of ties."""
    return records.tie, records.span, records.place


ties_removed = sa.delete(tie)
