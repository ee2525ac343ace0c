"""How much a worker reads in a turn of the engine's, and how it waits for the others. Both follow the clock; what is published does not depend on either."""

from __future__ import annotations

import math
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta
from typing import ClassVar

NAP = timedelta(milliseconds=50)
"""How long a partition that had nothing is not asked."""
LOOK_AGAIN = timedelta(seconds=5)
"""A snapshot that has samples which wait is made anew after so long, even if no message came."""
POLL = 256
"""Messages that are taken from the log at once."""
_FEWEST, _MOST = 16, 2048
"""Messages that are read in a turn of the engine's, by how long turns take."""
_SHORT, _LONG = 0.25, 1.0
"""Seconds that a turn should take: a signal to stop, a snapshot and a slow store's pressure are heard between two of them."""

_STUCK, _STEP = 0.01, 0.002
"""Seconds that a source must not have been asked for to be one that waits for other workers, and that a worker which waits sleeps at once."""


class Pace:
    """Keeps a worker that waits for others from going round and round.

    An epoch that not all workers have ended keeps the source from being asked, and the engine looks again at once, forever: with a core of its
    own, which the worker that is waited for may need. What the engine does call meanwhile are notifications: one stage of each thread asks for
    them all the time, and sleeps in them while nobody asks the source.
    """

    _of: ClassVar[dict[int, Pace]] = {}

    @classmethod
    def here(cls) -> Pace:
        """That of this thread; the engine's are not Python's: what is local to a thread is gone between two calls."""
        thread = threading.get_ident()
        if thread not in cls._of:
            cls._of[thread] = cls()
        return cls._of[thread]

    def __init__(self) -> None:
        self.asked = math.inf
        self.idle = False
        self._keeper: weakref.ref[object] | None = None

    def ask(self, *, idle: bool) -> None:
        """The source was asked just now; `idle`: it had nothing."""
        self.asked, self.idle = time.monotonic(), idle

    def keeps(self, stage: object) -> bool:
        """Whether this is the stage that keeps the pace: whoever asks first."""
        keeper = self._keeper and self._keeper()
        if keeper is None:
            self._keeper = weakref.ref(stage)
        return keeper is None or keeper is stage

    @property
    def left(self) -> float:
        """Seconds until the source, if it is not asked before, can be said to wait for other workers; 0 or less: it does."""
        return self.asked + (NAP.total_seconds() if self.idle else 0.0) + _STUCK - time.monotonic()

    def wait(self) -> None:
        """A moment, if it does."""
        if self.left <= 0:
            time.sleep(_STEP)

    def next_look(self) -> datetime:
        """When to look again."""
        left = self.left
        # In the past where it waits: the engine counts from before it slept here.
        return datetime.now(UTC) + (
            timedelta(seconds=min(left, LOOK_AGAIN.total_seconds())) if left > 0 else -LOOK_AGAIN
        )


class Budget:
    """How many messages may be read in a turn of the engine's: fewer where turns take long, more where they are short and more is there.

    A turn: every partition that is due is asked once, and what they gave goes through the whole flow.
    """

    def __init__(self) -> None:
        self._most = POLL
        self.left = POLL
        self._asked: set[int] = set()
        self._began = time.monotonic()

    def ask(self, partition: int) -> None:
        """This partition is asked: for the second time in a turn, it is the next one."""
        if partition in self._asked:
            self._turn()
        self._asked.add(partition)

    def _turn(self) -> None:
        now = time.monotonic()
        took, self._began = now - self._began, now
        # One that nothing was read in was long for some other reason.
        if took > _LONG and self.left < self._most:
            self._most = max(_FEWEST, self._most // 2)
        elif took < _SHORT and self.left <= 0:
            self._most = min(_MOST, 2 * self._most)
        self.left = self._most
        self._asked.clear()
