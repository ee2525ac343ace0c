"""From a queue to the topics: notifications are fetched, made into samples and events, appended, and only then acknowledged.

Guarantee: at least once, and once in effect. A notification that is fetched again makes the same ids, and the flow and the stores keep the
first. What can be read but not used lies in the dead letters before it is acknowledged.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from nephoscope import times
from nephoscope.batch import PUSHED
from nephoscope.dead_letters import DeadLetter, bury
from nephoscope.errors import NephoscopeError, SampleError, StoreError, Unavailable
from nephoscope.event import MAX_NAME, Event, check_event
from nephoscope.event_messages import event_records
from nephoscope.metrics import Counts
from nephoscope.push import MAX_SAMPLE_BYTES, records_of, too_large
from nephoscope.sample import Sample
from nephoscope.times import SECOND
from nephoscope.topics import EVENTS, SAMPLES, Log
from sources.notifications.envelope import Notification, Opener
from sources.notifications.events import Events
from sources.notifications.meters import Made as Outcome
from sources.notifications.meters import Meters

_log = logging.getLogger(__name__)
FETCH = 1000
"""Notifications that are put on the topics together, at most."""
WINDOW = 0.1
"""Seconds that a notification waits for others."""


_TOGETHER = 100
"""Notifications that are taken through each step together: few enough for the processor's cache."""
_SURELY_SHORT = MAX_NAME // 4
"""Characters of a name whose bytes need no counting."""


class Delivery(NamedTuple):
    """A message, where it came from (for dead letters), and what its feed acknowledges it by."""

    body: bytes
    origin: str
    token: Any


