"""The systems that can be polled here: what the registry knows, made for the settings of the process."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from nephoscope import registry
from nephoscope.errors import ConfigError, Problem, nearest
from nephoscope.settings import Settings
from sources.pollster import Discover, Pollster, System


class Systems:
    """All pollsters and discoveries.

    Args:
        settings: those of the process. ConfigError with all that is wrong in what they name.

    """

    def __init__(self, settings: Settings) -> None:
        self._systems: list[System] = []
        self.pollsters: dict[str, Pollster] = {}
        self.discoveries: dict[str, Discover] = registry.load_all(registry.DISCOVERY)
        problems: list[Problem] = []
        for name in registry.names(registry.POLLSTER):
            try:
                found = registry.load(registry.POLLSTER, name)
                system = System((found,)) if isinstance(found, Pollster) else found(settings)
            except ConfigError as error:
                problems += error.problems
                continue
            self._systems.append(system)
            self.pollsters |= {p.name: p for p in system.pollsters}
            self.discoveries |= system.discoveries
        if problems:
            self.close()
            raise ConfigError(problems)

    def of(self, namespaces: Collection[str]) -> dict[str, Pollster]:
        """The pollsters of some namespaces, or all, by name. ConfigError where there is no such namespace."""
        known = {p.namespace for p in self.pollsters.values()}
        wrong = [n for n in namespaces if n not in known]
        if wrong:
            raise ConfigError(
                [Problem(f"no pollster is of the namespace {n!r}", hint=nearest(n, known)) for n in wrong]
            )
        return {n: p for n, p in self.pollsters.items() if not namespaces or p.namespace in namespaces}

    def check(self, meters: Collection[str], namespaces: Collection[str] = ()) -> Iterator[Problem]:
        """What keeps these meters from being polled here by the pollsters of some namespaces, or all."""
        asked = self.of(namespaces)
        for system in self._systems:
            wanted = {m.name for p in system.pollsters if p.name in asked for m in p.meters}.intersection(meters)
            if wanted:
                yield from system.check(wanted)

    def close(self) -> None:
        """Give back what the systems hold."""
        for system in self._systems:
            system.close()


@contextmanager
def systems_of(settings: Settings) -> Iterator[Systems]:
    """The systems, for as long as the context is open."""
    systems = Systems(settings)
    try:
        yield systems
    finally:
        systems.close()
