"""From the topic of events to the store and the publishers: read in order, written, and only then noted as done.

Guarantee: at least once, and in the store once: it keeps the first event of a message_id. How far it is stands in a file of the state folder, written
after the store has what came before; whoever has the folder's lock reads on from there. A publisher with a queue has a place of its own in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from flows.event_outlets import PART, EventOutlets, Place
from flows.outlet import Stopped
from nephoscope import registry
from nephoscope.dead_letters import DeadLetter, Origin, bury
from nephoscope.errors import BatchError, ConfigError, NephoscopeError, StoreError, Unavailable
from nephoscope.event import Event, check_event
from nephoscope.event_messages import decode_events
from nephoscope.health import Health
from nephoscope.lifetimes import Lifetimes
from nephoscope.metrics import Counts
from nephoscope.pipeline import STORE
from nephoscope.pipeline.events import EventPipeline, Routes, load_event_pipeline
from nephoscope.settings import Settings, shipped
from nephoscope.store import Store
from nephoscope.topics import EVENTS, Log, Message

_log = logging.getLogger(__name__)
_READ = 200
_WAIT = 0.5
_NOTE_EVERY = 1.0
_LOOK_EVERY = 5.0
"""Seconds between tries for the lock, while another process has it."""


def event_pipeline(settings: Settings) -> EventPipeline:
    """The event pipeline that the settings name. Raises ConfigError."""
    return load_event_pipeline(settings.event_pipeline_cfg_file or shipped("event_pipeline.yaml"))


class _Noted(msgspec.Struct):
    """What stands in the file: `place`, and that of each publisher whose queue was behind it."""

    place: Place = {}
    queues: dict[str, Place] = {}

    @classmethod
    def read(cls, text: bytes) -> _Noted:
        """Read it; the older form is the place alone. Raises MsgspecError."""
        found = msgspec.json.decode(text)
        if isinstance(found, dict) and "place" not in found:
            found = {"place": found}
        return msgspec.convert(found, cls, strict=False)


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
        lifetimes: for publishers that are stores.

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
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self._log = log
        self._routes = routes
        self._place = place
        self._stop = stop
        self._counts = Counts("events")
        self._outlets = EventOutlets(opened, self._bury, stop, health, secret, lifetimes)
        # Where each publisher with a queue begins; all others where `_ours` says.
        self._theirs: dict[str, Place] = {}
        self._ours: Place = {}

    def run(self) -> None:
        """Go on until told to stop."""
        offsets = self._start()
        noted = ""
        said = time.monotonic()
        with closing(self._log.consumer(EVENTS, offsets)) as consumer:
            try:
                while not self._stop.is_set():
                    messages = consumer.poll(_READ, _WAIT)
                    if messages:
                        self._take(messages)
                        offsets.update({m.partition: m.offset + 1 for m in messages})
                    if time.monotonic() - said > _NOTE_EVERY:
                        noted, said = self._note(offsets, noted), time.monotonic()
            except Stopped:
                pass
            finally:
                self._outlets.close()
                self._note(offsets, noted)

    def _start(self) -> Place:
        """The offset to begin with, of each partition. What retention has removed meanwhile is told."""
        begin = dict(enumerate(self._log.begin(EVENTS)))
        try:
            noted = _Noted.read(self._place.read_bytes())
        except FileNotFoundError:
            noted = _Noted()
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("%s cannot be read (%s): all events are read again, and kept once", self._place, error)
            noted = _Noted()
        self._ours = self._since(noted.place, begin)
        known = self._routes.urls()
        for url, place in noted.queues.items():
            if url in known and self._outlets.queue(url) is not None:
                self._theirs[url] = self._since({**noted.place, **place}, begin)
        return {p: min(place[p] for place in (self._ours, *self._theirs.values())) for p in begin}

    def _since(self, noted: Place, begin: Place) -> Place:
        out = {}
        for partition, first in begin.items():
            offset = noted.get(partition, first)
            if offset < first:
                self._counts.dropped(first - offset, "expired")
                _log.error(
                    "events: messages %d to %d of partition %d were removed unread", offset, first - 1, partition
                )
            out[partition] = max(offset, first)
        return out

    def _note(self, offsets: Place, before: str) -> str:
        """Note how far all are, unless that is what was noted before; what is noted."""
        # Where others begin earlier, what is ours is through up to where it was.
        ours = {p: max(offset, self._ours.get(p, 0)) for p, offset in offsets.items()}
        queues = {url: self._outlets.place(url, offsets) for url in self._routes.urls() if self._outlets.has_queue(url)}
        late = {url: place for url, place in queues.items() if place != ours}
        text = msgspec.json.encode(_Noted(ours, late)).decode()
        if text != before:
            self._write_down(text.encode())
        return text

    def _write_down(self, text: bytes) -> None:
        beside = self._place.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._place)
        except OSError as error:
            self._counts.failed("place")
            _log.warning("%s cannot be written (%s): after a restart some events are read again", self._place, error)

    def _take(self, messages: Sequence[Message]) -> None:
        letters: list[DeadLetter] = []
        by_url: dict[str, list[Event]] = {}
        begin: Place = {}
        for message in messages:
            begin.setdefault(message.partition, message.offset)
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
                    if message.offset >= self._theirs.get(url, self._ours)[message.partition]:
                        by_url.setdefault(url, []).append(event)
        # Those with a queue first: they have it while others are waited for.
        for url in sorted(by_url, key=lambda url: url == STORE or self._outlets.queue(url) is None):
            self._outlets.put(url, by_url[url], begin)
        self._bury(letters)

    def _bury(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            self._outlets.persist(lambda: bury(self._log, letters), "log")


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
                place, lifetimes = settings.state_dir / "events.json", settings.database.lifetimes
                EventFlow(log, opened, routes, place, stop, health, secret, lifetimes).run()
            except ConfigError:
                raise
            except Unavailable as error:
                health.away(PART, str(error))
                _log.warning("events: %s; trying again", error)
                stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter, not secrecy
                pause = min(2 * pause, 10.0)
