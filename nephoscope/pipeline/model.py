"""What pipeline.yaml and polling.yaml say, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nephoscope.errors import Problem

STORE = "store"
LEGACY_PUBLISHERS = frozenset({"notifier", "rpc", "meter", "meter_publisher", "direct", "database"})
"""Ceilometer's ways from a pipeline to its collector and database: they mean the configured store."""


@dataclass(frozen=True, slots=True)
class Source:
    """Which meters go to which sinks; with an interval, also what is polled."""

    name: str
    meters: tuple[str, ...]
    sinks: tuple[str, ...]
    interval: int | None = None
    resources: tuple[str, ...] = ()
    discovery: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """A transformer with its parameters, checked by its Spec: numbers are numbers, nulls are gone. `lines`: of each parameter, by path."""

    name: str
    parameters: dict[str, Any]
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sink:
    """A chain of steps and where its end goes. `publishers`: as written."""

    name: str
    steps: tuple[Step, ...]
    publishers: tuple[str, ...]
    line: int = 0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What pipeline.yaml says. `polling_from_pipeline`: its sources define the polling."""

    file: str
    sources: tuple[Source, ...]
    sinks: tuple[Sink, ...]
    polling_from_pipeline: bool = False
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class PollingSource:
    """What is polled how often (seconds)."""

    name: str
    interval: int
    meters: tuple[str, ...]
    resources: tuple[str, ...] = ()
    discovery: tuple[str, ...] = ()
    line: int = 0


@dataclass(frozen=True, slots=True)
class Polling:
    """What polling.yaml says."""

    sources: tuple[PollingSource, ...]
    file: str = ""
    warnings: tuple[Problem, ...] = ()


def scheme_of(url: str) -> str:
    """The scheme of a publisher's URL; a bare word is one: `test` means `test://`."""
    return url.partition(":")[0].lower()


def resolve_publisher(url: str) -> str:
    """'store' where the URL means the configured store, as Ceilometer's own names do; else its scheme."""
    scheme = scheme_of(url)
    return STORE if scheme in LEGACY_PUBLISHERS else scheme
