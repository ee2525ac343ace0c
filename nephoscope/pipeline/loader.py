"""Reads one file, and tells everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nephoscope import matching, publishers
from nephoscope.documents import Checker, Node, join
from nephoscope.errors import nearest
from nephoscope.pipeline.model import (
    LEGACY_PUBLISHERS,
    STORE,
    Pipeline,
    Polling,
    PollingSource,
    Sink,
    Source,
    Step,
    scheme_of,
)
from nephoscope.pipeline_specs import Spec

_GONE = {
    "gnocchi": "write store:// and configure a store",
    "zaqar": "write store://, or an http:// publisher",
}
_SOURCE_KEYS = ("name", "meters", "counters", "sinks", "interval", "resources", "discovery")
_COUPLED_KEYS = ("name", "meters", "counters", "interval", "resources", "discovery", "transformers", "publishers")
_POLLING_KEYS = ("name", "interval", "meters", "resources", "discovery")
_MAX_INTERVAL = 366 * 86_400


class Loader:
    """Turns a document into a Pipeline or a Polling; ConfigError where the checker knows of problems at the end."""

    def __init__(self, checker: Checker, transformers: Mapping[str, Spec], publisher_schemes: Collection[str]) -> None:
        self.check = checker
        self.transformers = transformers
        self.schemes = {*publisher_schemes, STORE}
        self._lines: dict[str, int] = {}

    def pipeline(self, document: Node | None, polling: Polling | None) -> Pipeline:
        """The pipeline of a document (None: it could not be read)."""
        sources: list[Source] = []
        sinks: list[Sink] = []
        if document is None:
            pass
        elif isinstance(document.value, list):
            sources, sinks = self._coupled(document)
        else:
            sources, sinks = self._decoupled(document)
        self.check.raise_problems()
        own = polling is None and any(source.interval is not None for source in sources)
        return Pipeline(self.check.file, tuple(sources), tuple(sinks), own, tuple(self.check.warnings))

    def polling(self, document: Node | None) -> Polling:
        """The polling of a document (None: it could not be read)."""
        check = self.check
        sources: list[PollingSource] = []
        members = (check.mapping(document, "", ("sources",)) or {}) if document else {}
        if document and isinstance(document.value, dict) and _absent(members, "sources"):
            check.wrong("the section 'sources' is missing", document.line)
        for i, node in enumerate(self._section(members, "sources")):
            path = f"sources[{i}]"
            read = check.mapping(node, path, _POLLING_KEYS)
            if read is None:
                continue
            name = self._name(read, node, path)
            meters = self._meters(read, node, path)
            if _absent(read, "interval"):
                check.wrong("'interval' is missing (seconds)", node.line, path)
            interval = self._interval(read, path)
            resources, discovery = (self._optional_texts(read, path, key) for key in ("resources", "discovery"))
            if name in [source.name for source in sources]:
                check.warn(f"another source is named {name!r}, too", node.line, f"{path}.name")
            sources.append(PollingSource(name, interval or 0, meters, resources, discovery, node.line))
        check.raise_problems()
        return Polling(tuple(sources), check.file, tuple(check.warnings))

    def _decoupled(self, document: Node) -> tuple[list[Source], list[Sink]]:
        check = self.check
        members = check.mapping(document, "", ("sources", "sinks"))
        if members is None:
            return [], []
        self._lines = dict(document.lines())
        for key in ("sources", "sinks"):
            if _absent(members, key):
                check.wrong(f"the section {key!r} is missing", document.line)
        sinks, sources = [], []
        for i, node in enumerate(self._section(members, "sinks")):
            read = check.mapping(node, f"sinks[{i}]", ("name", "transformers", "publishers"))
            if read is not None:
                sinks.append(self._sink(read, node, f"sinks[{i}]"))
        for i, node in enumerate(self._section(members, "sources")):
            read = check.mapping(node, f"sources[{i}]", _SOURCE_KEYS)
            if read is not None:
                sources.append(self._source(read, node, f"sources[{i}]"))
        self._unique("sinks", [(sink.name, sink.line) for sink in sinks])
        self._unique("sources", [(source.name, source.line) for source in sources])
        if not _absent(members, "sinks"):
            self._links(sources, [sink.name for sink in sinks])
        return sources, sinks

    def _coupled(self, document: Node) -> tuple[list[Source], list[Sink]]:
        """Juno's older form: a list of pipelines, each a source and its sink under one name."""
        check = self.check
        check.warn("a list of pipelines is the oldest form; write 'sources' and 'sinks'", document.line)
        sources, sinks = [], []
        for i, node in enumerate(document.value):
            path = f"[{i}]"
            read = check.mapping(node, path, _COUPLED_KEYS)
            if read is None:
                continue
            sink = self._sink(read, node, path)
            name = sink.name
            sinks.append(sink)
            resources, discovery = (self._optional_texts(read, path, key) for key in ("resources", "discovery"))
            meters, interval = self._meters(read, node, path), self._interval(read, path)
            sources.append(Source(name, meters, (name,), interval, resources, discovery, node.line))
        self._unique("", [(source.name, source.line) for source in sources])
        return sources, sinks

    def _section(self, members: Mapping[str, Node], key: str) -> list[Node]:
        return [] if _absent(members, key) else self.check.items(members[key], key) or []

    def _source(self, read: Mapping[str, Node], node: Node, path: str) -> Source:
        name = self._name(read, node, path)
        sinks: tuple[str, ...] = ()
        if _absent(read, "sinks"):
            self.check.wrong("'sinks' is missing", node.line, path)
        else:
            sinks = self.check.texts(read["sinks"], f"{path}.sinks") or ()
            if read["sinks"].value == []:
                self.check.wrong("names no sink", read["sinks"].line, f"{path}.sinks")
        resources, discovery = (self._optional_texts(read, path, key) for key in ("resources", "discovery"))
        meters, interval = self._meters(read, node, path), self._interval(read, path)
        return Source(name, meters, sinks, interval, resources, discovery, node.line)

    def _sink(self, read: Mapping[str, Node], node: Node, path: str) -> Sink:
        name = self._name(read, node, path)
        steps = []
        if not _absent(read, "transformers"):
            for i, item in enumerate(self.check.items(read["transformers"], f"{path}.transformers") or []):
                step = self._step(item, f"{path}.transformers[{i}]")
                if step is not None:
                    steps.append(step)
        return Sink(name, tuple(steps), self._publishers(read, node, path), node.line)

    def _step(self, node: Node, path: str) -> Step | None:
        check = self.check
        read = check.mapping(node, path, ("name", "parameters"))
        if read is None:
            return None
        name = self._name(read, node, path)
        if "parameters" not in read:
            check.wrong("'parameters' is missing", node.line, path, "where there are none, write parameters: {}")
        spec = self.transformers.get(name)
        if spec is None:
            if name:
                hint = nearest(name, self.transformers)
                check.wrong(f"there is no transformer {name!r}", read["name"].line, f"{path}.name", hint)
            return None
        if "parameters" not in read:
            return None
        parameters = read["parameters"]
        return Step(name, spec.read(check, parameters, f"{path}.parameters"), node.line, dict(parameters.lines()))

    def _publishers(self, read: Mapping[str, Node], node: Node, path: str) -> tuple[str, ...]:
        if _absent(read, "publishers") or read["publishers"].value == []:
            self.check.wrong(
                "'publishers' is missing: where do the samples go?", node.line, path, "for example store://"
            )
            return ()
        urls = self.check.texts(read["publishers"], f"{path}.publishers") or ()
        items = read["publishers"].value
        for i, item in enumerate(items if isinstance(items, list) else []):
            if isinstance(item.value, str) and item.value:
                self._publisher(item.value, item.line, f"{path}.publishers[{i}]")
                if item.value in urls[:i]:
                    self.check.warn(f"{item.value!r} is there twice", item.line, f"{path}.publishers[{i}]")
        return urls

    def _publisher(self, url: str, line: int, path: str) -> None:
        scheme = scheme_of(url)
        if scheme in LEGACY_PUBLISHERS:
            if "?" in url:
                self.check.warn(f"its options are ignored: {scheme} means the configured store", line, path)
        elif scheme in _GONE:
            self.check.wrong(f"there is no publisher {scheme!r}", line, path, _GONE[scheme])
        elif scheme not in self.schemes:
            self.check.wrong(f"there is no publisher {scheme!r}", line, path, nearest(scheme, self.schemes))
        elif scheme in publishers.schemes():
            for problem in publishers.check(url):
                self.check.wrong(problem.message, line, path, problem.hint)

    def _name(self, read: Mapping[str, Node], node: Node, path: str) -> str:
        if _absent(read, "name"):
            self.check.wrong("'name' is missing", node.line, path)
            return ""
        name = self.check.text(read["name"], f"{path}.name")
        if name == "":
            self.check.wrong("is empty", read["name"].line, f"{path}.name")
        return name or ""

    def _meters(self, read: Mapping[str, Node], node: Node, path: str) -> tuple[str, ...]:
        check = self.check
        key = "counters" if "meters" not in read and "counters" in read else "meters"
        if "counters" in read:
            check.warn("'counters' is the old name of 'meters'", read["counters"].line, f"{path}.counters")
        if _absent(read, key):
            check.wrong("'meters' is missing", node.line, path)
            return ()
        found = read[key]
        path = join(path, key)
        if isinstance(found.value, str):
            check.warn(f"is one name, not a list: taken as [{found.value}]", found.line, path)
            found = Node([found], found.line)
        if found.value == []:
            check.wrong("names no meter", found.line, path)
            return ()
        before = len(check.problems)
        meters = check.texts(found, path) or ()
        if len(check.problems) == before:
            for message in matching.problems(meters):
                check.wrong(message, found.line, path)
        return meters

    def _interval(self, read: Mapping[str, Node], path: str) -> int | None:
        if _absent(read, "interval"):
            return None
        node = read["interval"]
        path = f"{path}.interval"
        value = self.check.number(node, path)
        if value is None:
            return None
        if not 1 <= value <= _MAX_INTERVAL:
            self.check.wrong(f"must be at least 1 second and at most a year, not {value:g}", node.line, path)
            return None
        return int(value)

    def _optional_texts(self, read: Mapping[str, Node], path: str, key: str) -> tuple[str, ...]:
        if _absent(read, key):
            return ()
        return self.check.texts(read[key], f"{path}.{key}") or ()

    def _unique(self, section: str, names: list[tuple[str, int]]) -> None:
        seen: dict[str, int] = {}
        for i, (name, line) in enumerate(names):
            if name in seen and name:
                message = f"the name {name!r} is taken (line {seen[name]})"
                self.check.wrong(message, line, f"{section}[{i}].name")
            seen.setdefault(name, line)

    def _links(self, sources: list[Source], sinks: list[str]) -> None:
        """Every sink that a source names is there, and a source:sink is one pipeline."""
        pairs: dict[str, int] = {}
        for i, source in enumerate(sources):
            for j, sink in enumerate(source.sinks):
                path = f"sources[{i}].sinks[{j}]"
                line = self._lines.get(path, source.line)
                both = source.name if source.name == sink else f"{source.name}:{sink}"
                if sink not in sinks:
                    if "" in sinks:
                        continue  # It may be the one whose name is missing: one problem, not two.
                    self.check.wrong(f"there is no sink {sink!r}", line, path, nearest(sink, sinks))
                elif sink in source.sinks[:j]:
                    self.check.wrong(f"the sink {sink!r} is named twice", line, path)
                elif sources[pairs.setdefault(both, i)].name != source.name:
                    self.check.wrong(f"the pipeline {both!r} (source:sink) is there twice", line, path)


def _absent(members: Mapping[str, Node], key: str) -> bool:
    return key not in members or members[key].value is None
