"""What is to be polled: the sources of a polling definition, the pollsters there are and the targets found make *targets*.

A target is polled once for all its sources. When several of them fall due at once (one of 60 s and one of 600 s), that is
one poll too, whose samples are tagged for each source that asked for their meter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nephoscope.batch import Header
from nephoscope.errors import nearest
from nephoscope.matching import MeterFilter
from nephoscope.partition import key_hash, slot
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.times import SECOND
from sources.pollster import Pollster


@dataclass(frozen=True, slots=True)
class Target:
    """What one call asks, and for which sources.

    `key` names it wherever it is hashed; `intervals` are those of its sources, each once, the shortest first (microseconds).
    """

    pollster: Pollster
    resource: str
    sources: tuple[PollingSource, ...]
    intervals: tuple[int, ...]
    key: str
    slot: int

    @property
    def namespace(self) -> str:
        """Whose agents poll it: those of this namespace share their targets."""
        return self.pollster.namespace

    def jitter(self, spread: float, most: int) -> int:
        """Microseconds that it waits in each period, by its hash: at most `spread` of its shortest interval, and `most`."""
        room = min(int(self.intervals[0] * spread), most)
        return key_hash("jitter\0" + self.key) % room if room > 0 else 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a pollster at one moment: the meters, and the header that each one's samples travel under."""

    meters: frozenset[str]
    headers: Mapping[str, Header]


class Targets:
    """Works out targets and asks for a polling definition.

    Args:
        polling: what polling.yaml, or a pipeline's own sources, say.
        pollsters: those that may be used, by name.
        member: the name of this agent, for the headers.

    """

    def __init__(self, polling: Polling, pollsters: Mapping[str, Pollster], member: str = "") -> None:
        self.polling = polling
        self.intervals = tuple(sorted({s.interval for s in polling.sources}))
        self._pollsters = [pollsters[name] for name in sorted(pollsters)]
        self._member = member
        self.namespaces = frozenset(p.namespace for p in self._pollsters)
        self._filters = {s: MeterFilter(s.meters) for s in polling.sources}
        self._headers: dict[Header, Header] = {}  # So that equal ones are one object.
        self._shared: dict[tuple[PollingSource, ...], tuple[PollingSource, ...]] = {}
        self._asks: dict[tuple[str, int, tuple[int, ...]], Ask] = {}
        self._generations: dict[str, int] = {}

    def generation(self, namespace: str, number: int) -> None:
        """Samples of this namespace are polled under this generation of its group from now on: a diagnostic in their headers."""
        if self._generations.get(namespace) != number:
            self._generations[namespace] = number
            self._asks.clear()
            self._headers.clear()

    def pairs(self) -> list[tuple[PollingSource, Pollster]]:
        """The sources and the pollsters that give them meters."""
        return [
            (source, pollster)
            for source in self.polling.sources
            for pollster in self._pollsters
            if any(self._filters[source].matches(meter.name) for meter in pollster.meters)
        ]

    def discoveries(self) -> dict[str, int]:
        """The discovery URLs that are needed, and the shortest interval (seconds) of a source that needs each."""
        out: dict[str, int] = {}
        for source, pollster in self.pairs():
            for url in _discoveries(source, pollster):
                out[url] = min(source.interval, out.get(url, source.interval))
        return out

    def targets(self, found: Mapping[str, Sequence[str]]) -> list[Target]:
        """The targets, given what each discovery URL has found.

        A source's targets are the resources that it names and those that its discoveries find; of a source with neither, those that
        the pollster's own discovery finds. What a pollster does not take is left out for it.
        """
        asked: dict[tuple[str, str], list[PollingSource]] = {}
        by_name = {p.name: p for p in self._pollsters}
        for source, pollster in self.pairs():
            named = list(source.resources)
            for url in _discoveries(source, pollster):
                named += found.get(url, ())
            for resource in dict.fromkeys(named):
                if pollster.takes(resource):
                    asked.setdefault((pollster.name, resource), []).append(source)
        out = []
        for (name, resource), sources in asked.items():
            key = f"{name}\0{resource}"
            # Equal ones are one object, so that `ask` need not compare them.
            shared = self._shared.setdefault(tuple(sources), tuple(sources))
            out.append(Target(by_name[name], resource, shared, intervals_of(sources), key, slot(key)))
        return out

    def ask(self, target: Target, intervals: tuple[int, ...]) -> Ask:
        """What to ask of a target (one that `targets` gave) for its sources of these intervals (microseconds)."""
        key = (target.pollster.name, id(target.sources), intervals)
        known = self._asks.get(key)
        if known is None:
            active = tuple(s for s in target.sources if s.interval * SECOND in intervals)
            headers: dict[str, Header] = {}
            for meter in target.pollster.meters:
                asking = [s for s in active if self._filters[s].matches(meter.name)]
                if asking:
                    interval = min(s.interval for s in asking)
                    header = Header(
                        interval=interval,
                        polling=tuple(s.name for s in asking),
                        member=self._member,
                        generation=self._generations.get(target.namespace, 0),
                    )
                    headers[meter.name] = self._headers.setdefault(header, header)
            known = self._asks[key] = Ask(frozenset(headers), _with_families(headers))
        return known

    def silent(self) -> list[tuple[PollingSource, str]]:
        """The sources that no pollster gives anything, each with a hint."""
        heard = {source for source, _ in self.pairs()}
        known = {meter.name for pollster in self._pollsters for meter in pollster.meters}
        return [
            (source, nearest(source.meters[0], known) if known and source.meters else "there is no pollster")
            for source in self.polling.sources
            if source not in heard
        ]


def intervals_of(sources: Iterable[PollingSource]) -> tuple[int, ...]:
    """The intervals of some sources, each once, the shortest first (microseconds)."""
    return tuple(sorted({s.interval * SECOND for s in sources}))


def _discoveries(source: PollingSource, pollster: Pollster) -> tuple[str, ...]:
    if source.discovery:
        return source.discovery
    if source.resources or not pollster.discovery:
        return ()
    return (pollster.discovery,)


class _Headers(dict[str, Header]):
    """Headers by meter; a meter that a family stands for has the family's."""

    def __init__(self, headers: Mapping[str, Header], families: Mapping[str, Header]) -> None:
        super().__init__(headers)
        self._families = families

    def get(self, name: str, default: Any = None) -> Any:
        """The header of a meter."""
        found = super().get(name)
        if found is None:
            for before, header in self._families.items():
                if name.startswith(before):
                    return header
        return default if found is None else found


def _with_families(headers: dict[str, Header]) -> Mapping[str, Header]:
    families = {name.partition("{")[0]: header for name, header in headers.items() if "{" in name}
    return _Headers(headers, families) if families else headers
