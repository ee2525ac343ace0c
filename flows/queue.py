"""A publisher that may be away: its queue, and the thread that empties it.

Order is kept: what was put first goes out first, and what failed goes out again before what came after it. Memory is bounded by
`max_queue_length` samples that wait, and BYTES of them; at most TOGETHER more are on their way.

A full queue of a publisher that works is waited for, up to PATIENCE seconds. Where that makes no room, or the publisher is away, its oldest
samples are dropped, counted and told of at a limited rate; and it is not waited for again until its queue is half empty: it holds nothing up.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from flows.tickets import Ticket
from nephoscope.errors import NephoscopeError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.publishers import DROP, Delivery
from nephoscope.store import Publisher, Refused

_log = logging.getLogger(__name__)
PATIENCE = 1.0
"""Seconds that a flow waits for room in the queue of a publisher that works."""
BYTES = 256 << 20
TOGETHER = 5_000
"""Samples that go out in one call."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_LONGEST_ASKED = 300.0
_TELL_EVERY = 60.0


class Hears(Protocol):
    """Who is told how a queue stands: the flow's Monitor."""

    counts: Counts

    def publisher(self, name: str, report: Callable[[], Mapping[str, Any]]) -> None:
        """There is this publisher, and who tells what waits in its queue."""
        ...

    def away(self, part: str, error: Exception, *, kind: str = "", needed: bool = True) -> None:
        """It cannot be used now."""
        ...

    def back(self, part: str) -> None:
        """It works."""
        ...


