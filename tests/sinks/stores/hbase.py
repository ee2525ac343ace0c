"""HBase: one set of tables, emptied after each test; another set where a test has given them a time to live."""

import itertools
import os
import re
from contextlib import contextmanager

import happybase
import pytest

from sinks.hbase import expire
from sinks.hbase.admin import FOR_EVER
from tests.servers.hbase import for_all
from tests.sinks.stores import Kind


@contextmanager
def _place(run_folder):
    with for_all(run_folder) as (address, admin):
        host, port = address.split(":")
        sets = (f"t{os.getpid()}_{n}" for n in itertools.count())
        now = [next(sets)]

        @contextmanager
        def empty():
            # The suite's writes are of many resources in few samples: with few buckets they touch few lists.
            yield f"hbase://{address}/{now[0]}?admin={admin}&buckets=4"
            connection = happybase.Connection(host, int(port), timeout=60_000)
            tables = [t.decode() for t in connection.tables() if re.match(rf"{now[0]}_".encode(), t)]
            if all(f["time_to_live"] == FOR_EVER for t in tables for f in connection.table(t).families().values()):
                for name in tables:
                    _wipe(connection.table(name))
            else:
                now[0] = next(sets)
            connection.close()

        yield empty


def _wipe(table):
    """Delete each cell by its own timestamp: what is written later under the same name must be seen."""
    while some := list(table.scan(include_timestamp=True, batch_size=1000, limit=5000)):
        by_time = {}
        for row, cells in some:
            for column, (_, when) in cells.items():
                by_time.setdefault(when, []).append((row, column))
        for when, pairs in by_time.items():
            with table.batch(timestamp=when) as batch:
                for row, column in pairs:
                    batch.delete(row, [column])


@contextmanager
def _small_steps(records):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(expire, "_LISTS_A_STEP", records)
        patch.setattr(expire, "_ROWS_A_STEP", records)
        yield


KIND = Kind("hbase", _place, examples=3, small_steps=_small_steps)
