"""PostgreSQL: the plain way is one full row a sample by executemany, with a unique id and two indexes, in the same server.

Both ways wait for the disk (fsync and synchronous_commit are on).
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from bench._stores import Bench
from nephoscope.batch import Batch
from nephoscope.store import Store
from nephoscope.times import SECOND
from sinks.sql import SQLStore
from tests.servers.postgresql import database, running

_SETTINGS = """\
fsync = on
full_page_writes = on
shared_buffers = 512MB
max_wal_size = 4GB
"""


class PostgreSQL(Bench):
    """A server, a database for each way."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        server = self._stack.enter_context(running(self.folder, _SETTINGS))
        self._url = self._stack.enter_context(database(server.url()))
        self._plain_url = self._stack.enter_context(database(server.url()))
        self._plain = self._stack.enter_context(psycopg.connect(self._plain_url, autocommit=True))
        self._plain.execute(
            "CREATE TABLE sample (id uuid PRIMARY KEY, name text, type text, unit text, volume float8, user_id text, project_id text,"
            " resource_id text, timestamp timestamptz, measured_at timestamptz, resource_metadata jsonb, source text)"
        )
        self._plain.execute("CREATE INDEX by_resource ON sample (resource_id, name, timestamp)")
        self._plain.execute("CREATE INDEX by_project ON sample (project_id, name, timestamp)")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self) -> Store:
        return SQLStore(self._url)

    def size(self) -> int:
        return self._size(self._url)

    def plain_rows(self, batch: Batch) -> list[tuple[Any, ...]]:
        return [
            (
                UUID(bytes=s.id), s.name, s.type, s.unit, s.volume, s.user_id, s.project_id, s.resource_id, _time(s.timestamp),
                _time(s.measured_at), Jsonb(s.resource_metadata), s.source,
            )
            for s in batch.samples()
        ]  # fmt: skip

    def plain_write(self, rows: Any) -> None:
        with self._plain.transaction(), self._plain.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO sample VALUES (%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s) ON CONFLICT DO NOTHING", rows
            )

    def plain_statistics(self, resource: str, meter: str, start: int, end: int) -> tuple[Any, ...]:
        answer: tuple[Any, ...] | None = self._plain.execute(
            "SELECT count(*), sum(volume), avg(volume), min(volume), max(volume), min(timestamp), max(timestamp), max(unit)"
            " FROM sample WHERE resource_id = %s AND name = %s AND timestamp >= %s AND timestamp < %s",
            (resource, meter, _time(start), _time(end)),
        ).fetchone()
        assert answer is not None
        return answer

    def plain_size(self) -> int:
        return self._size(self._plain_url)

    @staticmethod
    def _size(url: str) -> int:
        """All tables with their indexes, partitions included; not what a new database has itself."""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
            answer = connection.execute(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            ).fetchone()
            assert answer is not None
            return int(answer[0])


def _time(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / SECOND, UTC)


BENCH = PostgreSQL
