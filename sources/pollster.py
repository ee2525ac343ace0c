"""The contract of a pollster: a plain callable that reads one target, and the table of the meters it can give.

A *target* is what one call asks: a host, a domain, one listing of a service in a region. Its samples may belong to many
resources. A pollster knows nothing of periods, partitions or topics::

    def poll(resource: str, meters: Collection[str]) -> Iterable[Reading]: ...

    THERMOMETER = Pollster("thermometer", METERS, poll, discovery="local_node")

and is found by the entry point group ``nephoscope.pollster``. What needs the settings, or comes as several pollsters, is a function of the
settings there instead, which makes a `System`::

    def cloud(settings: Settings) -> System: ...

Neither imports a client before it is used: a `System` is made wherever the meters are listed.

A pollster that waits without a thread (for many hosts at once on one event loop) returns an `Answer`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from nephoscope.errors import NephoscopeError, Problem
from nephoscope.settings import Settings
from nephoscope.times import NEVER


class Meter(NamedTuple):
    """What a pollster can give. `resource` says in words what the resource_id of its samples is.

    A name that ends in ``{attribute}`` stands for many meters: what is read ends the names. A source takes all of them or none, by this name.
    """

    name: str
    type: str
    unit: str
    resource: str
    description: str


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What was read of one meter of one resource. The agent makes a sample of it: timestamp, source and id are its business.

    `metadata`: the resource's metadata, or its JSON text. Readings of one resource do well to share one object: it is then written
    once. `measured_at`: microseconds, where the pollster knows better than "during the call".
    """

    meter: Meter
    volume: float
    resource_id: str
    metadata: Mapping[str, Any] | str = "{}"
    user_id: str = ""
    project_id: str = ""
    measured_at: int = NEVER


class Answer(Iterable[Reading]):
    """The readings of a call that goes on by itself. The agent's threads do not wait for it; whoever iterates over it does.

    `future` gives an iterable of readings, which may raise after the last, as the call itself may. A call that takes too long is cancelled.
    """

    def __init__(self, future: Future[Iterable[Reading]]) -> None:
        self.future = future

    def __iter__(self) -> Iterator[Reading]:
        yield from self.future.result()


def given(readings: Iterable[Reading], failed: Exception | None = None) -> Iterator[Reading]:
    """Readings, and then the error that kept more from coming."""
    yield from readings
    if failed is not None:
        raise failed


class PermanentError(NephoscopeError):
    """The target cannot be polled until somebody changes something (it needs another password): silenced, re-tried now and then."""


def takes_all(_resource: str) -> bool:
    """The default of Pollster.takes."""
    return True


def nothing_wrong(_resource: str) -> Iterable[str]:
    """The default of Pollster.verify."""
    return ()


def verified_by(parse: Callable[[str], object]) -> Callable[[str], Iterable[str]]:
    """A Pollster.verify of what takes a target's name apart, and raises NephoscopeError where that cannot be."""

    def verify(resource: str) -> Iterable[str]:
        try:
            parse(resource)
        except NephoscopeError as error:
            yield str(error)

    return verify


Poll = Callable[[str, Collection[str]], Iterable[Reading]]
"""Reads a target: (its name, the meters that are wanted). It may give more meters: they are left out. It may raise anything."""
Discover = Callable[[str], Iterable[str]]
"""Names the targets that there are now, given the parameter of `name://parameter` ('' where there is none)."""


@dataclass(frozen=True, slots=True)
class Pollster:
    """A named way to read targets.

    `takes` tells whether a resource that a source names is one of its targets; `discovery` is where it finds targets when a source names
    none; `timeout` (seconds) overrides the agent's; `namespace` is the agent's `--namespace` that it belongs to. `verify` asks nobody, and
    says what is wrong in the name of a target: `nephoscope check` shows it.
    """

    name: str
    meters: tuple[Meter, ...]
    poll: Poll
    discovery: str = ""
    takes: Callable[[str], bool] = takes_all
    timeout: float | None = None
    namespace: str = "central"
    verify: Callable[[str], Iterable[str]] = nothing_wrong

    @property
    def description(self) -> str:
        """The first sentence of the callable's docstring."""
        return (inspect.getdoc(self.poll) or "").partition("\n\n")[0].replace("\n", " ")


def _nothing() -> None:
    """The default of System.close."""


def _no_problems(_meters: Collection[str]) -> Iterable[Problem]:
    """The default of System.check."""
    return ()


@dataclass(frozen=True, slots=True)
class System:
    """What can be read of one system, made for some settings: its pollsters, and the discoveries that find their targets.

    `check(meters)` tries what the wanted meters need (connects, authenticates) and says what is wrong: `nephoscope check`
    asks it. `close` gives back connections and processes.
    """

    pollsters: tuple[Pollster, ...]
    discoveries: Mapping[str, Discover] = field(default_factory=dict)
    check: Callable[[Collection[str]], Iterable[Problem]] = _no_problems
    close: Callable[[], None] = _nothing


MakeSystem = Callable[[Settings], System]
"""Makes a system. ConfigError where the settings, or files that they name, are wrong."""
