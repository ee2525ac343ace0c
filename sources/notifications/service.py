"""The process that listens: one thread a URL, and the receivers of pushed samples."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nephoscope import registry
from nephoscope.documents import Checker
from nephoscope.errors import ConfigError, NephoscopeError, Problem
from nephoscope.health import Health, address_of, serve
from nephoscope.known_meters import KnownMeters
from nephoscope.metrics import Counts
from nephoscope.settings import Settings, shipped
from nephoscope.stopping import on_stop
from nephoscope.topics import Log
from sources.notifications.definitions import MeterDefinition, load_meters
from sources.notifications.event_definitions import EventDefinition, load_events
from sources.notifications.events import Events
from sources.notifications.listener import Listener, Maker
from sources.notifications.meters import Meters
from sources.notifications.source import FeedKind, Wanted
from sources.systems import systems_of
from sources.udp_tcp import Inbox, TcpReceiver, UdpReceiver

_log = logging.getLogger(__name__)
DEFAULT_SECRET = "change this for valid signing"  # noqa: S105 -- Ceilometer's default, which everybody knows
_FIRST, _MORE = 2, 65
"""Places of the processes' ports after the one that the settings name: of the first, and before those of others. A flow's 64 lie between."""
_GRACE = 30.0
"""Seconds for what was received to reach the log after a signal."""


def meter_files(settings: Settings) -> list[Path]:
    """The files of meter definitions: what ships, then the user's in the order of their names."""
    folder = settings.notifications.definitions
    own = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]) if folder else []
    return [shipped("meters.yaml"), *own]


def event_file(settings: Settings) -> Path:
    """The file of event definitions."""
    return settings.notifications.event_definitions or shipped("event_definitions.yaml")


def definitions(
    settings: Settings, warnings: Checker | None = None
) -> tuple[list[MeterDefinition], list[EventDefinition]]:
    """The definitions of meters and of events. Raises ConfigError with the problems of all files."""
    problems: list[Problem] = []
    meters: list[MeterDefinition] = []
    events: list[EventDefinition] = []
    try:
        meters = load_meters(meter_files(settings), warnings)
    except ConfigError as error:
        problems += error.problems
    try:
        events = load_events([event_file(settings)], warnings)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    return meters, events


def known_meters(meters: list[MeterDefinition], settings: Settings) -> Mapping[str, tuple[str, str]]:
    """Type and unit of every meter that is polled or made of notifications here."""
    out: dict[str, tuple[str, str]] = {}
    for definition in meters:
        if not definition.name.paths and not definition.unit.paths and not definition.type.paths:
            out[definition.text] = str(definition.type.constant), str(definition.unit.constant)
    with systems_of(settings) as systems:
        for pollster in systems.pollsters.values():
            out |= {meter.name: (meter.type, meter.unit) for meter in pollster.meters}
    return out


def wanted_of(settings: Settings) -> Wanted:
    """What every feed needs of the settings."""
    given = settings.notifications
    return Wanted(
        queues=given.queues,
        exchanges=given.exchanges,
        prefetch=given.prefetch,
        create_queues=given.create_queues,
        queue_type=given.queue_type,
        durable=given.durable,
        group=given.group,
    )


def without_secrets(url: str) -> str:
    """A URL as it may be shown: scheme and hosts."""
    parts = urlsplit(url)
    hosts = ",".join(host.rpartition("@")[2] for host in parts.netloc.split(","))
    return f"{parts.scheme}://{hosts}{parts.path}"


def check(settings: Settings, warnings: Checker) -> None:
    """Everything that can be known without a connection. Raises ConfigError; `warnings` is told what can hardly be meant."""
    problems: list[Problem] = []
    try:
        definitions(settings, warnings)
    except ConfigError as error:
        problems += error.problems
    for secret in settings.notifications.urls:
        url = secret.get_secret_value()
        try:
            kind: FeedKind = registry.load_for(registry.LISTENER, url)
            kind.check(url)
        except ConfigError as error:
            problems += error.problems
        except NephoscopeError as error:
            problems.append(Problem(str(error), field="notifications.urls"))
    secret_text = settings.telemetry_secret.get_secret_value()
    if secret_text == DEFAULT_SECRET:
        warnings.warn("telemetry_secret is Ceilometer's default, which everybody knows: it proves nothing")
    elif not secret_text and (settings.push.udp or settings.push.tcp):
        warnings.warn("telemetry_secret is empty: whoever reaches push.udp or push.tcp may push samples for anybody")
    if problems:
        raise ConfigError(problems)


