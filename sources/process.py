"""The agent as a process's only business: its parts are found, its groups joined, and it runs until it is told to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from nephoscope import registry, times
from nephoscope.errors import Unavailable
from nephoscope.health import Health, serve
from nephoscope.metrics import Counts
from nephoscope.pipeline import Polling
from nephoscope.settings import Settings
from nephoscope.stopping import on_stop
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES, Log
from sources.agent import Agent
from sources.coordination.keeper import Keeper
from sources.groups import Definition, Name, definition_of, keepers_of
from sources.pollster import Discover, Pollster
from sources.progress import FileProgress
from sources.spool import Spool
from sources.systems import systems_of

_log = logging.getLogger(__name__)
_RETAIN_EVERY = 60.0


def run(log: Log, polling: Polling, settings: Settings, *, namespaces: Collection[str] = ()) -> None:
    """Run an agent until SIGINT or SIGTERM; the log's retention is kept as well.

    Args:
        log: where the samples go.
        polling: what to poll.
        settings: those of the process.
        namespaces: only pollsters of these; none: all. ConfigError where there is no such namespace.

    """
    with systems_of(settings) as systems:
        _run(log, polling, settings, systems.of(namespaces), systems.discoveries)


def _run(
    log: Log,
    polling: Polling,
    settings: Settings,
    chosen: dict[str, Pollster],
    discoveries: Mapping[str, Discover],
) -> None:
    stop = threading.Event()
    on_stop(stop.set)
    name = Name(settings)
    keepers = keepers_of(settings, {p.namespace for p in chosen.values()}, name.text)
    p = settings.polling
    agent = Agent(
        polling,
        chosen,
        log,
        discoveries=discoveries,
        progress=FileProgress(name.file(settings.state_dir)),
        sharing=keepers,
        spool=_spool(log, settings, name),
        source=settings.sample_source,
        member=name.text,
        concurrency=p.concurrency,
        timeout=p.timeout,
        spread=p.spread,
        max_jitter=p.max_jitter,
        silence=p.silence,
        max_sample_bytes=settings.max_sample_bytes,
    )
    threading.Thread(target=_retain, args=(log, settings, stop), name="nephoscope-retain", daemon=True).start()
    health = Health("agent", "log")
    health.look("log", agent.log_part)
    health.look("targets", agent.targets_part)
    if not keepers:
        configured = settings.coordination.backend_url.get_secret_value()
        why = "its namespaces are not shared" if configured else "there is no coordination.backend_url"
        # On a log of this host's own there can be no others.
        level = logging.INFO if registry.scheme(settings.log.url) == "embedded" else logging.WARNING
        _log.log(level, "this agent polls every target that it finds, as any other would (%s)", why)
    for namespace, keeper in keepers.items():
        health.look(f"group {keeper.group}", keeper.part)
        keeper.status = partial(_status, agent, definition_of(polling, list(chosen.values()), namespace), keeper)
        keeper.wake = agent.wake
    with serve(health, settings.metrics.listen, 1), _kept(keepers.values()):
        agent.run(stop)
    name.close()


def _spool(log: Log, settings: Settings, name: Name) -> Spool | None:
    """Where samples wait while the log is away; none for the embedded log, which is on the same disk."""
    limit = settings.polling.spool_bytes
    if not limit or settings.log.url.partition("://")[0] == "embedded":
        return None
    spool = Spool(name.file(settings.state_dir, "spool", "db"), log.partitions(SAMPLES), limit)
    if spool.messages:
        _log.warning("%d messages are left in the spool: they are sent first", spool.messages)
    return spool


@contextmanager
def _kept(keepers: Collection[Keeper]) -> Iterator[None]:
    """Members for as long as the context is open. They leave when what they did is in the log."""
    for keeper in keepers:
        keeper.start()
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.stop()


def _status(agent: Agent, definition: Definition, keeper: Keeper) -> bytes:
    return definition.status(
        slots=len(keeper.assignment.slots),
        targets=agent.targets,
        last=agent.last,
        missed=agent.totals["missed"],
        late=agent.totals["late"],
    ).encode()


def _retain(log: Log, settings: Settings, stop: threading.Event) -> None:
    """Remove what is too old or too much from an embedded log, now and then."""
    retention = getattr(log, "retention", None)
    while retention is not None and not stop.wait(_RETAIN_EVERY):
        try:
            retention(times.now() - round(settings.log.retention * SECOND), settings.log.retention_bytes or None)
        except Unavailable as error:
            Counts("log").failed("retention")
            _log.warning("%s; old messages stay a while longer", error)
