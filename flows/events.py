"""From the topic of events to the store and the publishers: read in order, written, and only then noted as done.

Guarantee: at least once, and in the store once: it keeps the first event of a message_id. How far it is stands in a file of the state folder,
written after the store has what came before; whoever has the folder's lock reads on from there.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nephoscope import publishers, registry
from nephoscope.dead_letters import DeadLetter, Origin, bury
from nephoscope.errors import BatchError, ConfigError, NephoscopeError, StoreError, Unavailable
from nephoscope.event import Event, check_event
from nephoscope.event_messages import decode_events
from nephoscope.health import Health
from nephoscope.metrics import Counts
from nephoscope.pipeline import STORE
from nephoscope.pipeline.events import EventPipeline, Routes, load_event_pipeline
from nephoscope.settings import Settings, shipped
from nephoscope.store import Store
from nephoscope.topics import EVENTS, Log, Message

_log = logging.getLogger(__name__)
PART = "events"
_READ = 200
_WAIT = 0.5
_NOTE_EVERY = 1.0
_LOOK_EVERY = 5.0
"""Seconds between tries for the lock, while another process has it."""


class Stopped(NephoscopeError):
    """Told to stop while something was away."""


def event_pipeline(settings: Settings) -> EventPipeline:
    """The event pipeline that the settings name. Raises ConfigError."""
    schemes = [s for s in registry.names(registry.PUBLISHER) if _takes_events(s)]
    return load_event_pipeline(settings.event_pipeline_cfg_file or shipped("event_pipeline.yaml"), schemes)


def _takes_events(scheme: str) -> bool:
    try:
        return hasattr(registry.load(registry.PUBLISHER, scheme), "publish_events")
    except NephoscopeError:
        return False


class EventFlow:
    """Reads events from a log and writes them.

    Args:
        log: where they are.
        opened: opens the configured store.
        routes: where each goes.
        place: the file that says how far it is.
        stop: ends it.
        health: is told what is away.
        secret: for publishers that sign.

    """

    def __init__(
        self,
        log: Log,
        opened: Callable[[], Store],
        routes: Routes,
        place: Path,
        stop: threading.Event,
        health: Health | None = None,
        secret: str = "",
    ) -> None:
        self._log = log
        self._opened = opened
        self._routes = routes
        self._place = place
        self._stop = stop
        self._health = health
        self._secret = secret
        self._counts = Counts("events")
        self._store: Store | None = None
        self._publishers: dict[str, Any] = {}

    def run(self) -> None:
        """Go on until told to stop."""
        offsets = self._start()
        noted = dict(offsets)
        said = time.monotonic()
        with closing(self._log.consumer(EVENTS, offsets)) as consumer:
            try:
                while not self._stop.is_set():
                    messages = consumer.poll(_READ, _WAIT)
                    if messages:
                        self._take(messages)
                        offsets.update({m.partition: m.offset + 1 for m in messages})
                    if offsets != noted and time.monotonic() - said > _NOTE_EVERY:
                        self._note(offsets)
                        noted, said = dict(offsets), time.monotonic()
            except Stopped:
                pass
            finally:
                self._note(offsets)
                self._close()

    def _start(self) -> dict[int, int]:
        """The offset to begin with, of each partition. What retention has removed meanwhile is told."""
        begin = self._log.begin(EVENTS)
        try:
            noted = msgspec.json.decode(self._place.read_bytes(), type=dict[int, int])
        except FileNotFoundError:
            noted = {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("%s cannot be read (%s): all events are read again, and kept once", self._place, error)
            noted = {}
        out = {}
        for partition, first in enumerate(begin):
            offset = noted.get(partition, first)
            if offset < first:
                self._counts.dropped(first - offset, "expired")
                _log.error(
                    "events: messages %d to %d of partition %d were removed unread", offset, first - 1, partition
                )
            out[partition] = max(offset, first)
        return out

    def _note(self, offsets: Mapping[int, int]) -> None:
        beside = self._place.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                file.write(msgspec.json.encode(offsets))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._place)
        except OSError as error:
            self._counts.failed("place")
            _log.warning("%s cannot be written (%s): after a restart some events are read again", self._place, error)

    def _take(self, messages: Sequence[Message]) -> None:
        letters: list[DeadLetter] = []
        by_url: dict[str, list[Event]] = {}
        for message in messages:
            try:
                events = decode_events(message.value)
            except BatchError as error:
                self._counts.dropped(1, "decode")
                letters.append(_letter("decode", str(error), message.value, message))
                continue
            self._counts.received(len(events))
            for event in events:
                try:
                    check_event(event)
                except StoreError as error:
                    self._counts.dropped(1, "event")
                    letters.append(_letter("event", str(error), msgspec.json.encode(event), message))
                    continue
                urls = self._routes.of(event.event_type)
                if not urls:
                    self._counts.dropped(1, "unmatched")
                for url in urls:
                    by_url.setdefault(url, []).append(event)
        for url, events in by_url.items():
            self._publish(url, events)
        if letters:
            self._persist(lambda: bury(self._log, letters), "log")

    def _publish(self, url: str, events: list[Event]) -> None:
        if url == STORE:
            self._persist(lambda: self._write(events), STORE)
        else:
            self._persist(lambda: self._pass_on(url, events), publishers.label_of(url))
        self._counts.sent(len(events))

    def _write(self, events: list[Event]) -> None:
        if self._store is None:
            self._store = self._opened()
        self._store.write_events(events)

    def _pass_on(self, url: str, events: list[Event]) -> None:
        if url not in self._publishers:
            self._publishers[url] = publishers.open_publisher(url, self._secret)
        self._publishers[url].publish_events(events)
        self._publishers[url].flush()

    def _persist(self, work: Callable[[], object], what: str) -> None:
        """Call until it succeeds. Raises Stopped."""
        pause, away = 0.1, False
        while True:
            try:
                work()
            except Unavailable as error:
                if not away:
                    _log.warning("events: %s is away, trying again until it is there: %s", what, error)
                away = True
                if self._health is not None:
                    self._health.away(PART, f"{what}: {error}")
                self._counts.failed("unavailable")
            else:
                if self._health is not None:
                    self._health.back(PART)
                return
            if self._stop.wait(pause * random.uniform(0.5, 1.0)):  # noqa: S311 -- jitter, not secrecy
                raise Stopped(f"stopped while {what} was away")
            pause = min(2 * pause, 10.0)

    def _close(self) -> None:
        for one in (*self._publishers.values(), self._store):
            if one is not None:
                try:
                    one.close()
                except NephoscopeError as error:
                    _log.warning("events: %s", error)


def _letter(reason: str, detail: str, data: bytes, message: Message) -> DeadLetter:
    origin = Origin(EVENTS, message.partition, message.offset)
    return DeadLetter(reason=reason, detail=detail, data=data, origin=origin)


@contextmanager
def in_background(settings: Settings, opened_log: Callable[[], Log], health: Health) -> Iterator[None]:
    """Have events written by a thread of this process, as long as the block lasts. ConfigError where the event pipeline is wrong."""
    routes = Routes(event_pipeline(settings))
    stop = threading.Event()

    def work() -> None:
        try:
            _hold_and_run(settings, opened_log, routes, stop, health)
        except NephoscopeError as error:
            health.away(PART, str(error))
            _log.error("events: %s", error)
        except Exception as error:  # noqa: BLE001 -- the flow of samples goes on; /ready says it
            health.away(PART, repr(error))
            _log.exception("events are no longer written")

    thread = threading.Thread(target=work, name="nephoscope-events", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def _hold_and_run(
    settings: Settings, opened_log: Callable[[], Log], routes: Routes, stop: threading.Event, health: Health
) -> None:
    """Write events whenever this process has the lock."""
    with ExitStack() as stack:
        file = stack.enter_context((settings.state_dir / "events.lock").open("a+"))
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if stop.wait(_LOOK_EVERY):
                    return
        log = stack.enter_context(closing(opened_log()))

        def opened() -> Store:
            store: Store = registry.load_for(registry.STORE, settings.store_url)(
                settings.store_url, settings.database.lifetimes
            )
            return store

        secret = settings.telemetry_secret.get_secret_value()
        pause = 0.2
        while not stop.is_set():
            try:
                EventFlow(log, opened, routes, settings.state_dir / "events.json", stop, health, secret).run()
            except ConfigError:
                raise
            except Unavailable as error:
                health.away(PART, str(error))
                _log.warning("events: %s; trying again", error)
                stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter, not secrecy
                pause = min(2 * pause, 10.0)