def maker_of(settings: Settings, counts: Counts) -> tuple[Maker, list[MeterDefinition]]:
    """What makes samples and events of messages, by the settings' definitions; and those of meters."""
    meters, events = definitions(settings)
    given = settings.notifications
    maker = Maker(
        Meters(meters, settings.sample_source, settings.telemetry_secret.get_secret_value()),
        Events(events, drop_unmatched=given.drop_unmatched_notifications, store_raw=given.store_raw)
        if given.store_events
        else None,
        counts,
        max_message_bytes=given.max_message_bytes,
        max_sample_bytes=settings.max_sample_bytes,
        max_future=settings.max_future,
    )
    return maker, meters


def check_anything(settings: Settings) -> None:
    """ConfigError where nothing is to be listened to."""
    if not settings.notifications.urls and not settings.push.udp and not settings.push.tcp:
        hint = "set notifications.urls, push.udp or push.tcp"
        raise ConfigError([Problem("there is nothing to listen to", hint=hint)])


def run(log: Log, settings: Settings, number: int = 0) -> None:
    """Listen as a process's only business, until SIGINT or SIGTERM. Of several, the one with number 0 takes what is pushed."""
    given = settings.notifications
    counts = Counts("notifications")
    maker, meters = maker_of(settings, counts)
    listeners = [_listener(secret.get_secret_value(), settings, maker, log, counts) for secret in given.urls]
    stop = threading.Event()
    on_stop(stop.set)
    health = Health("notifications", "log")
    for listener in listeners:
        health.look(listener.name, _looked_at(listener))
    with ExitStack() as stack:
        inbox = _receivers(stack, settings, meters, log, health) if number == 0 else None
        stack.enter_context(serve(health, settings.metrics.listen, _MORE + number if number else _FIRST))
        threads = [threading.Thread(target=_run, args=(one, stop), name=one.name, daemon=True) for one in listeners]
        for thread in threads:
            thread.start()
        while not stop.wait(0.5):
            errors = [one.error for one in listeners] + ([inbox.error] if inbox else [])
            failed = next((error for error in errors if error is not None), None)
            if failed is not None:
                stop.set()
                raise failed
        for thread in threads:
            thread.join(_GRACE)


def _run(listener: Listener, stop: threading.Event) -> None:
    try:
        listener.run(stop)
    except BaseException as error:  # noqa: BLE001 -- handed to the main thread
        listener.error = error
        _log.exception("%s", listener.name)


def _listener(url: str, settings: Settings, maker: Maker, log: Log, counts: Counts) -> Listener:
    kind: FeedKind = registry.load_for(registry.LISTENER, url)
    kind.check(url)
    wanted = wanted_of(settings)
    return Listener(without_secrets(url), lambda: kind.open(url, wanted), maker, log, counts)


def _looked_at(listener: Listener) -> Any:
    def look() -> tuple[bool, Mapping[str, Any]]:
        away = listener.log_away or listener.away
        return not away, {"detail": away} if away else {}

    return look


def _receivers(
    stack: ExitStack, settings: Settings, meters: list[MeterDefinition], log: Log, health: Health
) -> Inbox | None:
    addresses = {name: address_of(getattr(settings.push, name)) for name in ("udp", "tcp")}
    if not any(addresses.values()):
        return None
    counts = Counts("receiver")
    inbox = Inbox(
        log,
        counts,
        secret=settings.telemetry_secret.get_secret_value(),
        known=KnownMeters(known_meters(meters, settings), counts),
        max_sample_bytes=settings.max_sample_bytes,
    )
    stack.callback(inbox.close, _GRACE)
    for name, kind in (("udp", UdpReceiver), ("tcp", TcpReceiver)):
        address = addresses[name]
        if address is None:
            continue
        try:
            receiver = kind(address, inbox)
        except OSError as error:
            raise ConfigError([Problem(f"cannot listen there: {error.strerror}", field=f"push.{name}")]) from None
        stack.callback(receiver.close)
        health.look(f"push.{name}", lambda: (not inbox.detail, {"detail": inbox.detail, "waiting": inbox.waiting}))
    return inbox
