"""The SQLite store against the plain way: one row a sample with all its text, a unique id and two indexes.

100k series (10k instances of three resources and ten meters) in 64 partitions over 100 periods of a minute, a batch a partition and
period, so that pages fill and the write-ahead log turns over. The plain way gets the first periods of the same samples only:
its trees are still small then, which flatters it. Rates are samples per CPU-second of this process, checkpoints included;
what is prepared beforehand (our batches, the plain way's tuples) is in neither.
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench._cloud import START, Periods, instances
from nephoscope import identity
from nephoscope.batch import Batch
from nephoscope.filters import And, Compare
from nephoscope.store import StatisticsQuery
from sinks.sql import SQLStore

PARTITIONS = 64
INSTANCES = 157
"""Instances of ten meters in a partition: 100,480 series."""
PERIODS = 100
PLAIN_PERIODS = 3
DAY = 1440
MINUTE = 60_000_000


class Plain:
    """One row a sample, as one would write it first."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        for pragma in (
            "journal_mode = wal",
            "synchronous = normal",
            "cache_size = -65536",
            "wal_autocheckpoint = 4000",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute(
            "CREATE TABLE sample (id TEXT NOT NULL UNIQUE, name TEXT, type TEXT, unit TEXT, volume REAL, user_id TEXT,"
            " project_id TEXT, resource_id TEXT, timestamp INTEGER, measured_at INTEGER, resource_metadata TEXT, source TEXT)"
        )
        self.connection.execute("CREATE INDEX by_resource ON sample (resource_id, name, timestamp)")
        self.connection.execute("CREATE INDEX by_project ON sample (project_id, name, timestamp)")

    def write(self, rows: list[tuple[Any, ...]]) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self.connection.executemany("INSERT INTO sample VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", rows)
        self.connection.execute("COMMIT")

    def statistics(self, resource: str, meter: str) -> tuple[Any, ...]:
        answer: tuple[Any, ...] = self.connection.execute(
            "SELECT count(*), sum(volume), avg(volume), min(volume), max(volume), min(timestamp), max(timestamp), max(unit)"
            " FROM sample WHERE resource_id = ? AND name = ? AND timestamp >= ? AND timestamp < ?",
            (resource, meter, START, START + DAY * MINUTE),
        ).fetchone()
        return answer


def plain_rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [
        (
            identity.format_id(s.id), s.name, s.type, s.unit, s.volume, s.user_id, s.project_id, s.resource_id, s.timestamp,
            s.measured_at, s.metadata, s.source,
        )
        for s in batch.samples()
    ]  # fmt: skip


class Meter:
    """CPU and wall-clock seconds of what is called through it."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0

    def __call__(self, call: Callable[[], Any]) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        call()
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall


def cases() -> Iterator[dict[str, Any]]:
    """The case sqlite-store; beside it the same in seconds of the clock, bytes a sample, and a question."""
    cloud = Periods([instances(p, INSTANCES) for p in range(PARTITIONS)])
    with tempfile.TemporaryDirectory() as folder:
        store, plain = SQLStore(f"sqlite:///{folder}/store.db?synchronous=normal"), Plain(Path(folder) / "plain.db")
        ours, theirs = Meter(), Meter()
        for period in range(PERIODS):
            for partition in range(PARTITIONS):
                batch = cloud.batch(partition, period)
                if period < PLAIN_PERIODS:
                    rows = plain_rows(batch)
                    theirs(lambda rows=rows: plain.write(rows))
                ours(lambda batch=batch: store.write(batch.rows))
        n, plain_n = cloud.rows * PERIODS, cloud.rows * PLAIN_PERIODS
        yield _case("sqlite-store", n / ours.cpu, "samples/CPU-s", plain_n / theirs.cpu)
        yield _case("sqlite-store-wall", n / ours.wall, "samples/s", plain_n / theirs.wall)
        # A day of one instance more, so that there is something to ask about.
        one = Periods([instances(PARTITIONS, 1)])
        for period in range(DAY):
            store.write(one.batch(0, period).rows)
            plain.write(plain_rows(one.batch(0, period)))
        resource = f"{PARTITIONS:08x}-5e4a-4000-8000-{0:012x}"
        query = StatisticsQuery(
            And((
                Compare("resource_id", "=", resource),
                Compare("name", "=", "cpu"),
                Compare("timestamp", ">=", START),
                Compare("timestamp", "<", START + DAY * MINUTE),
            ))
        )  # fmt: skip
        assert store.statistics(query)[0].count == plain.statistics(resource, "cpu")[0] == DAY
        ours_ms = _median_ms(lambda: store.statistics(query))
        yield _case("sqlite-statistics-day", ours_ms, "ms", _median_ms(lambda: plain.statistics(resource, "cpu")))
        store.close()
        plain.connection.close()
        sizes = [(Path(folder) / f"{name}.db").stat().st_size for name in ("store", "plain")]
        extra = one.rows * DAY
        yield _case("sqlite-bytes-per-sample", sizes[0] / (n + extra), "B", sizes[1] / (plain_n + extra))


def _median_ms(ask: Callable[[], Any]) -> float:
    times = []
    for _ in range(9):
        begin = time.perf_counter()
        ask()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def _case(name: str, value: float, unit: str, against: float) -> dict[str, Any]:
    return {
        "case": name,
        "value": round(value) if value > 1000 else round(value, 2),
        "unit": unit,
        "against": round(against) if against > 1000 else round(against, 2),
        "ratio": round(value / against, 3),
    }
