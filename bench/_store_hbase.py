"""HBase: the plain way is one row a sample with one cell, in batches of 1000, in the same server.

A row is (a byte of the resource's hash, digest of resource and meter, time), so the plain way, too, has no hot region and reads a meter of a
resource in one scan; its cell holds the volume and the time of reading, and who they belong to is kept nowhere. Both ways have 16 regions and GZ.
"""

from __future__ import annotations

import math
import struct
import time
from contextlib import ExitStack
from typing import Any, Final, Self

import happybase  # type: ignore[import-untyped]

from bench._stores import Bench, patiently
from nephoscope.batch import Batch
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Store
from nephoscope.times import SECOND, now
from sinks.hbase import HBaseStore, layout
from sinks.hbase.admin import FOR_EVER, Admin, Tables
from sinks.hbase.link import Link
from tests.servers.hbase import running

_CELL: Final = struct.Struct(">dq")
_TIME: Final = struct.Struct(">q")


class HBase(Bench):
    """HBase in one process of 1.5 GB with its Thrift servers, a set of tables for each way."""

    warm_periods = 5
    """Java compiles what has run some thousand times. The plain way's rows have in a period, our calls in five."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        server = self._stack.enter_context(running(self.folder, heap="1536m"))
        self._url = f"hbase://{server.address}/store?admin={server.admin}"
        host, port = server.address.split(":")
        self._connection = self._stack.enter_context(_Connection(host, int(port)))
        admin_host, admin_port = server.admin.split(":")
        link = Link(host, int(port), timeout=60.0, prefix=b"plain")
        # As the store's own table of samples is made.
        Tables(link, Admin(admin_host, int(admin_port))).create(layout.SAMPLE, {b"d": FOR_EVER}, layout.BUCKETS)
        link.close()
        self._plain = self._connection.table("plain_sample")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self) -> Store:
        return HBaseStore(self._url)

    def size(self) -> int:
        return self._size("store")

    def expire(self, store: Store, before: int) -> None:
        """The families' time to live is altered in place: from then on nobody sees what is due. Then a compaction, and what `expire` does."""
        seconds = (now() - before) // SECOND
        lifetimes = Lifetimes(samples=seconds)
        HBaseStore(self._url, lifetimes).close()
        self._connection.compact_table("store_sample", major=True)
        store.expire(lifetimes, now())
        HBaseStore(self._url, Lifetimes()).close()

    def plain_rows(self, batch: Batch) -> list[tuple[bytes, bytes, int]]:
        return [
            (
                _series(s.resource_id, s.name) + _TIME.pack(s.timestamp),
                _CELL.pack(s.volume, s.measured_at),
                s.timestamp // 1000,
            )
            for s in batch.samples()
        ]

    def plain_write(self, rows: Any) -> None:
        with self._plain.batch(timestamp=rows[0][2], batch_size=1000) as batch:
            for row, cell, _ in rows:
                batch.put(row, {b"d:v": cell})

    def plain_statistics(self, resource: str, meter: str, start: int, end: int) -> tuple[Any, ...]:
        series = _series(resource, meter)
        volumes, times = [], []
        stop = series + _TIME.pack(end)
        for row, cells in self._plain.scan(row_start=series + _TIME.pack(start), row_stop=stop, batch_size=2000):
            times.append(_TIME.unpack(row[-8:])[0])
            volumes.append(_CELL.unpack(cells[b"d:v"])[0])
        total = math.fsum(volumes)
        return len(volumes), total, total / len(volumes), min(volumes), max(volumes), min(times), max(times), ""

    def plain_size(self) -> int:
        return self._size("plain")

    def _size(self, prefix: str) -> int:
        """What its tables' files take once all is in one file a family and region."""
        tables = [t.decode() for t in self._connection.tables() if t.startswith(f"{prefix}_".encode())]
        for name in tables:
            # Closed regions have written what they held in memory.
            self._connection.disable_table(name)
            self._connection.enable_table(name)
            self._connection.compact_table(name, major=True)
        patiently(lambda: all(self._compacted(name) for name in tables), "major compaction")
        return sum(f.stat().st_size for name in tables for f in self._files(name))

    def _files(self, table: str) -> list[Any]:
        return [
            f
            for f in (self.folder / "data" / "data" / "default" / table).glob("*/*/*")
            if f.is_file() and not f.name.startswith(".") and not f.parent.name.startswith((".", "recovered"))
        ]

    def _compacted(self, table: str) -> bool:
        """One file a family and region at most, and nothing new."""
        files = self._files(table)
        time.sleep(0.5)
        return len({f.parent for f in files}) == len(files) and files == self._files(table)


class _Connection(happybase.Connection):  # type: ignore[misc]
    """A connection that is closed at the end."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port, timeout=120_000)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _series(resource: str, meter: str) -> bytes:
    bucket = layout.bucket_of(resource, layout.BUCKETS)
    return bytes([bucket]) + layout.digest(resource.encode(), meter.encode(), size=8)


BENCH = HBase
