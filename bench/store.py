"""The SQLite store against the plain way: one row a sample with all its text, a unique id and two indexes.

100k series (10k machines of three resources and ten meters) in 64 partitions, over 100 periods of a minute, a batch a partition
and period, so that pages fill and the write-ahead log turns over. The plain way gets the first periods of the same samples
only: its trees are still small then, which flatters it. Both are measured in turn, in samples per CPU-second of this process
(user and system, checkpoints included); what is prepared beforehand (the batches, the plain way's tuples) is in neither.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nephoscope import identity, natural
from nephoscope.batch import SCHEMA
from nephoscope.partition import partition
from nephoscope.store import ListQuery, SampleQuery, StatisticsQuery
from nephoscope.filters import Compare, both
from sinks.sql import SQLStore

MACHINES = 10_000
PERIODS = 100
PLAIN_PERIODS = 3
PARTITIONS = 64
START = 1_750_000_200_000_000 // 300_000_000 * 300_000_000
MINUTE = 60_000_000

METERS = {
    "{}": (("cpu", "cumulative", "ns"), ("memory.usage", "gauge", "MB")),
    "{}-vda": tuple(
        (f"disk.device.{way}.{what}", "cumulative", unit)
        for way in ("read", "write")
        for what, unit in (("bytes", "B"), ("requests", "request"))
    ),
    "{}-tap": tuple(
        (f"network.{way}.{what}", "cumulative", unit)
        for way in ("incoming", "outgoing")
        for what, unit in (("bytes", "B"), ("packets", "packet"))
    ),
}


class Partition:
    """The samples of a partition: the same series each period, with new volumes."""

    def __init__(self, rows: list[tuple[str, str, str, str, int]], seed: int) -> None:
        names, types, units, resources, machines = zip(*rows, strict=True)
        users = [f"{m % 700:032x}" for m in machines]
        projects = [f"{m % 300:032x}" for m in machines]
        metadata = [
            json.dumps(
                {
                    "display_name": f"machine-{m}",
                    "host": f"compute-{m % 200:03}.example.org",
                    "flavor": {"name": "m1.small", "vcpus": 2, "ram": 2048, "disk": 20},
                    "image": {"id": f"{m % 50:032x}", "name": "debian-12"},
                    "status": "active",
                    "cpu_number": 2,
                    "OS-EXT-AZ:availability_zone": "nova",
                    "instance_id": f"{m:032x}",
                }
            )
            for m in machines
        ]
        n = len(rows)
        self.words = {
            "name": names, "type": types, "unit": units, "user_id": users, "project_id": projects,
            "resource_id": resources, "resource_metadata": metadata, "source": ["openstack"] * n, "origin": [""] * n,
        }  # fmt: skip
        self.columns = {k: pa.array(v, pa.utf8()).dictionary_encode() for k, v in self.words.items()}
        self.random = np.random.default_rng(seed)
        self.n = n

    def batch(self, period: int) -> pa.RecordBatch:
        stamp = START + period * MINUTE
        times = np.full(self.n, stamp)
        # Read some seconds into the period, each resource at a moment of its own.
        measured = times + self.random.integers(0, 20_000_000, self.n)
        volumes = np.round(self.random.random(self.n) * 1e6, 3)
        plain = pa.timestamp("us", tz="UTC")
        arrays = dict(self.columns)
        arrays |= {
            "volume": pa.array(volumes),
            "timestamp": pa.array(times).cast(plain),
            "measured_at": pa.array(measured).cast(plain),
            "id": pa.array([b"\0" * 16] * self.n, pa.binary(16)),
            "late": pa.array(np.zeros(self.n, bool)),
        }
        rows = pa.RecordBatch.from_arrays([arrays[f.name] for f in SCHEMA], schema=SCHEMA)
        ids, _ = natural.natural_ids(rows)
        id_column = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), self.n, [None, pa.py_buffer(ids.tobytes())])
        return rows.set_column(SCHEMA.get_field_index("id"), SCHEMA.field("id"), id_column)


def partitions(machines: int = MACHINES) -> list[Partition]:
    rows: list[list[tuple[str, str, str, str, int]]] = [[] for _ in range(PARTITIONS)]
    for machine in range(machines):
        for form, meters in METERS.items():
            resource = form.format(f"{machine:032x}")
            rows[partition(resource, PARTITIONS)] += [(*m, resource, machine) for m in meters]
    return [Partition(r, seed) for seed, r in enumerate(rows) if r]


class Plain:
    """One row a sample, as one would write it first."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = wal", "synchronous = normal", "cache_size = -65536", "wal_autocheckpoint = 4000"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute(
            "CREATE TABLE sample (id TEXT NOT NULL UNIQUE, name TEXT, type TEXT, unit TEXT, volume REAL, user_id TEXT,"
            " project_id TEXT, resource_id TEXT, timestamp INTEGER, measured_at INTEGER, resource_metadata TEXT,"
            " source TEXT)"
        )
        self.connection.execute("CREATE INDEX by_resource ON sample (resource_id, name, timestamp)")
        self.connection.execute("CREATE INDEX by_project ON sample (project_id, name, timestamp)")

    def rows(self, part: Partition, batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
        ids = [identity.format_id(i) for i in batch.column("id").to_pylist()]
        times = batch.column("timestamp").cast(pa.int64()).to_pylist()
        measured = batch.column("measured_at").cast(pa.int64()).to_pylist()
        words = part.words
        return list(
            zip(
                ids, words["name"], words["type"], words["unit"], batch.column("volume").to_pylist(),
                words["user_id"], words["project_id"], words["resource_id"], times, measured,
                words["resource_metadata"], words["source"], strict=True,
            )
        )  # fmt: skip

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany(
            "INSERT INTO sample VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", rows
        )
        self.connection.execute("COMMIT")


def cases(machines: int = MACHINES, periods: int = PERIODS, plain_periods: int = PLAIN_PERIODS) -> Iterator[dict[str, Any]]:
    """The case sqlite-store, a line a figure."""
    parts = partitions(machines)
    n = sum(p.n for p in parts)
    with tempfile.TemporaryDirectory() as folder:
        store = SQLStore(f"sqlite:///{folder}/store.db")
        plain = Plain(Path(folder) / "plain.db")
        ours = theirs = wall = plain_wall = 0.0
        for period in range(periods):
            for part in parts:
                batch = part.batch(period)
                if period < plain_periods:
                    rows = plain.rows(part, batch)
                    begin, clock = time.process_time(), time.perf_counter()
                    plain.write(rows)
                    theirs += time.process_time() - begin
                    plain_wall += time.perf_counter() - clock
                begin, clock = time.process_time(), time.perf_counter()
                store.write(batch)
                ours += time.process_time() - begin
                wall += time.perf_counter() - clock
        rate, against = n * periods / ours, n * plain_periods / theirs
        yield _case("sqlite-store", rate, "samples/CPU-s", against)
        yield _case("sqlite-store-wall", n * periods / wall, "samples/s", n * plain_periods / plain_wall)
        store.close()
        size, plain_size = (os.path.getsize(f"{folder}/{f}.db") for f in ("store", "plain"))
        plain.connection.close()
        plain_bytes = os.path.getsize(f"{folder}/plain.db") / (n * plain_periods)
        del size, plain_size
        yield _case("sqlite-bytes-per-sample", os.path.getsize(f"{folder}/store.db") / (n * periods), "bytes", plain_bytes)


def _case(name: str, value: float, unit: str, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value, 1),
        "unit": unit,
        "against": round(against, 1),
        "ratio": round(value / against, 2),
    }


if __name__ == "__main__":
    for case in cases():
        print(json.dumps(case), flush=True)
