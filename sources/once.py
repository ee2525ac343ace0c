"""A poll that somebody asks for: the targets of some meters, each read once, now. Nothing is written anywhere."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from nephoscope.errors import NephoscopeError
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import Polling, PollingSource
from sources.polling import Ask, Target, Targets
from sources.pollster import Discover, Pollster, Reading
from sources.workers import Job, Outcome, Workers

_ONCE = 3600
"""An interval for those who ask for one, seconds: of no meaning here."""
_TICK = 0.1


class Polled(msgspec.Struct, eq=False):
    """What a target gave, or a discovery that failed. `error` says in words why it gave nothing, or not all."""

    pollster: str
    resource: str
    readings: list[Reading] = []
    error: str = ""


class Once:
    """The targets of some meters, as the agents would find them here, and one poll of each.

    Args:
        meters: names, or patterns as in polling.yaml.
        pollsters: those that may be used, by name.
        discoveries: those that they and the sources may name.
        polling: what is polled here otherwise: its sources' resources and discoveries are targets for these meters too.
        resources: poll these instead of what is found.
        timeout: seconds for a discovery or a poll; a pollster's own takes its place.
        concurrency: calls at once.

    """

    def __init__(
        self,
        meters: Sequence[str],
        pollsters: Mapping[str, Pollster],
        discoveries: Mapping[str, Discover],
        polling: Polling | None = None,
        *,
        resources: Sequence[str] = (),
        timeout: float = 30.0,
        concurrency: int = 16,
    ) -> None:
        self._timeout = timeout
        self._discoveries = discoveries
        self._wake = threading.Event()
        self._workers = Workers(concurrency, wake=self._wake.set)
        wanted = tuple(meters)
        sources = [PollingSource("poll", _ONCE, wanted, tuple(resources))]
        named = [s for s in polling.sources if s.resources or s.discovery] if polling and not resources else []
        for source in named:
            both = _both(wanted, source.meters, pollsters.values())
            if both:
                sources.append(PollingSource(source.name, _ONCE, both, source.resources, source.discovery))
        self._targets = Targets(Polling(tuple(sources)), pollsters)

    def __iter__(self) -> Iterator[Polled]:
        """Find the targets, poll them, and give each one's answer as it comes."""
        try:
            found: dict[str, list[str]] = {}
            jobs = []
            for url in self._targets.discoveries():
                name, _, parameter = url.partition("://")
                if name in self._discoveries:
                    jobs.append(Job(url, partial(self._discoveries[name], parameter), self._timeout))
                else:
                    yield Polled("discovery", url, error=f"there is no discovery {name!r}")
            for outcome in self._done(jobs):
                found[outcome.job.subject] = [str(item) for item in outcome.items]
                if error := _error(outcome):
                    yield Polled("discovery", outcome.job.subject, error=error)
            yield from self._poll(self._targets.targets(found))
        finally:
            self._workers.close()

    def _poll(self, targets: Sequence[Target]) -> Iterator[Polled]:
        jobs = []
        for target in targets:
            ask = self._targets.ask(target, target.intervals)
            call = partial(target.pollster.poll, target.resource, ask.meters)
            jobs.append(Job((target, ask), call, target.pollster.timeout or self._timeout))
        for outcome in self._done(jobs):
            target, ask = outcome.job.subject
            readings = _asked(outcome.items, ask)
            yield Polled(target.pollster.name, target.resource, readings, _error(outcome))

    def _done(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """The outcome of each, in the order in which they come."""
        self._workers.submit(*jobs)
        left = len(jobs)
        while left:
            self._wake.clear()
            for outcome in self._workers.outcomes():
                if outcome.state != "returned":  # A call that was given up is done; what it gives later is nobody's.
                    left -= 1
                    yield outcome
            if left:
                self._wake.wait(_TICK)


def _error(outcome: Outcome) -> str:
    if outcome.state == "timeout":
        return f"no answer within {outcome.job.timeout:g} s"
    return words(outcome.error) if outcome.error is not None else ""


def words(error: BaseException) -> str:
    """An error as a person is told it."""
    return str(error) if isinstance(error, NephoscopeError) else f"{type(error).__name__}: {error}"


def _asked(items: Sequence[Any], ask: Ask) -> list[Reading]:
    return [r for r in items if isinstance(r, Reading) and ask.headers.get(r.meter.name) is not None]


def _both(wanted: Sequence[str], given: Sequence[str], pollsters: Collection[Pollster]) -> tuple[str, ...]:
    """The meters that both take."""
    ours, theirs = MeterFilter(wanted), MeterFilter(given)
    known = {m.name for p in pollsters for m in p.meters}
    return tuple(sorted(n for n in known if ours.matches(n) and theirs.matches(n)))
