"""MongoDB: the plain way is one full document a sample by insert_many, with the indexes that its queries need, in the same server.

The server is a replica set of one with a cache of 1 GB; both ways wait for its journal.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any, Self

from bson.binary import Binary
from pymongo import MongoClient, WriteConcern

from bench._stores import Bench, patiently
from nephoscope.batch import Batch
from nephoscope.lifetimes import Lifetimes
from nephoscope.store import Store
from nephoscope.times import SECOND, now
from sinks.mongodb import MongoStore
from tests.servers.mongodb import running


class MongoDB(Bench):
    """A replica set of one, a database for each way."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        server = self._stack.enter_context(running(self.folder, cache_gb=1.0))
        self._url = server.url("store")
        self._client: MongoClient[dict[str, Any]] = self._stack.enter_context(MongoClient(server.url("plain")))
        plain = self._client["plain"].get_collection("sample", write_concern=WriteConcern(w="majority", j=True))
        plain.create_index([("resource_id", 1), ("name", 1), ("timestamp", 1)])
        plain.create_index([("project_id", 1), ("name", 1), ("timestamp", 1)])
        plain.create_index("timestamp", expireAfterSeconds=2**31 - 1)
        self._plain = plain
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self) -> Store:
        return MongoStore(self._url)

    def size(self) -> int:
        return self._size("store")

    def expire(self, store: Store, before: int) -> None:
        """By the server's TTL monitor: the lifetimes are taken up in place, then its counter tells when it is done."""
        records = self._client["store"]["record"]
        deleted = self._deleted()
        MongoStore(self._url, Lifetimes(samples=(now() - before) // SECOND)).close()
        edge = datetime.fromtimestamp(before / SECOND - 2, UTC)
        patiently(lambda: records.find_one({"t0": {"$lt": edge}}, {"t0": 1}) is None, "the TTL monitor deletes")
        # It counts when it has done with an index.
        patiently(lambda: self._deleted() > deleted, "it was the TTL monitor who deleted")
        MongoStore(self._url, Lifetimes()).close()

    def plain_rows(self, batch: Batch) -> list[dict[str, Any]]:
        return [
            {
                "_id": Binary(s.id),
                "name": s.name,
                "type": s.type,
                "unit": s.unit,
                "volume": s.volume,
                "user_id": s.user_id,
                "project_id": s.project_id,
                "resource_id": s.resource_id,
                "timestamp": datetime.fromtimestamp(s.timestamp / SECOND, UTC),
                "measured_at": datetime.fromtimestamp(s.measured_at / SECOND, UTC),
                "resource_metadata": s.resource_metadata,
                "source": s.source,
            }
            for s in batch.samples()
        ]

    def plain_write(self, rows: Any) -> None:
        self._plain.insert_many(rows, ordered=False)

    def plain_statistics(self, resource: str, meter: str, start: int, end: int) -> tuple[Any, ...]:
        times = {"$gte": datetime.fromtimestamp(start / SECOND, UTC), "$lt": datetime.fromtimestamp(end / SECOND, UTC)}
        pipeline: list[dict[str, Any]] = [
            {"$match": {"resource_id": resource, "name": meter, "timestamp": times}},
            {
                "$group": {
                    "_id": None,
                    "count": {"$sum": 1},
                    "sum": {"$sum": "$volume"},
                    "avg": {"$avg": "$volume"},
                    "min": {"$min": "$volume"},
                    "max": {"$max": "$volume"},
                    "first": {"$min": "$timestamp"},
                    "last": {"$max": "$timestamp"},
                    "unit": {"$last": "$unit"},
                }
            },
        ]
        (one,) = self._plain.aggregate(pipeline)
        return tuple(one[f] for f in ("count", "sum", "avg", "min", "max", "first", "last", "unit"))

    def plain_size(self) -> int:
        return self._size("plain")

    def _size(self, name: str) -> int:
        """All files of a database, after a checkpoint: what was freed inside of them counts, too."""
        self._client.admin.command("fsync")
        stats = self._client[name].command("dbStats")
        return int(stats["storageSize"] + stats["indexSize"])

    def _deleted(self) -> int:
        return int(self._client.admin.command("serverStatus")["metrics"]["ttl"]["deletedDocuments"])


BENCH = MongoDB
