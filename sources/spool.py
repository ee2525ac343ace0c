"""Where an agent's samples wait while the log is away: a bounded embedded log of its own, on disk, so that a kill loses nothing.

What was spooled is sent first, oldest first, so each partition keeps its order. Where the spool is full the oldest goes, and is counted
(`spool_full`). A crash between sending and removing sends again: the samples have the same ids. What an earlier start left goes to where its resources
are now: the log may have got more partitions in the meantime.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nephoscope.batch import decode, encode_split, rows_of, split_by
from nephoscope.dead_letters import bury
from nephoscope.errors import BatchError, NephoscopeError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.partition import partitions_of
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Log, Record
from nephoscope.topics.embedded import EmbeddedLog
from sources.writer import _GATE, Chunk, Writer, _open

_log = logging.getLogger(__name__)
_AT_ONCE = 256
"""Messages that are sent together."""


class Spool:
    """The spool of one agent. For one thread.

    Args:
        path: its file.
        partitions: of the log that it stands in for.
        limit: bytes of messages; beyond it the oldest go.

    `messages` wait; `first` is the number, in the order of their coming, of the oldest one.

    """

    def __init__(self, path: Path, partitions: int, limit: int) -> None:
        self._log = EmbeddedLog(path, partitions, grow=True)
        self._limit = limit
        self.first = 0
        self.messages = sum(self._log.end(SAMPLES)) - sum(self._log.begin(SAMPLES))
        self._left = self.messages
        self._letters = sum(self._log.end(DEAD_LETTERS)) - sum(self._log.begin(DEAD_LETTERS))

    @property
    def size(self) -> int:
        """Bytes that wait."""
        return self._log.size(SAMPLES)

    @property
    def waiting(self) -> bool:
        """Whether anything waits."""
        return bool(self.messages or self._letters)

    def put(self, chunk: Chunk) -> int:
        """Keep a chunk behind all that waits; how many samples had to go for it. Raises Unavailable: the disk does not take it."""
        bury(self._log, chunk.letters)
        self._letters += len(chunk.letters)
        chunk.letters = ()
        self._log.append(SAMPLES, chunk.records)
        self.messages += len(chunk.records)
        lost = 0
        while self.messages > len(chunk.records) and self.size > self._limit:
            oldest = self._oldest(SAMPLES, 16)
            lost += sum(rows_of(r.value) for r in oldest)
            self._remove(len(oldest))
        return lost

    def send(self, log: Log) -> int:
        """Send some of what is oldest, and forget it; how many samples. Raises as Log.append does."""
        if self._letters:
            letters = self._oldest(DEAD_LETTERS, _AT_ONCE)
            log.append(DEAD_LETTERS, letters)
            self._log.remove(DEAD_LETTERS, len(letters))
            self._letters -= len(letters)
        records = self._oldest(SAMPLES, _AT_ONCE) if self.messages else []
        if records:
            count = self._log.partitions(SAMPLES)
            left, rest = records[: self._left], records[self._left :]
            log.append(SAMPLES, [placed for record in left for placed in _placed(record, count)] + rest)
            self._remove(len(records))
        return sum(rows_of(r.value) for r in records)

    def _oldest(self, topic: str, limit: int) -> list[Record]:
        consumer = self._log.consumer(topic, dict(enumerate(self._log.begin(topic))))
        try:
            return [Record(m.partition, m.value, m.key) for m in consumer.poll(limit)]
        finally:
            consumer.close()

    def _remove(self, count: int) -> None:
        self._log.remove(SAMPLES, count)
        self.messages -= count
        self._left = max(0, self._left - count)
        self.first += count

    def close(self) -> None:
        """Close the file."""
        self._log.close()


def _placed(record: Record, partitions: int) -> Iterator[Record]:
    """A message as those that its rows are in where there are so many partitions."""
    try:
        batch = decode(record.value)
    except BatchError:
        yield record  # The flow says what is wrong with it.
        return
    resources = batch.rows.column("resource_id")
    homes = np.array(partitions_of(resources.dictionary.to_pylist(), partitions), np.int64)[
        resources.indices.to_numpy()
    ]
    if (homes == record.partition).all():
        yield record
        return
    for number, part in split_by(batch, homes.tolist()).items():
        for message in encode_split(part):
            yield Record(number, message)


class SpoolingWriter(Writer):
    """A Writer that puts what the log does not take into a spool, and sends that first.

    A chunk counts as acknowledged when the log has it, or when it had to leave a full spool, which is counted. What waits when the
    writer is closed is sent by the next one.
    """

    def __init__(
        self,
        log: Log,
        counts: Counts,
        wake: Callable[[], None],
        spool: Spool,
        *,
        gate: Callable[[], bool] = _open,
        **more: Any,
    ) -> None:
        self._spool = spool
        self._spooled: deque[tuple[int, Chunk]] = deque()
        self._pause = 0.0
        self._again = 0.0
        self.spooled_rows = 0
        super().__init__(log, counts, wake, gate=gate, **more)

    def _work(self) -> None:
        try:
            while True:
                with self._changed:
                    wait = max(0.0, self._again - time.monotonic()) if self._spool.waiting else None
                    self._changed.wait_for(lambda: self._chunks or self._stop.is_set(), wait)
                    chunk = self._chunks[0] if self._chunks else None
                    if self._stop.is_set() and chunk is None:
                        return
                if not self._gate():
                    if self._stop.wait(_GATE):
                        return
                elif self._spool.waiting and time.monotonic() >= self._again:
                    self._send()
                elif chunk is not None:
                    self._deal_with(chunk)
        finally:
            if self._spool.messages:
                _log.warning("%d messages wait in the spool for the next start", self._spool.messages)
            self._spool.close()

    def _send(self) -> None:
        try:
            sent = self._spool.send(self._log)
        except Unavailable as error:
            self._hold_back(error)
            return
        self._back()
        self._pause = self._again = 0.0
        self._counts.sent(sent)
        self._settle()

    def _deal_with(self, chunk: Chunk) -> None:
        """Into the log, where nothing is before it; else into the spool."""
        if not self._spool.waiting:
            try:
                bury(self._log, chunk.letters)
                chunk.letters = ()
                self._log.append(SAMPLES, chunk.records)
            except Unavailable as error:
                self._hold_back(error)
            else:
                self._back()
                self._counts.sent(chunk.rows)
                self._done.append(chunk)
                self._taken()
                return
        try:
            lost = self._spool.put(chunk)
        except NephoscopeError as error:
            # Then it waits in memory, as it would without a spool.
            self._counts.failed("spool")
            _log.warning("the spool takes nothing: %s", error)
            self._stop.wait(self._longest / 10)
            return
        if lost:
            self._counts.dropped(lost, "spool_full")
            _log.warning("the spool is full: the oldest %d samples are lost", lost)
        self._counts.counted("spooled", chunk.rows, "Samples that had to wait on disk for the log.")
        chunk.records = ()
        self._spooled.append((self._spool.first + self._spool.messages, chunk))
        with self._changed:
            # They wait on disk, not in memory.
            self.rows -= chunk.rows
            self.spooled_rows += chunk.rows
        self._settle()
        self._taken()

    def _hold_back(self, error: Unavailable) -> None:
        self._away(error)
        self._pause = min(2 * self._pause or self._first, self._longest)
        self._again = time.monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311 -- a jitter, no secret

    def _settle(self) -> None:
        """What has left the spool is acknowledged."""
        while self._spooled and self._spooled[0][0] <= self._spool.first:
            chunk = self._spooled.popleft()[1]
            with self._changed:
                self.rows += chunk.rows  # Taken off again by whoever hears of it.
                self.spooled_rows -= chunk.rows
            self._done.append(chunk)
        self._wake()