class Waiting:
    """What one publisher has not got yet, in the order of the flow: (ticket, some of its rows)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows = self.bytes = 0
        self._pieces: deque[tuple[Ticket, pa.RecordBatch]] = deque()

    def has_room(self, rows: pa.RecordBatch) -> bool:
        """Whether these may wait too. An empty queue takes anything."""
        fits = self.rows + rows.num_rows <= self.most and self.bytes + rows.nbytes <= BYTES
        return fits or not self._pieces

    def add(self, ticket: Ticket, rows: pa.RecordBatch) -> None:
        """These wait."""
        self._pieces.append((ticket, rows))
        self.rows += rows.num_rows
        self.bytes += rows.nbytes

    def take(self) -> tuple[Ticket, pa.RecordBatch]:
        """The oldest."""
        ticket, rows = self._pieces.popleft()
        self.rows -= rows.num_rows
        self.bytes -= rows.nbytes
        return ticket, rows


class Queue:
    """One publisher's.

    Args:
        name: what it is called in logs, in metrics and on /ready.
        make: opens it.
        delivery: its policy and bounds.
        monitor: hears of what is away.
        what: what goes through it, in words.

    """

    def __init__(
        self, name: str, make: Callable[[], Publisher], delivery: Delivery, monitor: Hears, what: str = "samples"
    ) -> None:
        self.name = name
        self._what = what
        self._make, self._delivery, self._monitor = make, delivery, monitor
        self._publisher: Publisher | None = None
        self._counts, self._flow = Counts("publisher", ("publisher",)), monitor.counts
        self._change = threading.Condition()
        self._waiting = Waiting(delivery.max_queue_length)
        self._piece = max(1, min(TOGETHER, delivery.max_queue_length))
        self._under_way: list[tuple[Ticket, pa.RecordBatch]] = []
        self._failing = self._too_slow = False
        self._closing = threading.Event()
        self._pause = self._asked = 0.0
        self._told, self._untold = float("-inf"), 0
        monitor.publisher(name, self._report)
        self._thread = threading.Thread(target=self._run, name=f"nephoscope-publish {name}", daemon=True)
        self._thread.start()

    def put(self, tickets: Iterable[Ticket]) -> None:
        """These are to go out, in this order. Waits for PATIENCE seconds at most, and not for what is away."""
        until = time.monotonic() + PATIENCE
        with self._change:
            for ticket in tickets:
                self._counts.received(ticket.left)
                for start in range(0, ticket.rows.num_rows, self._piece):
                    self._put(ticket, ticket.rows.slice(start, self._piece), until)
            self._change.notify_all()

    def _put(self, ticket: Ticket, rows: pa.RecordBatch, until: float) -> None:
        waiting = self._waiting
        while not waiting.has_room(rows):
            left = until - time.monotonic()
            if not self._failing and not self._too_slow and left > 0:
                self._change.notify_all()
                self._change.wait(left)
                continue
            self._too_slow = True
            while not waiting.has_room(rows):
                self._drop([waiting.take()], "queue_full")
        waiting.add(ticket, rows)

    def end(self) -> None:
        """Nothing more comes: send what waits, as long as that works."""
        with self._change:
            self._closing.set()
            self._change.notify_all()

    def close(self, until: float) -> None:
        """Wait for the end, up to this moment (monotonic); what is left is told of."""
        self.end()
        self._thread.join(max(0.0, until - time.monotonic()))
        with self._change:
            self._tell("")
            left = self._waiting.rows + sum(rows.num_rows for _, rows in self._under_way)
            if not left:
                return
            if self._delivery.policy == DROP:
                self._counts.dropped(left, "stopped", self.name)
                _log.warning("%s: %d %s were not delivered, and are dropped", self.name, left, self._what)
            else:
                where = "in the flow's snapshot" if self._what == "samples" else "in the log"
                _log.warning("%s: %d %s were not delivered; they wait %s", self.name, left, self._what, where)

    # -- the thread

    def _run(self) -> None:
        while self._gather():
            self._deliver([rows for _, rows in self._under_way])
            if self._failing and self._closing.is_set():
                break
        if self._publisher is not None:
            try:
                if self._failing:
                    self._discard()
                self._publisher.close()
            except Exception:  # noqa: BLE001 - a bug of a publisher's; what waits is told of all the same
                _log.warning("%s could not be closed", self.name, exc_info=True)

    def _gather(self) -> bool:
        """Wait for something to send; False: there will be nothing more."""
        with self._change:
            while not self._waiting.rows:
                if self._closing.is_set():
                    return False
                self._change.wait()
            size = 0
            while self._waiting.rows and size < TOGETHER:
                ticket, rows = self._waiting.take()
                self._under_way.append((ticket, rows))
                size += rows.num_rows
            if self._waiting.rows <= self._waiting.most // 2:
                self._too_slow = False
            self._change.notify_all()
            return True

    def _deliver(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Until they are out, refused, or given up; or the flow stops."""
        whole = sum(b.num_rows for b in batches)
        taken, tries = False, 0
        while True:
            try:
                if self._publisher is None:
                    self._publisher = self._make()
                if not taken:
                    self._publisher.publish(batches)
                    taken = True
                self._publisher.flush()
            except Refused as error:
                refused = sum(r.num_rows for r in error.rows)
                self._works()
                self._done(whole - refused, refused, "refused", error)
                return
            except Exception as error:  # noqa: BLE001 - a bug of a publisher's must not end the thread unheard
                if isinstance(error, NephoscopeError) and not isinstance(error, Unavailable) and self._publisher:
                    lost = min(whole, self._discard()) if taken else whole
                    self._done(whole - lost, lost, "refused", error)
                    return
                self._fails(error)
            else:
                self._works()
                self._done(whole)
                return
            tries += 1
            most = 0 if self._delivery.policy == DROP else self._delivery.max_retries
            gave_up = most is not None and tries > most
            if gave_up:
                lost = min(whole, self._discard()) if taken else whole
                self._done(whole - lost, lost, "given_up", None)
            if self._closing.wait(max(self._asked, self._pause * random.uniform(0.5, 1.0))) or gave_up:  # noqa: S311 - jitter, not secrecy
                return

    def _discard(self) -> int:
        """Have the publisher forget what it holds. How many samples that were."""
        publisher = self._publisher
        if publisher is None:
            return 0
        if hasattr(publisher, "discard"):
            return publisher.discard()
        self._publisher = None
        return sum(rows.num_rows for _, rows in self._under_way)

    def _fails(self, error: Exception) -> None:
        if not self._failing:
            if isinstance(error, NephoscopeError):
                _log.warning("%s is away, trying again until it is there: %s", self.name, error)
            else:
                _log.error("%s failed, trying again", self.name, exc_info=error)
        self._pause = min(2 * self._pause or _FIRST_PAUSE, _LONGEST_PAUSE)
        self._asked = min(error.after, _LONGEST_ASKED) if isinstance(error, Unavailable) else 0.0
        self._counts.failed("unavailable" if isinstance(error, NephoscopeError) else "bug")
        self._monitor.away(self.name, error, needed=False)
        with self._change:
            self._failing = True
            self._change.notify_all()

    def _works(self) -> None:
        if self._failing:
            _log.warning("%s is there again", self.name)
        self._failing, self._pause = False, 0.0
        self._monitor.back(self.name)

    def _done(self, sent: int, lost: int = 0, reason: str = "", error: Exception | None = None) -> None:
        with self._change:
            for ticket, rows in self._under_way:
                ticket.left -= rows.num_rows
            self._under_way.clear()
            if sent:
                self._counts.sent(sent)
                self._flow.sent(sent)
            if lost:
                self._lost(lost, reason, error)
            self._change.notify_all()

    def _drop(self, pieces: Iterable[tuple[Ticket, pa.RecordBatch]], reason: str) -> None:
        for ticket, rows in pieces:
            ticket.left -= rows.num_rows
            self._lost(rows.num_rows, reason, None)

    def _lost(self, count: int, reason: str, error: Exception | None) -> None:
        self._counts.dropped(count, reason, self.name)
        self._untold += count
        if time.monotonic() - self._told >= _TELL_EVERY:
            self._tell(f"{reason}: {error}" if error else reason)

    def _tell(self, why: str) -> None:
        if self._untold:
            more = f" ({why})" if why else ""
            _log.warning("%s: %d %s were dropped%s", self.name, self._untold, self._what, more)
            self._told, self._untold = time.monotonic(), 0

    def _report(self) -> dict[str, Any]:
        """What there is to say of it now."""
        with self._change:
            return {"queued": self._waiting.rows + sum(rows.num_rows for _, rows in self._under_way)}
