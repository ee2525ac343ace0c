"""pipeline.yaml and polling.yaml, loaded strictly: every problem of a file in one go, each with its line and the nearest valid word.

All forms that Ceilometer took from Juno to Queens load; the exceptions are in docs/decisions/0011-pipeline-loading.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from nephoscope import documents, matching, registry
from nephoscope.documents import Checker
from nephoscope.errors import Problem, nearest
from nephoscope.pipeline.loader import Loader
from nephoscope.pipeline.model import (
    LEGACY_PUBLISHERS,
    STORE,
    Pipeline,
    Polling,
    PollingSource,
    Sink,
    Source,
    Step,
    resolve_publisher,
    scheme_of,
)
from nephoscope.pipeline_specs import SPECS, Spec

__all__ = [
    "LEGACY_PUBLISHERS",
    "STORE",
    "Pipeline",
    "Polling",
    "PollingSource",
    "Sink",
    "Source",
    "Step",
    "cross_check",
    "load_pipeline",
    "load_polling",
    "parse_pipeline",
    "parse_polling",
    "polling_of",
    "resolve_publisher",
    "scheme_of",
]


class _Installed(Mapping[str, Spec]):
    """The parameters of every transformer that is installed. A third party's is loaded when a pipeline names it, not before."""

    def __getitem__(self, name: str) -> Spec:
        if name in SPECS:
            return SPECS[name]
        if name not in registry.names(registry.TRANSFORMER):
            raise KeyError(name)
        spec: Spec | None = registry.load(registry.TRANSFORMER, name).spec
        return spec or Spec({})

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*SPECS, *registry.names(registry.TRANSFORMER))))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_pipeline(
    path: str | Path,
    *,
    transformers: Mapping[str, Spec] | None = None,
    publisher_schemes: Collection[str],
    polling: Polling | None = None,
) -> Pipeline:
    """The pipeline of a file. `polling`: that of a polling.yaml, which takes the place of what the sources say about it.

    `transformers`: what each takes, by name; without it, those of all that are installed. Raises ConfigError with every problem.
    """
    checker = Checker(str(path))
    known = _Installed() if transformers is None else transformers
    return Loader(checker, known, publisher_schemes).pipeline(documents.read(path, checker), polling)


def parse_pipeline(
    text: str | bytes,
    file: str = "pipeline.yaml",
    *,
    transformers: Mapping[str, Spec] | None = None,
    publisher_schemes: Collection[str],
    polling: Polling | None = None,
) -> Pipeline:
    """As load_pipeline, from the text."""
    checker = Checker(file)
    known = _Installed() if transformers is None else transformers
    return Loader(checker, known, publisher_schemes).pipeline(documents.parse(text, checker), polling)


def load_polling(path: str | Path) -> Polling:
    """The polling of a file. Raises ConfigError with every problem."""
    checker = Checker(str(path))
    return Loader(checker, {}, ()).polling(documents.read(path, checker))


def parse_polling(text: str | bytes, file: str = "polling.yaml") -> Polling:
    """As load_polling, from the text."""
    checker = Checker(file)
    return Loader(checker, {}, ()).polling(documents.parse(text, checker))


def polling_of(pipeline: Pipeline) -> Polling:
    """The polling that a pipeline's own sources define: those with an interval."""
    return Polling(
        tuple(
            PollingSource(s.name, s.interval, s.meters, s.resources, s.discovery, s.line)
            for s in pipeline.sources
            if s.interval is not None
        ),
        pipeline.file,
    )


def cross_check(pipeline: Pipeline, meters: Collection[str] = ()) -> list[Problem]:
    """Warnings: those of the loading, sinks that no source uses, sources without effect.

    `meters`: the names of all meters that can come in, where they are known.
    """
    out = list(pipeline.warnings)

    def warn(message: str, line: int, path: str, hint: str = "") -> None:
        out.append(Problem(message, pipeline.file, line, path, hint))

    if not pipeline.sources:
        warn("nothing is published: there is no source", 0, "sources")
    used = {name for source in pipeline.sources for name in source.sinks}
    for sink in pipeline.sinks:
        if sink.name not in used:
            warn(f"no source uses the sink {sink.name!r}", sink.line, f"sinks[{pipeline.sinks.index(sink)}]")
    for i, source in enumerate(pipeline.sources):
        takes = matching.MeterFilter(source.meters)
        if meters and not any(takes.matches(meter) for meter in meters):
            wanted = source.meters[0]
            hint = nearest(wanted, meters) if not set(wanted) & set("*?[!") else ""
            warn(f"the source {source.name!r} takes no known meter", source.line, f"sources[{i}].meters", hint)
    return sorted(dict.fromkeys(out), key=lambda problem: problem.line)
