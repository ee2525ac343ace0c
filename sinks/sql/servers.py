"""What databases with a server share: records that were there are found by asking, in the same transaction."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from sinks.sql.backend import Backend, Met, Records
from sinks.sql.bulk import Insert
from sinks.sql.schema import record, tie
from sinks.sql.statements import Cursor

KEY = (record.c.span, record.c.resource, record.c.place)
RECORDS = Insert(record, ignore=True)
PLAIN_RECORDS = Insert(record)
_SAVEPOINT = "SAVEPOINT records"
_BACK = "ROLLBACK TO SAVEPOINT records"


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


def tie_columns(records: Records) -> Sequence[Any]:
    """The records' rows in the table of ties."""
    return records.tie, records.span, records.place


ties_removed = sa.delete(tie)
