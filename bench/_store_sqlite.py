"""SQLite: the plain way is one row a sample with all its text, a unique id and two indexes."""

from __future__ import annotations

import sqlite3
from typing import Any, Self

from bench._stores import Bench
from nephoscope import identity
from nephoscope.batch import Batch
from nephoscope.store import Store
from sinks.sql import SQLStore


class SQLite(Bench):
    """Two files, both with write-ahead log and synchronous=NORMAL."""

    def __enter__(self) -> Self:
        self._plain = sqlite3.connect(self.folder / "plain.db", isolation_level=None, check_same_thread=False)
        for pragma in (
            "journal_mode = wal",
            "synchronous = normal",
            "cache_size = -65536",
            "wal_autocheckpoint = 4000",
        ):
            self._plain.execute(f"PRAGMA {pragma}")
        self._plain.execute(
            "CREATE TABLE sample (id TEXT NOT NULL UNIQUE, name TEXT, type TEXT, unit TEXT, volume REAL, user_id TEXT,"
            " project_id TEXT, resource_id TEXT, timestamp INTEGER, measured_at INTEGER, resource_metadata TEXT, source TEXT)"
        )
        self._plain.execute("CREATE INDEX by_resource ON sample (resource_id, name, timestamp)")
        self._plain.execute("CREATE INDEX by_project ON sample (project_id, name, timestamp)")
        return self

    def __exit__(self, *_: object) -> None:
        self._plain.close()

    def open(self) -> Store:
        return SQLStore(f"sqlite:///{self.folder}/store.db?synchronous=normal")

    def size(self) -> int:
        return self._size("store.db")

    def plain_rows(self, batch: Batch) -> list[tuple[Any, ...]]:
        return [
            (
                identity.format_id(s.id), s.name, s.type, s.unit, s.volume, s.user_id, s.project_id, s.resource_id, s.timestamp,
                s.measured_at, s.metadata, s.source,
            )
            for s in batch.samples()
        ]  # fmt: skip

    def plain_write(self, rows: Any) -> None:
        self._plain.execute("BEGIN IMMEDIATE")
        self._plain.executemany("INSERT INTO sample VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING", rows)
        self._plain.execute("COMMIT")

    def plain_statistics(self, resource: str, meter: str, start: int, end: int) -> tuple[Any, ...]:
        answer: tuple[Any, ...] = self._plain.execute(
            "SELECT count(*), sum(volume), avg(volume), min(volume), max(volume), min(timestamp), max(timestamp), max(unit)"
            " FROM sample WHERE resource_id = ? AND name = ? AND timestamp >= ? AND timestamp < ?",
            (resource, meter, start, end),
        ).fetchone()
        return answer

    def plain_size(self) -> int:
        return self._size("plain.db")

    def _size(self, name: str) -> int:
        with sqlite3.connect(self.folder / name) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        return (self.folder / name).stat().st_size


BENCH = SQLite
