"""Where a flow's output goes: the store, the publishers, the dead letters.

Guarantee: `take` returns once the store has what is for it and every publisher has flushed. A store that is away is tried again, with back-off,
until it is there or the flow is told to stop: meanwhile nothing else is taken from the log, and nothing is lost.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from threading import Event
from typing import Any

import pyarrow as pa

from flows.monitor import Monitor
from flows.stage import Dead, Output
from nephoscope import registry
from nephoscope.dead_letters import DeadLetter, Origin, bury
from nephoscope.errors import NephoscopeError, StoreError, Unavailable
from nephoscope.health import Health
from nephoscope.pipeline import STORE, resolve_publisher, scheme_of
from nephoscope.settings import Settings
from nephoscope.store import Positioned, Publisher, Store
from nephoscope.topics import SAMPLES, Log

_log = logging.getLogger(__name__)
PARTS = ("store", "log")
"""What a flow cannot do without."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class Stopped(NephoscopeError):
    """The flow was told to stop while a sink was away; what it could not take comes again after the restart."""


def open_publisher(url: str) -> Publisher:
    """The publisher of a URL, through the registry."""
    whole = url if "://" in url else f"{url}://"
    made: Publisher = registry.load(registry.PUBLISHER, scheme_of(url))(whole)
    return made


def is_positioned(url: str) -> bool:
    """Whether a publisher keeps its place in the flow's snapshot (nephoscope.store.Positioned)."""
    if resolve_publisher(url) == STORE:
        return False
    return issubclass(registry.load(registry.PUBLISHER, scheme_of(url)), Positioned)


def persist(work: Callable[[], Any], part: str, stop: Event, monitor: Monitor) -> Any:
    """Call until it succeeds, pausing longer and longer where the part is away. Raises Stopped, or what will never succeed."""
    pause = _FIRST_PAUSE
    what = f"the {part}" if part in PARTS else part
    away_since = None
    while True:
        try:
            done = work()
        except Unavailable as error:
            monitor.away(part, error)
            if away_since is None:
                away_since = time.monotonic()
                _log.warning("%s is away, trying again until it is there: %s", what, error)
        else:
            monitor.back(part)
            if away_since is not None:
                _log.warning("%s is there again, after %.1f s", what, time.monotonic() - away_since)
            return done
        if stop.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311 - jitter, not secrecy
            raise Stopped(f"stopped while {what} was away")
        pause = min(2 * pause, _LONGEST_PAUSE)


class Outlets:
    """One worker's way out."""

    def __init__(self, settings: Settings, log: Log, stop: Event, monitor: Monitor | None = None) -> None:
        self._log, self._stop = log, stop
        self._monitor = monitor or Monitor(Health("flow", *PARTS))
        self._source, self._lifetimes = settings.store_url, settings.database.lifetimes
        self._store: Store | None = None
        self._publishers: dict[str, Publisher] = {}
        self._counts = self._monitor.counts

    def take(self, outputs: Sequence[Output]) -> None:
        """Publish everything, in the order of the log."""
        for_store: list[pa.RecordBatch] = []
        others: dict[str, list[pa.RecordBatch]] = {}
        dead: list[Dead] = []
        for output in outputs:
            dead += output.dead
            self._monitor.count(output)
            for url, batches in output.published.items():
                if resolve_publisher(url) == STORE:
                    for_store += [b for b in batches if not any(b is known for known in for_store)]
                elif not is_positioned(url):
                    others.setdefault(url, []).extend(batches)
        if for_store:
            self._persist(lambda: self._write(for_store), STORE)
            self._counts.sent(sum(b.num_rows for b in for_store))
        for url, batches in others.items():
            publisher = self._publishers.get(url)
            if publisher is None:
                publisher = self._publishers[url] = open_publisher(url)
            self._persist(partial(_publish, publisher, batches), scheme_of(url))
            self._counts.sent(sum(b.num_rows for b in batches))
        self.bury([letter_of(d) for d in dead])
        self._monitor.published(outputs)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Put these into the dead letters."""
        if letters:
            self._persist(lambda: bury(self._log, letters), "log")

    def close(self) -> None:
        """Close the store and the publishers."""
        for publisher in self._publishers.values():
            publisher.close()
        if self._store is not None:
            self._store.close()

    def _write(self, batches: Sequence[pa.RecordBatch]) -> None:
        if self._store is None:
            self._store = registry.load_for(registry.STORE, self._source)(self._source, self._lifetimes)
        try:
            self._store.write(batches)
        except Unavailable:
            raise
        except StoreError as error:
            self._bisect(batches, error)

    def _bisect(self, batches: Iterable[pa.RecordBatch], error: StoreError) -> None:
        """What a store refuses for good is found by halves and put into the dead letters; the rest is written."""
        assert self._store is not None
        for batch in batches:
            try:
                self._store.write([batch])
            except Unavailable:
                raise
            except StoreError as refused:
                if batch.num_rows > 1:
                    half = batch.num_rows // 2
                    self._bisect([batch.slice(0, half), batch.slice(half)], refused)
                    continue
                self._counts.dropped(1, "store_refused", "")
                self.bury([refused_letter(batch, refused)])

    def _persist(self, work: Callable[[], Any], part: str) -> None:
        persist(work, part, self._stop, self._monitor)


def _publish(publisher: Publisher, batches: Sequence[pa.RecordBatch]) -> None:
    """At least once: what went out before a fault goes out again with the next try."""
    publisher.publish(batches)
    publisher.flush()


def letter_of(dead: Dead) -> DeadLetter:
    """The dead letter of a refused message or row."""
    message = dead.message
    return DeadLetter(
        reason=dead.reason,
        detail=dead.detail,
        data=dead.value,
        origin=Origin(SAMPLES, message.partition, message.offset),
    )


def refused_letter(batch: pa.RecordBatch, error: StoreError) -> DeadLetter:
    """The dead letter of one sample that a store refuses."""
    from nephoscope.batch import Batch
    from nephoscope.sample import sample_to_dict, to_json

    sample = next(Batch(batch).samples())
    return DeadLetter(
        reason="store_refused", detail=str(error), data=to_json(sample_to_dict(sample)), key=sample.resource_id
    )
