"""The thread that appends what was gathered, in order, for as long as it takes."""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nephoscope import times
from nephoscope.dead_letters import DeadLetter, bury
from nephoscope.errors import Unavailable
from nephoscope.metrics import Counts
from nephoscope.topics import SAMPLES, Log, Record

_log = logging.getLogger(__name__)


_GATE = 0.05
"""Seconds after which a closed gate is looked at again."""


def _open() -> bool:
    """The gate of whoever needs none."""
    return True


class Chunk(msgspec.Struct, eq=False):
    """What is appended together. `token` comes back once it is in the log."""

    records: Sequence[Record]
    letters: Sequence[DeadLetter]
    rows: int
    token: Any = None


def append(log: Log, chunk: Chunk) -> None:
    """Append one chunk. Raises as Log.append does; it may be appended again then."""
    # Letters first, and never twice for one chunk that is tried again.
    bury(log, chunk.letters)
    chunk.letters = ()
    log.append(SAMPLES, chunk.records)


class Writer:
    """Appends chunks in the order given. While the log is unavailable it tries again, later and later, and nothing overtakes.

    `error` is what ended the thread, if anything did: something that no waiting mends. `rows` have not been acknowledged yet.

    Args:
        log: where to.
        counts: sent and errors{reason="log"} are counted here.
        wake: called, from its thread, when something has been acknowledged or it has failed.
        gate: nothing is appended while this says False.
        first: seconds before the second try; doubled up to `longest`, and drawn from between half of it and all.

    """

    def __init__(
        self,
        log: Log,
        counts: Counts,
        wake: Callable[[], None],
        *,
        gate: Callable[[], bool] = _open,
        first: float = 0.1,
        longest: float = 10.0,
    ) -> None:
        self._log = log
        self._gate = gate
        self._counts = counts
        self._wake = wake
        self._first = first
        self._longest = longest
        self._chunks: deque[Chunk] = deque()
        self._done: deque[Chunk] = deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self.rows = 0
        self.away_since: int | None = None
        self.detail = ""
        self._thread = threading.Thread(target=self._run, name="nephoscope-append", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Queue a chunk."""
        with self._changed:
            self._chunks.append(chunk)
            self.rows += chunk.rows
            self._changed.notify()

    def acknowledged(self) -> list[Any]:
        """The tokens of what has come into the log since the last time."""
        out = []
        while self._done:
            chunk = self._done.popleft()
            with self._changed:
                self.rows -= chunk.rows
            out.append(chunk.token)
        return out

    @property
    def available(self) -> bool:
        """Whether the log took the last append."""
        return self.away_since is None

    @property
    def idle(self) -> bool:
        """Whether everything that was put is in the log."""
        with self._changed:
            return not self._chunks

    def close(self, timeout: float) -> bool:
        """Stop once all is in the log, or after `timeout` seconds; whether all is."""
        with self._changed:
            complete = self._changed.wait_for(lambda: not self._chunks or self.error is not None, timeout)
            self._stop.set()
            self._changed.notify_all()
        self._thread.join(timeout=1.0)
        return complete and self.error is None

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 -- handed to the agent's own thread
            self.error = error
            with self._changed:
                self._changed.notify_all()
            self._wake()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._stop.is_set())
                if self._stop.is_set():
                    return
                chunk = self._chunks[0]
            if not self._append(chunk):
                return
            self._counts.sent(chunk.rows)
            self._done.append(chunk)
            self._taken()

    def _taken(self) -> None:
        """The first chunk is dealt with."""
        with self._changed:
            self._chunks.popleft()
            self._changed.notify_all()
        self._wake()

    def _append(self, chunk: Chunk) -> bool:
        """Append, however often it takes; False: told to stop."""
        wait = self._first
        while True:
            while not self._gate():
                if self._stop.wait(_GATE):
                    return False
            try:
                append(self._log, chunk)
            except Unavailable as error:
                self._away(error)
                if self._stop.wait(wait * random.uniform(0.5, 1.0)):  # noqa: S311 -- a jitter, no secret
                    return False
                wait = min(2 * wait, self._longest)
            else:
                self._back()
                return True

    def _away(self, error: Unavailable) -> None:
        self._counts.failed("log")
        self.detail = str(error)
        if self.available:
            self.away_since = times.now()
            _log.warning("%s; trying again until it can", error)

    def _back(self) -> None:
        if not self.available:
            self.away_since = None
            _log.warning("the log can be used again")


class InlineWriter:
    """The same without a thread: it appends when it is asked what has been acknowledged. For tests and simulations."""

    error: BaseException | None = None

    def __init__(self, log: Log, counts: Counts, gate: Callable[[], bool] = _open) -> None:
        self._gate = gate
        self._log = log
        self._counts = counts
        self._chunks: deque[Chunk] = deque()
        self.away_since: int | None = None
        self.detail = ""

    @property
    def available(self) -> bool:
        """Whether the log took the last append."""
        return self.away_since is None

    @property
    def rows(self) -> int:
        """Samples that are not in the log yet."""
        return sum(chunk.rows for chunk in self._chunks)

    def put(self, chunk: Chunk) -> None:
        """Queue a chunk."""
        self._chunks.append(chunk)

    def acknowledged(self) -> list[Any]:
        """Append what can be appended; the tokens of that."""
        out = []
        while self._chunks and self._gate():
            try:
                append(self._log, self._chunks[0])
            except Unavailable as error:
                self._counts.failed("log")
                self.away_since, self.detail = self.away_since or times.now(), str(error)
                break
            self.away_since = None
            chunk = self._chunks.popleft()
            self._counts.sent(chunk.rows)
            out.append(chunk.token)
        return out

    def close(self, timeout: float) -> bool:
        """Whether all is in the log."""
        return not self._chunks
