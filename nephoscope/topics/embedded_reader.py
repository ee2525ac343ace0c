"""How the embedded log's file is opened and read: connections, errors, the consumer."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nephoscope.errors import TopicError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.topics import Message

_log = logging.getLogger(__name__)

PAGE = 16384
"""Bytes of a page of the file: messages are long, and short ones share a page."""
WAL_BYTES = 64 << 20
_POLL_BYTES = 64 << 20
"""A poll hands out no more than this and one message, however many it was asked for."""
NAP = 0.005
"""Seconds between two looks of whoever waits."""

_AWAY = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """SQLite's errors as ours: Unavailable where the same call may succeed later, else TopicError."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _AWAY:
            raise Unavailable(f"the log {path} cannot be used now: {error}") from error
        raise TopicError(f"{path} is no usable log: {error}") from error


def connect(path: Path, wait: float) -> sqlite3.Connection:
    """A connection to a file that exists; `wait` seconds for others."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, check_same_thread=False, timeout=wait
    )
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // 4 // PAGE}")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def vector(raw: bytes) -> list[int]:
    """The numbers of a blob: one a partition."""
    return [int(n) for n in np.frombuffer(raw, "<i8").tolist()]


def blob(numbers: Sequence[int]) -> bytes:
    """The blob of numbers."""
    return np.array(numbers, "<i8").tobytes()


class EmbeddedConsumer:
    """Reads some partitions of a topic, each in order. Not safe for several threads.

    `offsets`: the next offset of each partition. `missed`: how many messages retention had removed before they were read.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, number: int, offsets: dict[int, int], partitions: int
    ) -> None:
        self.offsets = offsets
        self.missed = 0
        self._path = path
        self._db = connection
        self._number = number
        self._all = len(offsets) == partitions
        self._seen: int | None = None
        db = connection
        (self._caught_up,) = db.execute("SELECT seq FROM topic WHERE id = ?", (number,)).fetchone()
        self._seq = self._seek()
        db.execute("CREATE TEMP TABLE wanted (partition INTEGER PRIMARY KEY, offset INTEGER NOT NULL)")
        db.executemany("INSERT INTO wanted VALUES (?, ?)", offsets.items())
        columns = "m.seq, m.partition, m.offset, m.append_time, m.value, m.key"
        table = f"message_{number} AS m"
        self._plain = f"SELECT {columns} FROM {table} WHERE m.seq > ? AND m.seq <= ? ORDER BY m.seq LIMIT ?"  # noqa: S608
        # CROSS JOIN keeps SQLite from starting with `wanted`, for which there is no index.
        self._picky = (
            f"SELECT {columns} FROM {table} CROSS JOIN wanted AS w ON w.partition = m.partition AND m.offset >= w.offset"  # noqa: S608
            " WHERE m.seq > ? AND m.seq <= ? ORDER BY m.seq LIMIT ?"
        )

    def _seek(self) -> int:
        """The newest noted place at or before the start of every partition."""
        places = self._db.execute("SELECT seq, ends FROM place WHERE topic = ? ORDER BY seq DESC", (self._number,))
        try:
            for seq, raw in places:
                ends = vector(raw)
                if all(ends[p] <= offset for p, offset in self.offsets.items()):
                    return int(seq)
        finally:
            places.close()
        return 0

    def poll(self, limit: int = 1000, timeout: float = 0.0) -> list[Message]:
        """Up to `limit` messages (and some 64 MiB), each partition in order; waits up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        with translated(self._path):
            while True:
                messages = self._read(limit)
                left = deadline - time.monotonic()
                if messages or left <= 0:
                    return messages
                time.sleep(min(NAP, left))

    def _read(self, limit: int) -> list[Message]:
        db = self._db
        # One look at a number in shared memory tells whether anybody has written to the file since.
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version == self._seen:
            return []
        (end,) = db.execute("SELECT seq FROM topic WHERE id = ?", (self._number,)).fetchone()
        query = self._plain if self._all and self._seq >= self._caught_up else self._picky
        rows = db.execute(query, (self._seq, end, limit))
        messages: list[Message] = []
        size = 0
        offsets = self.offsets
        for seq, partition, offset, moment, value, key in rows:
            if offset != offsets[partition]:
                self._miss(offset - offsets[partition])
            offsets[partition] = offset + 1
            messages.append(Message(partition, offset, moment, value, key))
            self._seq = seq
            size += len(value)
            if size > _POLL_BYTES:
                rows.close()  # Ends the read transaction, which would keep the WAL from being emptied.
                return messages
        if len(messages) < limit:
            self._seq = end
            self._seen = version
        return messages

    def _miss(self, count: int) -> None:
        self.missed += count
        Counts("log").dropped(count, "expired")
        _log.warning("%s: retention removed %d messages before they were read", self._path, count)

    def close(self) -> None:
        """Close the file."""
        self._db.close()
