"""The registry: parts found by name or URL scheme through entry points, and loaded when they are first asked for.

It is one of the few places that join the rooms: nothing in it names a part. A third party's distribution adds its own
by declaring an entry point in the same group::

    [project.entry-points."nephoscope.publisher"]
    carrier-pigeon = "my_package.pigeons:PigeonPublisher [pigeons]"

The word in brackets is the extra that the part needs; it is named where an import fails for want of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nephoscope.errors import ConfigError, MissingExtra, Problem, nearest

LOG = "nephoscope.log"
POLLSTER = "nephoscope.pollster"
DISCOVERY = "nephoscope.discovery"
TRANSFORMER = "nephoscope.transformer"
STORE = "nephoscope.store"
PUBLISHER = "nephoscope.publisher"
COORDINATION = "nephoscope.coordination"
LISTENER = "nephoscope.listener"

NOUNS = {
    LOG: "log",
    POLLSTER: "pollster",
    DISCOVERY: "discovery",
    TRANSFORMER: "transformer",
    STORE: "store",
    PUBLISHER: "publisher",
    COORDINATION: "coordination back end",
    LISTENER: "listener",
}
"""The groups, and what one of each is called in messages."""


@cache
def _group(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        # The first on the path wins, as with modules: a checkout shadows an installed copy.
        found.setdefault(point.name, point)
    return found


def names(group: str) -> tuple[str, ...]:
    """The names known in a group, in alphabetical order. Loads nothing."""
    return tuple(sorted(_group(group)))


def extra_of(group: str, name: str) -> str:
    """The extra that a part declares to need, or ''."""
    point = _group(group).get(name)
    return point.extras[0] if point and point.extras else ""


@cache
def load(group: str, name: str) -> Any:
    """The object behind a name.

    Raises ConfigError with the nearest name where there is none, MissingExtra where a client that it needs is not
    installed.
    """
    points = _group(group)
    point = points.get(name)
    if point is None:
        noun = NOUNS.get(group, group)
        hint = nearest(name, points) or "is nephoscope installed? pip install ."
        raise ConfigError([Problem(f"there is no {noun} {name!r}", hint=hint)])
    try:
        return point.load()
    except ModuleNotFoundError as error:
        if point.extras and _is_foreign(error.name, point.module):
            raise MissingExtra(f"{NOUNS.get(group, group)} {name!r}", point.extras[0]) from error
        raise


def load_all(group: str, wanted: Iterable[str] | None = None) -> dict[str, Any]:
    """Several parts of a group by name: those wanted, or all."""
    return {name: load(group, name) for name in (names(group) if wanted is None else wanted)}


def scheme(url: str) -> str:
    """The scheme of a URL, or a bare word as it is; a driver after '+' is not part of it: ``postgresql+psycopg://h/d``."""
    return url.partition("://")[0].partition("+")[0].lower()


def load_for(group: str, url: str) -> Any:
    """The object that serves a URL's scheme. Raises as `load` does."""
    return load(group, scheme(url))


def _is_foreign(missing: str | None, module: str) -> bool:
    """Whether a module that was not found belongs to somebody else, and not to the part's own package."""
    return bool(missing) and missing.partition(".")[0] != module.partition(".")[0]  # type: ignore[union-attr]
