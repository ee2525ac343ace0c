"""Where a flow's output goes: the store, the publishers, the dead letters.

Guarantee: `take` returns once the store, and every publisher whose policy is to wait, has what is for it. One of these that is away is tried
again, with back-off, until it is there or the flow is told to stop: meanwhile nothing else is taken from the log, and nothing is lost. Publishers
with a queue (flows.queue) hold nothing up: what they have not acknowledged is in the snapshot, what their queue cannot hold is counted as dropped.
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
from flows.queue import Queue
from flows.stage import Dead, Output
from flows.tickets import Ticket
from nephoscope import publishers, registry
from nephoscope.dead_letters import DeadLetter, Origin, bury
from nephoscope.errors import NephoscopeError, StoreError, Unavailable
from nephoscope.health import Health
from nephoscope.metrics import Counts
from nephoscope.pipeline import STORE, resolve_publisher, scheme_of
from nephoscope.settings import Settings
from nephoscope.store import Publisher, Refused, Store, refusals
from nephoscope.topics import SAMPLES, Log

_log = logging.getLogger(__name__)
PARTS = ("store", "log")
"""What a flow cannot do without."""
LAST_SECONDS = 5.0
"""How long the end of a flow waits for the queues of its publishers, all of them together."""
PUBLISHER_COUNTS = Counts("publisher", ("publisher",))
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class Stopped(NephoscopeError):
    """The flow was told to stop while a sink was away; what it could not take comes again after the restart."""


def persist(work: Callable[[], Any], part: str, stop: Event, monitor: Monitor, kind: str = "") -> Any:
    """Call until it succeeds, pausing longer and longer where the part is away. Raises Stopped, or what will never succeed."""
    pause = _FIRST_PAUSE
    what = f"the {part}" if part in PARTS else part
    away_since = None
    while True:
        try:
            done = work()
        except Unavailable as error:
            monitor.away(part, error, kind=kind)
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
    """One worker's way out. `urls`: the publishers that the pipeline names."""

    def __init__(
        self, settings: Settings, log: Log, stop: Event, monitor: Monitor | None = None, urls: Iterable[str] = ()
    ) -> None:
        self._log, self._stop = log, stop
        self._monitor = monitor or Monitor(Health("flow", *PARTS))
        self._source, self._lifetimes = settings.store_url, settings.database.lifetimes
        self._secret = settings.telemetry_secret.get_secret_value()
        self._store: Store | None = None
        self._publishers: dict[str, Publisher] = {}
        self._names: dict[str, str] = {}
        self._policies: dict[str, str] = {}
        self._queues: dict[str, Queue] = {}
        self._counts = self._monitor.counts
        for url in urls:
            self._know(url)

    def take(self, outputs: Sequence[Output]) -> None:
        """Publish everything, in the order of the log."""
        known: dict[int, pa.RecordBatch] = {}
        others: dict[str, list[pa.RecordBatch]] = {}
        tickets: dict[str, list[Ticket]] = {}
        dead: list[Dead] = []
        for output in outputs:
            dead += output.dead
            self._monitor.count(output)
            ticketed = set()
            for ticket in output.tickets:
                ticketed.add(ticket.url)
                tickets.setdefault(ticket.url, []).append(ticket)
            for url, batches in output.published.items():
                if resolve_publisher(url) == STORE:
                    # The store has several names; the same rows may be published under each.
                    known.update((id(b), b) for b in batches)
                elif url in ticketed or publishers.is_positioned(url):
                    continue
                elif self._know(url) == publishers.WAIT:
                    others.setdefault(url, []).extend(batches)
                else:
                    tickets.setdefault(url, []).extend(Ticket(url, rows) for rows in batches)
        for_store = list(known.values())
        if for_store:
            self._persist(lambda: self._write(for_store), STORE)
            self._counts.sent(sum(b.num_rows for b in for_store))
        # Those with a queue first: they have it while others are waited for.
        for url, some in tickets.items():
            self._queue(url, some)
        for url, batches in others.items():
            self._publish(url, batches)
        self.bury([letter_of(d) for d in dead])
        self._monitor.published(outputs)

    def _know(self, url: str) -> str:
        """A publisher's policy. At the first time it gets its name and its queue."""
        if url not in self._policies:
            _, delivery = publishers.delivery_of(url)
            label, number = publishers.label_of(url), 1
            while label in self._names.values():
                number += 1
                label = f"{publishers.label_of(url)} ({number})"
            self._names[url], self._policies[url] = label, delivery.policy
            if delivery.policy != publishers.WAIT:
                self._queues[url] = Queue(label, partial(self._open, url), delivery, self._monitor)
        return self._policies[url]

    def _open(self, url: str) -> Publisher:
        return publishers.open_publisher(url, self._secret, self._lifetimes)

    def _queue(self, url: str, tickets: list[Ticket]) -> None:
        if url in self._queues:
            self._queues[url].put(tickets)
        elif url in self._policies:
            # It had a queue when this was snapshotted, and has none now.
            self._publish(url, [t.rows for t in tickets])
            for ticket in tickets:
                ticket.left = 0
        else:
            lost = sum(t.left for t in tickets)
            PUBLISHER_COUNTS.dropped(lost, "gone", publishers.label_of(url))
            _log.warning("%s: the pipeline has it no more; %d samples were dropped", publishers.label_of(url), lost)
            for ticket in tickets:
                ticket.left = 0

    def _publish(self, url: str, batches: Sequence[pa.RecordBatch]) -> None:
        """Have a publisher take the batches, however long that takes. What it refuses for good goes to the dead letters."""
        rows = sum(b.num_rows for b in batches)
        PUBLISHER_COUNTS.received(rows)
        taken = False

        def work() -> list[pa.RecordBatch]:
            nonlocal taken
            publisher = self._publishers.get(url)
            if publisher is None:
                publisher = self._publishers[url] = self._open(url)
            try:
                if not taken:
                    publisher.publish(batches)
                    taken = True
                publisher.flush()
            except Refused as error:
                self._bury_refused(url, error.rows, error)
                return error.rows
            except Unavailable:
                raise
            except StoreError as error:
                publisher.discard()
                self._bury_refused(url, batches, error)
                return list(batches)
            return []

        refused = self._persist(work, self._names[url], scheme_of(url))
        sent = rows - sum(b.num_rows for b in refused)
        PUBLISHER_COUNTS.sent(sent)
        self._counts.sent(sent)

    def _bury_refused(self, url: str, batches: Iterable[pa.RecordBatch], error: StoreError) -> None:
        for batch in batches:
            PUBLISHER_COUNTS.dropped(batch.num_rows, "refused", self._names[url])
            self.bury([refused_letter(batch.slice(i, 1), error, "publisher_refused") for i in range(batch.num_rows)])

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Put these into the dead letters."""
        if letters:
            self._persist(lambda: bury(self._log, letters), "log")

    def close(self) -> None:
        """Close the store and the publishers. Queues have LAST_SECONDS together to empty; one whose publisher is away has none."""
        until = time.monotonic() + LAST_SECONDS
        for queue in self._queues.values():
            queue.end()
        for queue in self._queues.values():
            queue.close(until)
        for publisher in self._publishers.values():
            publisher.close()
        if self._store is not None:
            self._store.close()

    def _write(self, batches: Sequence[pa.RecordBatch]) -> None:
        if self._store is None:
            self._store = registry.load_for(registry.STORE, self._source)(self._source, self._lifetimes)
        refused = refusals(self._store, batches)
        self._counts.dropped(len(refused), "store_refused", "")
        self.bury([refused_letter(row, error) for row, error in refused])

    def _persist(self, work: Callable[[], Any], part: str, kind: str = "") -> Any:
        return persist(work, part, self._stop, self._monitor, kind)


def letter_of(dead: Dead) -> DeadLetter:
    """The dead letter of a refused message or row."""
    message = dead.message
    return DeadLetter(
        reason=dead.reason,
        detail=dead.detail,
        data=dead.value,
        origin=Origin(SAMPLES, message.partition, message.offset),
    )


def refused_letter(batch: pa.RecordBatch, error: StoreError, reason: str = "store_refused") -> DeadLetter:
    """The dead letter of one sample that a store or publisher refuses."""
    from nephoscope.batch import Batch
    from nephoscope.sample import sample_to_dict, to_json

    sample = next(Batch(batch).samples())
    return DeadLetter(reason=reason, detail=str(error), data=to_json(sample_to_dict(sample)), key=sample.resource_id)
