"""Where events go: the store, publishers that are waited for, and publishers with a queue of their own.

A publisher whose policy is to queue or to drop (nephoscope.publishers) holds nothing up: it has a queue and a thread, as with samples. What its queue has not got
rid of lies in the log: the place that is noted for this publisher stays before it, and it alone gets it again after a restart.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from flows.outlet import LAST_SECONDS, PUBLISHER_COUNTS, Stopped
from flows.queue import Queue
from flows.tickets import Ticket
from nephoscope import publishers
from nephoscope.dead_letters import DeadLetter
from nephoscope.errors import NephoscopeError, StoreError, Unavailable
from nephoscope.event import Event
from nephoscope.health import Health
from nephoscope.lifetimes import Lifetimes
from nephoscope.metrics import Counts
from nephoscope.pipeline import STORE
from nephoscope.store import EventPublisher, Refused, Store

Place = dict[int, int]
"""The next offset of each partition."""
PART = "events"


class EventPiece:
    """Some events, as a queue wants them."""

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.num_rows = len(events)
        self.nbytes = sum(len(e.raw) + 100 * len(e.traits) for e in events)

    def slice(self, offset: int = 0, length: int | None = None) -> EventPiece:
        """Some of them."""
        return EventPiece(self.events[offset : None if length is None else offset + length])


class _ForQueue:
    """A publisher of events, as a queue wants one."""

    def __init__(self, publisher: EventPublisher) -> None:
        self._publisher = publisher
        self.discard = publisher.discard
        self.close = publisher.close

    def publish(self, pieces: Sequence[Any]) -> None:
        self._publisher.publish_events([event for piece in pieces for event in piece.events])

    def flush(self) -> None:
        try:
            self._publisher.flush()
        except Refused as error:
            refused: list[Any] = [EventPiece(error.events)]
            raise Refused(str(error), refused) from error


class _Ear:
    """What a queue tells, for /ready and /metrics."""

    def __init__(self, health: Health | None) -> None:
        self.counts = Counts("events")
        self._health = health

    def publisher(self, name: str, report: Callable[[], Mapping[str, Any]]) -> None:
        if self._health is not None:
            self._health.look(name, lambda: (True, report()), needed=False)

    def away(self, part: str, error: Exception, *, kind: str = "", needed: bool = True) -> None:
        self.counts.failed(kind or "unavailable")
        if self._health is not None:
            self._health.away(part, str(error), needed=needed)

    def back(self, part: str) -> None:
        if self._health is not None:
            self._health.back(part)


class EventOutlets:
    """Takes events for URLs. One thread uses it.

    Args:
        opened: opens the configured store.
        bury: puts dead letters where they belong.
        stop: ends all waiting.
        health: is told what is away.
        secret: for publishers that sign.
        lifetimes: for publishers that are stores.

    """

    def __init__(
        self,
        opened: Callable[[], Store],
        bury: Callable[[Sequence[DeadLetter]], None],
        stop: threading.Event,
        health: Health | None,
        secret: str,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self._lifetimes = lifetimes
        self._opened, self._bury, self._stop, self._health, self._secret = opened, bury, stop, health, secret
        self._ear = _Ear(health)
        self.counts = self._ear.counts
        self._store: Store | None = None
        self._publishers: dict[str, EventPublisher] = {}
        self._queues: dict[str, Queue | None] = {}
        self._names: dict[str, str] = {}
        self._waiting: dict[str, deque[tuple[Ticket, Place]]] = {}

    def put(self, url: str, events: list[Event], begin: Place) -> None:
        """Have a publisher get events, read from these offsets on. Raises Stopped."""
        if url == STORE:
            self.persist(lambda: self._write(events), STORE)
            self.counts.sent(len(events))
            return
        queue = self.queue(url)
        if queue is None:
            self._pass_on(url, events)
            return
        piece: Any = EventPiece(events)
        ticket = Ticket(url, piece)
        self._waiting.setdefault(url, deque()).append((ticket, begin))
        queue.put([ticket])

    def queue(self, url: str) -> Queue | None:
        """A publisher's queue; None where its policy is to wait."""
        if url not in self._queues:
            _, delivery = publishers.delivery_of(url)
            label = self._names[url] = self._name(publishers.label_of(url))
            self._queues[url] = None
            if delivery.policy != publishers.WAIT:
                self._queues[url] = Queue(label, partial(self._open, url), delivery, self._ear, "events")
        return self._queues[url]

    def has_queue(self, url: str) -> bool:
        """Whether a publisher has been used, and has a queue."""
        return self._queues.get(url) is not None

    def place(self, url: str, read: Place) -> Place:
        """How far a publisher with a queue is, where all has been read up to `read`."""
        waiting = self._waiting.get(url, deque())
        while waiting and waiting[0][0].left <= 0:
            waiting.popleft()
        place = dict(read)
        for _, begin in reversed(waiting):
            place.update(begin)
        return place

    def persist(self, work: Callable[[], object], what: str) -> None:
        """Call until it succeeds. Raises Stopped."""
        pause = 0.1
        while True:
            try:
                work()
            except Unavailable as error:
                self._ear.away(PART, NephoscopeError(f"{what}: {error}"))
            else:
                self._ear.back(PART)
                return
            if self._stop.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311 -- jitter, not secrecy
                raise Stopped(f"stopped while {what} was away")
            pause = min(2 * pause, 10.0)

    def close(self) -> None:
        """Close everything. Queues have LAST_SECONDS together to empty."""
        until = time.monotonic() + LAST_SECONDS
        queues = [queue for queue in self._queues.values() if queue is not None]
        for queue in queues:
            queue.end()
        for queue in queues:
            queue.close(until)
        for one in (*self._publishers.values(), self._store):
            if one is not None:
                try:
                    one.close()
                except NephoscopeError as error:
                    self._ear.away(PART, error)

    def _name(self, label: str) -> str:
        """Told apart from the same publisher in the pipeline of samples, and from others that look alike."""
        names = [f"events {label}", *(f"events {label} ({n})" for n in range(2, 1000))]
        return next(name for name in names if name not in self._names.values())

    def _open(self, url: str) -> Any:
        return _ForQueue(self._opened_publisher(url))

    def _opened_publisher(self, url: str) -> EventPublisher:
        publisher: Any = publishers.open_publisher(url, self._secret, self._lifetimes)
        return publisher  # type: ignore[no-any-return]  # what the pipeline's check has seen to

    def _write(self, events: list[Event]) -> None:
        if self._store is None:
            self._store = self._opened()
        self._store.write_events(events)

    def _pass_on(self, url: str, events: list[Event]) -> None:
        """Have a publisher take events, however long that takes. What it refuses for good goes to the dead letters."""
        name = self._names[url]
        PUBLISHER_COUNTS.received(len(events))
        taken, refused = False, 0

        def work() -> None:
            nonlocal taken, refused
            publisher = self._publishers.get(url)
            if publisher is None:
                publisher = self._publishers[url] = self._opened_publisher(url)
            try:
                if not taken:
                    publisher.publish_events(events)
                    taken = True
                publisher.flush()
            except Unavailable:
                raise
            except StoreError as error:
                lost = error.events if isinstance(error, Refused) else events
                if not isinstance(error, Refused):
                    publisher.discard()
                refused = len(lost)
                PUBLISHER_COUNTS.dropped(refused, "refused", name)
                self._bury([_letter(event, error) for event in lost])

        self.persist(work, name)
        PUBLISHER_COUNTS.sent(len(events) - refused)
        self.counts.sent(len(events) - refused)


def _letter(event: Event, error: StoreError) -> DeadLetter:
    return DeadLetter(
        reason="publisher_refused", detail=str(error), data=msgspec.json.encode(event), key=event.message_id[:1000]
    )