class Feed(Protocol):
    """Where messages come from. Used by one thread. Raises Unavailable where what serves it is away."""

    def fetch(self, limit: int, wait: float) -> list[Delivery]:
        """Up to `limit` messages: those that come until `wait` seconds after the first, or nothing for about a second."""
        ...

    def keep_up(self) -> None:
        """Take in what has come meanwhile, without waiting, for the next `fetch`: called between two pieces of work."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """All of what the last `fetch` gave is done with."""
        ...

    def close(self) -> None:
        """Give back what it holds; what was not acknowledged goes to others."""
        ...


class Made(NamedTuple):
    """What notifications came to."""

    samples: list[Sample]
    events: list[Event]
    letters: list[DeadLetter]


Wrong = list[tuple[str, str]]
"""Traits that could not be taken, each with what is wrong."""


def _nothing() -> None:
    """Between two pieces of work."""


def _none(_: Notification) -> tuple[None, Wrong]:
    """The event where none is wanted."""
    return None, []


class Maker:
    """Makes samples and events of messages.

    Args:
        meters: makes the samples.
        events: makes the events; None: none are wanted.
        counts: dropped by reason, and what else there is to tell.
        max_message_bytes: a longer message goes to the dead letters unread.
        max_sample_bytes: so does a notification of which a sample is larger.
        max_future: seconds that a notification may be ahead of the clock.

    """

    def __init__(
        self,
        meters: Meters,
        events: Events | None,
        counts: Counts,
        *,
        max_message_bytes: int = 8 << 20,
        max_sample_bytes: int = MAX_SAMPLE_BYTES,
        max_future: float = 3600.0,
    ) -> None:
        self._meters = meters
        self._events = events
        self._counts = counts
        self._max_message_bytes = max_message_bytes
        self._max_sample_bytes = max_sample_bytes
        # A character is 4 bytes at most, and JSON that is read holds no half of a surrogate pair.
        self._surely_small = max_sample_bytes // 4
        self._max_future = round(max_future * SECOND)
        self._open = Opener(meters.wanted | (events.wanted if events is not None else set())).open

    def make(self, deliveries: Sequence[Delivery], between: Callable[[], None] = _nothing) -> Made:
        """The samples and events of some messages, in their order, and the dead letters. `between`: is called after every hundred of them."""
        made = Made([], [], [])
        for start in range(0, len(deliveries), _TOGETHER):
            self._some(deliveries[start : start + _TOGETHER], made)
            between()
        return made

    def _some(self, deliveries: Sequence[Delivery], made: Made) -> None:
        """All are opened, then all samples are made, then all events: each time the processor goes through the same code again."""
        latest = times.now() + self._max_future
        opened: list[tuple[Delivery, Notification]] = []
        for delivery in deliveries:
            try:
                opened.append((delivery, self._opened(delivery.body, latest)))
            except SampleError as error:
                self._bury(made, delivery, error.reason, str(error))
        try:
            outcomes = self._outcomes([notification for _, notification in opened])
        except SampleError:
            # One of them cannot be read in full: which, is found one by one.
            for one in opened:
                try:
                    self._take(*one, *self._outcomes([one[1]])[0], made)
                except SampleError as error:
                    self._bury(made, one[0], error.reason, str(error))
            return
        for (delivery, notification), outcome in zip(opened, outcomes, strict=True):
            self._take(delivery, notification, *outcome, made)

    def _opened(self, body: bytes, latest: int) -> Notification:
        if len(body) > self._max_message_bytes:
            raise SampleError("too_large", f"{len(body)} bytes; the limit is {self._max_message_bytes}")
        notification = self._open(body)
        if notification.timestamp > latest:
            at = times.format_time(notification.timestamp)
            raise SampleError("future", f"{notification.event_type} is of {at}, further ahead than max_future")
        return notification

    def _outcomes(self, notifications: Sequence[Notification]) -> list[tuple[Outcome, tuple[Event | None, Wrong]]]:
        """The samples and the event of each. Raises SampleError."""
        samples = list(map(self._meters.samples, notifications))
        return list(zip(samples, map(self._events.event if self._events else _none, notifications), strict=True))

    def _take(
        self,
        delivery: Delivery,
        notification: Notification,
        found: Outcome,
        event: tuple[Event | None, Wrong],
        made: Made,
    ) -> None:
        if found.samples:
            self._take_samples(found.samples, delivery, made)
        if found.empty:
            self._counts.dropped(found.empty, "no_volume")
        for what, reason, detail in found.refused:
            self._bury(made, delivery, reason, f"{notification.event_type}: {what}: {detail}")
        for name, detail in event[1]:
            self._counts.dropped(1, "trait")
            _log.debug("%s: trait %s: %s", notification.event_type, name, detail)
        if event[0] is not None:
            self._take_event(event[0], delivery, made)

    def _take_samples(self, samples: list[Sample], delivery: Delivery, made: Made) -> None:
        for sample in samples:
            texts = len(sample.resource_id) + len(sample.metadata) + len(sample.name) + len(sample.unit)
            if texts <= self._surely_small:
                made.samples.append(sample)
                continue
            try:
                size = too_large(self._max_sample_bytes, sample.resource_id, sample.metadata, sample.name, sample.unit)
                if size:
                    raise SampleError(
                        "too_large", f"{sample.name}: {size} bytes; the limit is {self._max_sample_bytes}"
                    )
            except (SampleError, UnicodeEncodeError) as error:
                self._bury(made, delivery, getattr(error, "reason", "text"), str(error))
            else:
                made.samples.append(sample)

    def _take_event(self, event: Event, delivery: Delivery, made: Made) -> None:
        # All else that a store asks of an event holds by the way it was made.
        if len(event.message_id) > _SURELY_SHORT or len(event.event_type) > _SURELY_SHORT:
            try:
                check_event(event)
            except StoreError as error:
                self._bury(made, delivery, "event", f"{event.event_type[:80]}: {error}")
                return
        made.events.append(event)

    def _bury(self, made: Made, delivery: Delivery, reason: str, detail: str) -> None:
        self._counts.dropped(1, reason)
        made.letters.append(DeadLetter(reason=reason, detail=f"{delivery.origin}: {detail}", data=delivery.body))


class Listener:
    """One feed's way to the log, for as long as it takes.

    Args:
        name: what it listens to, without secrets.
        opened: opens the feed; raises Unavailable where that may succeed later.
        maker: makes samples and events.
        log: where they go.
        counts: received and sent are counted here.

    """

    def __init__(self, name: str, opened: Callable[[], Feed], maker: Maker, log: Log, counts: Counts) -> None:
        self.name = name
        self._opened = opened
        self._maker = maker
        self._log = log
        self._counts = counts
        self.away = "not connected yet"
        """Why nothing can be fetched now; empty: it can."""
        self.log_away = ""
        self.error: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Listen until told to stop. `error` is what ended it otherwise."""
        wait = 0.2
        while not stop.is_set():
            try:
                feed = self._opened()
            except Unavailable as error:
                self._tell_away(error)
                stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 -- a jitter, no secret
                wait = min(2 * wait, 15.0)
                continue
            except NephoscopeError as error:
                self.error, self.away = error, str(error)
                _log.error("%s: %s", self.name, error)
                return
            wait = 0.2
            try:
                self._listen(feed, stop)
            except Unavailable as error:
                self._tell_away(error)
            finally:
                feed.close()

    def _tell_away(self, error: Unavailable) -> None:
        self._counts.failed("connection")
        if not self.away:
            _log.warning("%s: %s; trying again until it works", self.name, error)
        self.away = str(error) or "away"

    def _listen(self, feed: Feed, stop: threading.Event) -> None:
        while not stop.is_set():
            deliveries = feed.fetch(FETCH, WINDOW)
            if self.away:
                _log.info("%s: connected", self.name)
                self.away = ""
            if not deliveries:
                continue
            self._counts.received(len(deliveries))
            made = self._maker.make(deliveries, feed.keep_up)
            if not self._append(made, stop):
                return
            feed.acknowledge(deliveries)
            self._counts.sent(len(made.samples))
            self._counts.counted("events", len(made.events))

    def _append(self, made: Made, stop: threading.Event) -> bool:
        """Append, however often it takes; False: told to stop before it was done."""
        records = list(records_of(made.samples, PUSHED, self._log.partitions(SAMPLES)))
        events = list(event_records(made.events, self._log.partitions(EVENTS)))
        letters = made.letters
        wait = 0.1
        while True:
            try:
                bury(self._log, letters)
                letters = []
                if records:
                    self._log.append(SAMPLES, records)
                    records = []
                if events:
                    self._log.append(EVENTS, events)
            except Unavailable as error:
                self._counts.failed("log")
                if not self.log_away:
                    _log.warning("%s; trying again until it can", error)
                self.log_away = str(error) or "away"
                if stop.wait(wait * random.uniform(0.5, 1.0)):  # noqa: S311 -- as above
                    return False
                wait = min(2 * wait, 10.0)
            else:
                self.log_away = ""
                return True
