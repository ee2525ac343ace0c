"""event_pipeline.yaml: which events go where. As pipeline.yaml, with `events` in the place of `meters`, and without transformers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nephoscope import documents, publishers, registry
from nephoscope.documents import Checker, Node
from nephoscope.errors import nearest
from nephoscope.matching import MeterFilter
from nephoscope.matching import problems as problems_of
from nephoscope.pipeline.model import LEGACY_PUBLISHERS, STORE, resolve_publisher, scheme_of


@dataclass(frozen=True, slots=True)
class EventSource:
    """Which event types go to which sinks."""

    name: str
    events: tuple[str, ...]
    sinks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventSink:
    """Where events go. `publishers`: as written."""

    name: str
    publishers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EventPipeline:
    """What event_pipeline.yaml says."""

    file: str
    sources: tuple[EventSource, ...]
    sinks: tuple[EventSink, ...]


class Routes:
    """Where the events of each type go: URLs of publishers, each once; STORE stands for the configured store."""

    def __init__(self, pipeline: EventPipeline) -> None:
        self._sinks = {sink.name: sink.publishers for sink in pipeline.sinks}
        self._sources = [(MeterFilter(source.events), source.sinks) for source in pipeline.sources]
        self._known: dict[str, tuple[str, ...]] = {}

    def urls(self) -> frozenset[str]:
        """All that there are."""
        return frozenset(
            STORE if resolve_publisher(url) == STORE else url for urls in self._sinks.values() for url in urls
        )

    def of(self, event_type: str) -> tuple[str, ...]:
        """The publishers for an event type."""
        known = self._known.get(event_type)
        if known is None:
            urls = [
                STORE if resolve_publisher(url) == STORE else url
                for patterns, sinks in self._sources
                if patterns.matches(event_type)
                for name in sinks
                for url in self._sinks[name]
            ]
            if len(self._known) > 10_000:
                self._known.clear()
            known = self._known[event_type] = tuple(dict.fromkeys(urls))
        return known


def load_event_pipeline(path: str | Path, publisher_schemes: Collection[str] | None = None) -> EventPipeline:
    """The event pipeline of a file; `publisher_schemes`: of those that take events (default: all that do). Raises ConfigError with every problem."""
    publisher_schemes = publishers.event_schemes() if publisher_schemes is None else publisher_schemes
    checker = Checker(str(path))
    document = documents.read(path, checker)
    members = (checker.mapping(document, "", ("sources", "sinks")) or {}) if document else {}
    if document is not None and isinstance(document.value, dict):
        for key in ("sources", "sinks"):
            if key not in members:
                checker.wrong(f"the section {key!r} is missing", document.line)
    sinks = [_sink(checker, node, path, publisher_schemes) for node, path in _items(checker, members, "sinks")]
    names = [sink.name for sink in sinks if sink]
    sources = [_source(checker, node, path, names) for node, path in _items(checker, members, "sources")]
    checker.raise_problems()
    return EventPipeline(str(path), tuple(s for s in sources if s), tuple(s for s in sinks if s))


def _items(checker: Checker, members: Mapping[str, Node], key: str) -> list[tuple[Node, str]]:
    nodes = checker.items(members[key], key) or [] if key in members else []
    return [(node, f"{key}[{i}]") for i, node in enumerate(nodes)]


def _texts(checker: Checker, read: Mapping[str, Node], node: Node, path: str, key: str) -> tuple[str, ...]:
    if key not in read or read[key].value in (None, []):
        checker.wrong(f"{key!r} is missing", node.line, path)
        return ()
    if isinstance(read[key].value, str):
        return (read[key].value,)
    return checker.texts(read[key], f"{path}.{key}") or ()


def _name(checker: Checker, read: Mapping[str, Node], node: Node, path: str) -> str:
    if "name" not in read:
        checker.wrong("'name' is missing", node.line, path)
        return ""
    return checker.text(read["name"], f"{path}.name") or ""


def _source(checker: Checker, node: Node, path: str, sinks: Sequence[str]) -> EventSource | None:
    read = checker.mapping(node, path, ("name", "events", "sinks"))
    if read is None:
        return None
    events = _texts(checker, read, node, path, "events")
    for problem in problems_of(events) if events else ():
        checker.wrong(problem.replace("meter", "event"), read["events"].line, f"{path}.events")
    wanted = _texts(checker, read, node, path, "sinks")
    for name in wanted:
        if name not in sinks:
            checker.wrong(f"there is no sink {name!r}", read["sinks"].line, f"{path}.sinks", nearest(name, sinks))
    return EventSource(_name(checker, read, node, path), events, wanted)


def _sink(checker: Checker, node: Node, path: str, schemes: Collection[str]) -> EventSink | None:
    read = checker.mapping(node, path, ("name", "transformers", "publishers"))
    if read is None:
        return None
    steps = read.get("transformers")
    if steps is not None and steps.value not in (None, []):
        checker.wrong("events pass no transformers", steps.line, f"{path}.transformers", "leave it out")
    urls = _texts(checker, read, node, path, "publishers")
    known = {STORE, *LEGACY_PUBLISHERS, *schemes}
    for url in urls:
        scheme = scheme_of(url)
        if scheme not in known:
            checker.wrong(
                f"no publisher {scheme!r} takes events",
                read["publishers"].line,
                f"{path}.publishers",
                nearest(scheme, known),
            )
        elif scheme in registry.names(registry.PUBLISHER):
            for problem in publishers.check(url, events=True):
                checker.wrong(problem.message, read["publishers"].line, f"{path}.publishers", problem.hint)
    return EventSink(_name(checker, read, node, path), urls)
