"""The embedded log: every topic in one SQLite file in WAL mode, so that no server is needed.

Messages of a topic lie in the order in which they were appended, whatever their partition: an append writes to the end of one table,
and a consumer of any partitions reads that table forward. Where a partition's offset is found is noted every `_PLACE_EVERY` messages;
offsets are dense in each partition and never used again.

Guarantee: what `append` returned for is on disk, once (synchronous=FULL: also after a power cut; measured, it costs
0.1 to 0.4 ms an append). Any number of processes append and read at once; writers take turns, readers wait for nobody and never
see a part of an append. A reader that retention has overtaken goes on with the oldest message kept and says how many it missed.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nephoscope import times
from nephoscope.errors import TopicError, nearest
from nephoscope.partition import PARTITIONS
from nephoscope.settings import Settings
from nephoscope.topics import TOPICS, Record
from nephoscope.topics.embedded_reader import NAP, PAGE, EmbeddedConsumer, blob, connect, translated, vector

_APPLICATION = 0x4E455048  # "NEPH"
_VERSION = 1
_PLACE_EVERY = 1024
_CHUNK_MESSAGES = 2048
_CHUNK_BYTES = 32 << 20


def open_log(settings: Settings, also: int = 0) -> EmbeddedLog:
    """The log that the settings describe. `also`: another partition count that is right, while it grows."""
    return EmbeddedLog(settings.log_path, settings.partitions, also=also)


class EmbeddedLog:
    """The topics in one file. Safe for several threads and processes.

    Args:
        path: the file; it and its folder are made where they do not exist.
        partitions: of each topic. TopicError where the file has another count.
        create: whether to make the file; without, TopicError where there is none.
        also: another partition count that is right.
        grow: whether a file that has fewer partitions gets the missing ones.
        wait: seconds that a writer waits for another before it is Unavailable.

    """

    def __init__(
        self,
        path: Path,
        partitions: int = PARTITIONS,
        *,
        create: bool = True,
        also: int = 0,
        grow: bool = False,
        wait: float = 5.0,
    ) -> None:
        self.path = Path(path)
        self._wait = wait
        self._lock = threading.Lock()
        if partitions < 1:
            raise TopicError(f"a topic has at least 1 partition, not {partitions}")
        if not self.path.exists():
            if not create:
                raise TopicError(f"there is no log {self.path}")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.touch()
            except OSError as error:
                raise TopicError(f"the log {self.path} cannot be made: {error}") from error
        with translated(self.path):
            self._connection = connect(self.path, wait)
            try:
                self._topics = self._prepared(partitions)
                if grow and all(count < partitions for _, count in self._topics.values()):
                    self.grow(partitions)
            except BaseException:
                self._connection.close()
                raise
        for name, (_, count) in self._topics.items():
            if count not in (partitions, also):
                self._connection.close()
                raise TopicError(f"{self.path}: topic {name} has {count} partitions, not {partitions}")

    def _prepared(self, partitions: int) -> dict[str, tuple[int, int]]:
        """(number, partition count) of each topic, in a file that has them all."""
        db = self._connection
        application, version = (db.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version"))
        if (application, version) != (_APPLICATION, _VERSION):
            if application == _APPLICATION and version:
                raise TopicError(f"{self.path} is a log of format {version}, known here: {_VERSION}")
            self._make()
        with self._writing():
            for name in TOPICS:
                db.execute(
                    "INSERT INTO topic (name, partitions, seq, append_time, bytes, placed, begins, ends)"
                    " SELECT :name, :count, 0, 0, 0, 0, :zeros, :zeros WHERE NOT EXISTS (SELECT 1 FROM topic WHERE name = :name)",
                    {"name": name, "count": partitions, "zeros": blob([0] * partitions)},
                )
                (number,) = db.execute("SELECT id FROM topic WHERE name = ?", (name,)).fetchone()
                # `value` comes last: what stands behind the first page of a long row is read only where it is wanted.
                db.execute(
                    f"CREATE TABLE IF NOT EXISTS message_{number} (seq INTEGER PRIMARY KEY, partition INTEGER NOT NULL,"
                    " offset INTEGER NOT NULL, append_time INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL)"
                )
        return {name: (i, n) for name, i, n in db.execute("SELECT name, id, partitions FROM topic")}

    def _make(self) -> None:
        """Turn an empty file into a log; several processes may try at once."""
        db = self._connection
        others = db.execute("SELECT count(*) FROM sqlite_master WHERE name NOT IN ('topic', 'place')").fetchone()[0]
        # Another process may have made it since we looked; it says what the file is before it makes more tables.
        if others and db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise TopicError(f"{self.path} is a database, but no log")
        db.execute(f"PRAGMA page_size = {PAGE}")
        deadline = time.monotonic() + self._wait
        while True:
            try:
                # SQLite does not wait by itself for whoever else is changing the mode.
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(NAP)
        with self._writing():
            db.execute(
                "CREATE TABLE IF NOT EXISTS topic (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
                " partitions INTEGER NOT NULL, seq INTEGER NOT NULL, append_time INTEGER NOT NULL,"
                " bytes INTEGER NOT NULL, placed INTEGER NOT NULL, begins BLOB NOT NULL, ends BLOB NOT NULL)"
            )
            db.execute(
                "CREATE TABLE IF NOT EXISTS place (topic INTEGER NOT NULL, seq INTEGER NOT NULL, ends BLOB NOT NULL,"
                " PRIMARY KEY (topic, seq)) WITHOUT ROWID"
            )
            db.execute(f"PRAGMA application_id = {_APPLICATION}")
            db.execute(f"PRAGMA user_version = {_VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that holds the file's write lock from its start."""
        db = self._connection
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def _topic(self, topic: str) -> tuple[int, int]:
        try:
            return self._topics[topic]
        except KeyError:
            raise TopicError(f"there is no topic {topic!r}: {nearest(topic, self._topics)}") from None

    def grow(self, partitions: int) -> None:
        """Give every topic so many partitions, all at once; the new ones are empty. What is there stays where it is."""
        with self._lock, translated(self.path), self._writing():
            db = self._connection
            for number, count in db.execute("SELECT id, partitions FROM topic").fetchall():
                if count > partitions:
                    raise TopicError(f"{self.path}: a topic has {count} partitions already, more than {partitions}")
                more = blob([0] * (partitions - count))
                db.execute(
                    "UPDATE topic SET partitions = ?, begins = CAST(begins || ? AS BLOB), ends = CAST(ends || ? AS BLOB) WHERE id = ?",
                    (partitions, more, more, number),
                )
                db.execute("UPDATE place SET ends = CAST(ends || ? AS BLOB) WHERE topic = ?", (more, number))
        self._topics = {name: (number, partitions) for name, (number, _) in self._topics.items()}

    def partitions(self, topic: str) -> int:
        """The topic's partition count. TopicError if there is no such topic."""
        return self._topic(topic)[1]

    def append(self, topic: str, records: Sequence[Record]) -> list[int]:
        """Append in order, all or nothing; each record's offset. Unavailable: nothing of it is there, try again."""
        number, count = self._topic(topic)
        if not records:
            return []
        for record in records:
            if not 0 <= record.partition < count:
                raise TopicError(f"topic {topic} has {count} partitions: there is no {record.partition}")
        with self._lock, translated(self.path), self._writing():
            db = self._connection
            seq, last, size, placed, raw = db.execute(
                "SELECT seq, append_time, bytes, placed, ends FROM topic WHERE id = ?", (number,)
            ).fetchone()
            if seq - placed >= _PLACE_EVERY:
                db.execute("INSERT INTO place VALUES (?, ?, ?)", (number, seq, raw))
                placed = seq
            moment = max(times.now(), last)
            ends = vector(raw)
            offsets: list[int] = []
            rows = []
            for partition, value, key in records:
                seq += 1
                offset = ends[partition]
                ends[partition] = offset + 1
                offsets.append(offset)
                rows.append((seq, partition, offset, moment, key, value))
                size += len(value) + len(key)
            db.executemany(f"INSERT INTO message_{number} VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608 -- a number of ours
            db.execute(
                "UPDATE topic SET seq = ?, append_time = ?, bytes = ?, placed = ?, ends = ? WHERE id = ?",
                (seq, moment, size, placed, blob(ends), number),
            )
        return offsets

    def consumer(self, topic: str, offsets: Mapping[int, int]) -> EmbeddedConsumer:
        """A consumer of these partitions, each from the offset given (the next to read).

        TopicError where an offset lies behind the partition's end: that log is not the one that was read before.
        """
        number, count = self._topic(topic)
        ends = self.end(topic)
        for partition, offset in offsets.items():
            if not 0 <= partition < count:
                raise TopicError(f"topic {topic} has {count} partitions: there is no {partition}")
            if offset > ends[partition]:
                raise TopicError(
                    f"{self.path}: partition {partition} of {topic} ends at {ends[partition]}, so {offset} was never read from it:"
                    " the log is another one, or an older copy"
                )
        with translated(self.path):
            return EmbeddedConsumer(self.path, connect(self.path, self._wait), number, dict(offsets), count)

    def begin(self, topic: str) -> list[int]:
        """The oldest offset kept, of each partition (where nothing is kept: the end)."""
        return self._state(topic, "begins")

    def end(self, topic: str) -> list[int]:
        """The offset that the next record of each partition will get."""
        return self._state(topic, "ends")

    def _state(self, topic: str, column: str) -> list[int]:
        number, _ = self._topic(topic)
        with self._lock, translated(self.path):
            query = f"SELECT {column} FROM topic WHERE id = ?"  # noqa: S608 -- a column of ours
            return vector(self._connection.execute(query, (number,)).fetchone()[0])

    def size(self, topic: str) -> int:
        """Bytes of the keys and values kept."""
        number, _ = self._topic(topic)
        with self._lock, translated(self.path):
            (size,) = self._connection.execute("SELECT bytes FROM topic WHERE id = ?", (number,)).fetchone()
        return int(size)

    def retention(self, before: int = times.MIN_TIME, max_bytes: int | None = None, topic: str | None = None) -> int:
        """Remove what was appended before a time, and the oldest of what exceeds a size; how many messages went.

        Goes in bounded chunks, so that writers wait for a moment at most. Offsets are not used again: `begin` moves. The file does
        not shrink, its space is used again.
        """
        gone = 0
        for name in self._topics if topic is None else (topic,):
            number, _ = self._topic(name)
            while True:
                started = time.monotonic()
                with self._lock, translated(self.path), self._writing():
                    removed = self._remove(number, before, max_bytes)
                if not removed:
                    break
                gone += removed
                time.sleep(min(time.monotonic() - started, 0.1))
        return gone

    def remove(self, topic: str, messages: int) -> None:
        """Remove the oldest messages of a topic."""
        number, _ = self._topic(topic)
        with self._lock, translated(self.path), self._writing():
            while messages > 0:
                removed = self._remove(number, times.MAX_TIME, None, messages)
                messages = messages - removed if removed else 0

    def _remove(self, number: int, before: int, max_bytes: int | None, limit: int = _CHUNK_MESSAGES) -> int:
        db = self._connection
        size, raw = db.execute("SELECT bytes, begins FROM topic WHERE id = ?", (number,)).fetchone()
        begins = vector(raw)
        removed = freed = 0
        upto = 0
        for seq, partition, offset, moment, length in db.execute(
            "SELECT seq, partition, offset, append_time, length(key) + length(value)"  # noqa: S608 -- a number of ours
            f" FROM message_{number} ORDER BY seq LIMIT {min(limit, _CHUNK_MESSAGES)}"
        ).fetchall():
            too_old = moment < before
            too_much = max_bytes is not None and size - freed > max_bytes
            if not (too_old or too_much) or freed > _CHUNK_BYTES:
                break
            upto = seq
            removed += 1
            freed += length
            begins[partition] = offset + 1
        if removed:
            db.execute(f"DELETE FROM message_{number} WHERE seq <= ?", (upto,))  # noqa: S608 -- a number of ours
            db.execute("DELETE FROM place WHERE topic = ? AND seq <= ?", (number, upto))
            db.execute("UPDATE topic SET bytes = ?, begins = ? WHERE id = ?", (size - freed, blob(begins), number))
        return removed

    def close(self) -> None:
        """Close the file. Consumers are closed by themselves."""
        with self._lock:
            self._connection.close()
