"""HBase: one set of tables, emptied after each test; another set where a test has given them a time to live, or deleted much of them."""

import itertools
import os
from contextlib import closing, contextmanager

import happybase
import pytest

from sinks.hbase import expire
from sinks.hbase.admin import FOR_EVER
from sinks.hbase.layout import TABLES
from tests.servers.hbase import for_all
from tests.sinks.stores import Kind

_DELETED = 1000
"""Cells deleted from a set of tables before the next one takes its place: until a compaction, HBase reads past all of them."""


@contextmanager
def _place(run_folder):
    with for_all(run_folder) as (address, admin):
        host, port = address.split(":")
        sets = (f"t{os.getpid()}_{n}" for n in itertools.count())
        now, deleted = next(sets), 0

        @contextmanager
        def empty():
            nonlocal now, deleted
            # The suite's writes are of many resources in few samples: with few buckets they touch few lists.
            yield f"hbase://{address}/{now}?admin={admin}&buckets=2"
            with closing(happybase.Connection(host, int(port), timeout=60_000)) as connection:
                deleted += _emptied(connection, now, _DELETED - deleted)
            if deleted >= _DELETED:
                now, deleted = next(sets), 0

        yield empty


def _emptied(connection, prefix, most):
    """Delete each cell by its own timestamp: what is written later under the same name must be seen. At least `most`: it is no longer of use."""
    there = connection.tables()
    tables = [connection.table(name) for t in TABLES if (name := f"{prefix}_{t.decode()}".encode()) in there]
    if any(f["time_to_live"] != FOR_EVER for t in tables for f in t.families().values()):
        return most
    done = 0
    for table in tables:
        by_time = {}
        for row, cells in table.scan(include_timestamp=True, batch_size=1000):
            for column, (_, when) in cells.items():
                by_time.setdefault(when, []).append((row, column))
                done += 1
            if done >= most:
                return done
        for when, pairs in by_time.items():
            with table.batch(timestamp=when) as batch:
                for row, column in pairs:
                    batch.delete(row, [column])
    return done


@contextmanager
def _small_steps(records, *, pauses=False):
    with pytest.MonkeyPatch.context() as patch:
        if not pauses:
            patch.setattr(expire, "_PAUSE", 0.0)
        patch.setattr(expire, "_LISTS_A_STEP", records)
        patch.setattr(expire, "_ROWS_A_STEP", records)
        yield


KIND = Kind("hbase", _place, examples=3, small_steps=_small_steps)
