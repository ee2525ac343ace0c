"""`check`: is everything right? In three stages: correctness of the files, topology, environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from nephoscope import documents, publishers
from nephoscope.cli.changes import changes
from nephoscope.cli.options import Config, Json, Namespaces, Set, settings_of
from nephoscope.cli.output import complain
from nephoscope.cli.parts import known_schemes, load_polling_and_pipeline, open_log, open_store
from nephoscope.errors import EX_CONFIG, ConfigError, MissingExtra, NephoscopeError, Problem, nearest
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import STORE, Pipeline, Polling, cross_check, load_pipeline, load_polling, resolve_publisher
from nephoscope.redaction import redacted
from nephoscope.settings import Settings, load_settings, setting_names
from nephoscope.store_publisher import StorePublisher, names_store

if TYPE_CHECKING:
    from sources.pollster import Pollster

_T = TypeVar("_T")
STAGES = ("correctness", "topology", "environment")


@dataclass
class Findings:
    """What the stages found. `problems` make the check fail, `warnings` do not."""

    problems: list[tuple[str, Problem]] = field(default_factory=list)
    warnings: list[tuple[str, Problem]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)


def check(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="pipeline.yaml, polling.yaml, settings and files of definitions; none: what would run here.",
            show_default=False,
        ),
    ] = None,
    config: Config = None,
    overrides: Set = None,
    namespaces: Namespaces = None,
    json: Json = False,
) -> None:
    """Check files, or all that `run` would use here. Exits with 78 and every problem where something is wrong.

    The stages come in this order: correctness (does it load?), topology (does it fit together?), environment (are state
    folder, log, store and pollsters there? Of an agent's host: those of its --namespace). With files, only the first two. Where a flow runs on the settings' state_dir, a pipeline is
    also compared with that flow's: a step that was renamed or moved is a new one, with new ids.

    Example: nephoscope check my/pipeline.yaml
    """
    findings = Findings()
    pipelines: list[Pipeline] = []
    pollings: list[Polling] = []
    settings: Settings | None = None
    if files:
        for file in files:
            _collect(findings, "correctness", partial(_load, file, pipelines, pollings, findings))
        findings.skipped["environment"] = "files were named"
    else:
        settings = _collect(findings, "correctness", lambda: settings_of(config, overrides))
        loaded = settings and _collect(
            findings, "correctness", lambda: load_polling_and_pipeline(settings, namespaces or ())
        )
        if loaded:
            pipelines.append(loaded[0])
            pollings.append(loaded[1])
        if settings is None:
            findings.skipped["environment"] = "the settings are wrong"
        if settings is not None:
            _listening(findings, settings)
    _topology(findings, pipelines, pollings, settings)
    _running(findings, pipelines, settings or _settings_for(files or [], config, overrides))
    if settings is not None:
        _environment(findings, pipelines, pollings, settings, namespaces or ())
    _report(findings, as_json=json)
    if findings.problems:
        raise typer.Exit(EX_CONFIG)


def _listening(findings: Findings, settings: Settings) -> None:
    """The definitions, the URLs, and where events go."""
    from flows.events import event_pipeline
    from sources.notifications import service

    told = documents.Checker("")
    _collect(findings, "correctness", lambda: service.check(settings, told))
    _collect(findings, "correctness", lambda: event_pipeline(settings))
    findings.warnings += [("correctness", p) for p in told.warnings]


def _settings_for(files: Iterable[Path], config: Path | None, overrides: list[str] | None) -> Settings | None:
    """The settings of the flow that named files are meant for: where they were given, or where they name one of the files."""
    try:
        settings = settings_of(config, overrides)
    except NephoscopeError:
        return None  # Files are checked by themselves; the settings are, where none is named.
    named = config is not None or overrides or settings.pipeline_file().resolve() in {f.resolve() for f in files}
    return settings if named else None


def _running(findings: Findings, pipelines: Iterable[Pipeline], settings: Settings | None) -> None:
    if settings is not None:
        for pipeline in pipelines:
            findings.warnings += [("topology", p) for p in changes(settings, pipeline)]


def kind_of(file: Path) -> str:
    """What a file is, by its first keys: 'pipeline', 'polling', 'meters', 'events', 'event_pipeline', 'pollsters' or 'settings'.

    Raises ConfigError where it is no YAML.
    """
    top = documents.load(file, last_counts=True).value
    if isinstance(top, dict) and "metric" in top:
        return "meters"
    if isinstance(top, list) and any(isinstance(item.value, dict) and "event_type" in item.value for item in top):
        return "events"
    alone = top if isinstance(top, list) else [documents.Node(top, 1)]
    if any(isinstance(item.value, dict) and {"sample_type", "value_attribute"} & item.value.keys() for item in alone):
        return "pollsters"
    if isinstance(top, dict) and "sources" in top and "sinks" in top and _has_events(top["sources"]):
        return "event_pipeline"
    if isinstance(top, list) or (isinstance(top, dict) and "sinks" in top):
        return "pipeline"
    if isinstance(top, dict) and "sources" in top:
        return "polling"
    if isinstance(top, dict) and not any(k.partition(".")[0] in top for k in setting_names()) and "pipe" in file.name:
        return "pipeline"
    return "settings"


def _has_events(sources: documents.Node) -> bool:
    items = sources.value if isinstance(sources.value, list) else []
    return any(isinstance(item.value, dict) and "events" in item.value for item in items)


def _load(file: Path, pipelines: list[Pipeline], pollings: list[Polling], findings: Findings) -> None:
    kind = kind_of(file)
    if kind in {"meters", "events", "event_pipeline", "pollsters"}:
        _load_definitions(kind, file, findings)
    elif kind == "pipeline":
        pipelines.append(load_pipeline(file, publisher_schemes=known_schemes()))
    elif kind == "polling":
        pollings.append(load_polling(file))
    else:
        load_settings(file)


def _load_definitions(kind: str, file: Path, findings: Findings) -> None:
    from nephoscope.pipeline.events import load_event_pipeline
    from sources.dynamic.definitions import load_definitions
    from sources.notifications.definitions import load_meters
    from sources.notifications.event_definitions import load_events

    told = documents.Checker("")
    if kind == "meters":
        load_meters([file], told)
    elif kind == "events":
        load_events([file], told)
    elif kind == "pollsters":
        load_definitions([file])
    else:
        load_event_pipeline(file)
    findings.warnings += [("correctness", p) for p in told.warnings]


def _collect(findings: Findings, stage: str, action: Callable[[], _T]) -> _T | None:
    """The action's result; None where it raised, its problems then being among the findings."""
    try:
        return action()
    except ConfigError as error:
        findings.problems += [(stage, p) for p in error.problems]
    except NephoscopeError as error:
        findings.problems.append((stage, Problem(str(error))))
    return None


def _topology(
    findings: Findings, pipelines: Iterable[Pipeline], pollings: Iterable[Polling], settings: Settings | None
) -> None:
    for pipeline in pipelines:
        findings.warnings += [("topology", p) for p in cross_check(pipeline)]
        findings.warnings += [("topology", p) for p in _not_installed(pipeline)]
    for polling in pollings:
        findings.warnings += [("topology", p) for p in polling.warnings]
        if settings is not None:
            _note(findings, "topology", _collect(findings, "topology", partial(_fits, settings, polling)))
        for source in polling.sources:
            # The next poll of a target that changes hands comes within a period: a window must not close before.
            if settings is not None and source.interval > settings.series_ttl:
                findings.problems.append(
                    (
                        "topology",
                        Problem(
                            f"every series is forgotten between two polls: the interval is {source.interval} s, series_ttl {settings.series_ttl:g} s",
                            polling.file,
                            source.line,
                            f"sources.{source.name}.interval",
                            "raise series_ttl",
                        ),
                    )
                )


def _note(findings: Findings, stage: str, found: tuple[list[Problem], list[Problem]] | None) -> None:
    problems, warnings = found or ([], [])
    findings.problems += [(stage, p) for p in problems]
    findings.warnings += [(stage, p) for p in warnings]


def _fits(settings: Settings, polling: Polling) -> tuple[list[Problem], list[Problem]]:
    from sources.groups import problems_of

    return problems_of(settings, polling)


def _fits_there(settings: Settings, polling: Polling) -> tuple[list[Problem], list[Problem]]:
    from sources.coordination import Unreachable
    from sources.groups import problems_of, problems_there
    from sources.systems import systems_of

    if problems_of(settings, polling)[0]:
        return [], []  # Said before: what is wrong in itself is not tried.
    try:
        with systems_of(settings) as systems:
            return problems_there(settings, polling, list(systems.pollsters.values()))
    except Unreachable as error:
        raise ConfigError([Problem(str(error), field="coordination.backend_url")]) from None


def _not_installed(pipeline: Pipeline) -> Iterable[Problem]:
    """Publishers whose client is not installed here, so that nothing of their URL could be checked."""
    for sink in pipeline.sinks:
        for url in sink.publishers:
            if resolve_publisher(url) == STORE:
                continue
            try:
                publishers.class_of(url)
            except MissingExtra as error:
                yield Problem(f"it loads, but cannot run here: {error}", pipeline.file, sink.line, f"sinks.{sink.name}")


def _environment(
    findings: Findings,
    pipelines: Iterable[Pipeline],
    pollings: Iterable[Polling],
    settings: Settings,
    namespaces: Collection[str],
) -> None:
    stage = "environment"
    if _collect(findings, stage, lambda: _writable(settings.state_dir)):
        _collect(findings, stage, lambda: _log_opens(settings))
        wrong = _collect(findings, stage, lambda: _store_problems(settings))
        findings.problems += [(stage, p) for p in wrong or ()]
    for url in sorted({u for pipeline in pipelines for sink in pipeline.sinks for u in sink.publishers}):
        if names_store(url):
            wrong = _collect(findings, stage, partial(_problems_of, url))
            findings.problems += [(stage, p) for p in wrong or ()]
    if settings.coordination.backend_url.get_secret_value():
        for polling in pollings:
            _note(findings, stage, _collect(findings, stage, partial(_fits_there, settings, polling)))
    _collect(findings, stage, partial(_polled, findings, stage, list(pollings), settings, namespaces))


def _polled(
    findings: Findings, stage: str, pollings: list[Polling], settings: Settings, namespaces: Collection[str]
) -> None:
    """Whether what is to be polled can be polled here."""
    from sources.systems import systems_of

    with systems_of(settings) as systems:
        pollsters = list(systems.of(namespaces).values())
        known = {meter.name for pollster in pollsters for meter in pollster.meters}
        wanted: set[str] = set()
        for polling in pollings:
            findings.warnings += [(stage, p) for p in _unknown_meters(polling, known)]
            findings.problems += [(stage, p) for p in _wrong_resources(polling, pollsters)]
            for source in polling.sources:
                wanted.update(filter(MeterFilter(source.meters).matches, known))
        findings.problems += [(stage, p) for p in systems.check(wanted, namespaces)]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError([Problem(f"cannot write to {folder}: {error.strerror}", field="state_dir")]) from None
    if folder.stat().st_mode & 0o002 and os.name == "posix":
        raise ConfigError([Problem(f"{folder} can be written by everybody: chmod o-w", field="state_dir")])
    return True


def _log_opens(settings: Settings) -> None:
    with open_log(settings):
        pass


def _store_problems(settings: Settings) -> list[Problem]:
    with open_store(settings) as store:
        return store.check()


def _problems_of(url: str) -> list[Problem]:
    with closing(StorePublisher(publishers.delivery_of(url)[0])) as store:
        return store.problems()


def _unknown_meters(polling: Polling, known: Collection[str]) -> Iterable[Problem]:
    for source in polling.sources:
        wanted = [m for m in source.meters if not m.startswith("!")]
        if any(MeterFilter(source.meters).matches(name) for name in known):
            # Of several, those that give nothing are named one by one.
            silent = [m for m in wanted if not any(fnmatchcase(name, m) for name in known)]
        else:
            silent = wanted
        for pattern in silent:
            hint = "" if set(pattern) & set("*?[") else nearest(pattern, known)
            yield Problem(
                f"no pollster gives {pattern!r}", polling.file, source.line, f"sources.{source.name}.meters", hint
            )


def _wrong_resources(polling: Polling, pollsters: Collection[Pollster]) -> Iterable[Problem]:
    """Resources that a source names, and the pollster that would take them cannot poll."""
    for source in polling.sources:
        matches = MeterFilter(source.meters).matches
        wanted = [p for p in pollsters if any(matches(m.name) for m in p.meters)]
        for resource in source.resources:
            for words in (w for p in wanted if p.takes(resource) for w in p.verify(resource)):
                yield Problem(redacted(words), polling.file, source.line, f"sources.{source.name}.resources")


def _report(findings: Findings, *, as_json: bool) -> None:
    if as_json:
        import msgspec

        for level, found in (("problem", findings.problems), ("warning", findings.warnings)):
            for stage, problem in found:
                print(msgspec.json.encode({"level": level, "stage": stage, **msgspec.to_builtins(problem)}).decode())
        return
    for stage in STAGES:
        problems = [p for s, p in findings.problems if s == stage]
        warnings = [p for s, p in findings.warnings if s == stage]
        if stage in findings.skipped:
            print(f"{stage}: left out ({findings.skipped[stage]})")
            continue
        print(f"{stage}: {_counted(len(problems), 'problem') if problems else 'ok'}", flush=True)
        for warning in warnings:
            complain(f"{warning} [warning]")
        for problem in problems:
            complain(str(problem))


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
