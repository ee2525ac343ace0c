"""How long samples and events are kept, and which class of lifetimes a meter is in.

A sample's time to live is that of its meter's class: the first of `time_to_live_classes` whose patterns match, else
`time_to_live` (the class ''). It counts from the sample's timestamp.

Stores keep the samples of each class apart, so that a class can go without a look at the others. Therefore a store remembers
which meters were in which class, and since when: its *plan*. A sample's class is a function of its meter, its timestamp and the plan,
so the same sample written again under other settings is found where it lies. New meters in a class hold for samples that
are stamped a day after the change; another number of seconds holds at once, for all that the class has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope.errors import StoreError
from nephoscope.matching import MeterFilter
from nephoscope.times import MIN_TIME, SECOND

FOR_EVER: Final = -1
DEFAULT: Final = ""
"""The name of the class that has what no other one has. Its number is 0."""
MAX_CLASSES: Final = 8
"""Classes at a time: each is an index, a column family or a partition of its own."""
MAX_NAMES: Final = 62
"""Classes that a store has ever had."""
DELAY: Final = 86_400 * SECOND
"""From a change of a class's meters to the first timestamp that it holds for. Further ahead than this no sample may be stamped."""


class LifetimeClass(NamedTuple):
    """Some meters, and how many seconds their samples are kept (-1: for ever)."""

    name: str
    meters: tuple[str, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """What the settings say: seconds for samples and for events, and the classes that have others. -1: for ever."""

    samples: int = FOR_EVER
    events: int = FOR_EVER
    classes: tuple[LifetimeClass, ...] = ()

    def seconds(self, name: str) -> int:
        """The time to live of a class. One that the settings no longer name lives as the default does."""
        return next((c.seconds for c in self.classes if c.name == name), self.samples)

    def before(self, name: str, now: int) -> int:
        """The samples of a class with a timestamp before this are due; MIN_TIME: none is."""
        return _before(self.seconds(name), now)

    def events_before(self, now: int) -> int:
        """The events generated before this are due; MIN_TIME: none is."""
        return _before(self.events, now)

    def class_of(self, meter: str) -> str:
        """The class that a meter is in by these settings."""
        return next((c.name for c in self.classes if _filter(c.meters).matches(meter)), DEFAULT)


class Edition(NamedTuple):
    """Which meters are in which class, for samples stamped at `since` or later."""

    since: int
    classes: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A store's memory of the classes: its editions in the order of `since`. A class's number is its place in `names`, plus one."""

    editions: tuple[Edition, ...] = (Edition(MIN_TIME, ()),)
    names: tuple[str, ...] = ()

    def revised(self, lifetimes: Lifetimes, now: int, *, empty: bool = False) -> Plan:
        """The plan under these settings; the same one where they change no meter's class. `empty`: the store has no samples yet.

        A store keeps the revised plan before anything is written under it. StoreError where it had too many classes.
        """
        classes = tuple((c.name, c.meters) for c in lifetimes.classes)
        names = (*self.names, *(c.name for c in lifetimes.classes if c.name not in self.names))
        if len(names) > MAX_NAMES:
            raise StoreError(f"time_to_live_classes: a store can have at most {MAX_NAMES} names of classes over time")
        if empty:
            return Plan((Edition(MIN_TIME, classes),), names)
        if self.editions[-1].classes == classes:
            return self
        kept = tuple(e for e in self.editions if e.since <= now)
        if kept[-1].classes == classes:
            return Plan(kept, names)
        return Plan((*kept, Edition(now + DELAY, classes)), names)

    def numbers(
        self, meters: Sequence[str], which: npt.NDArray[np.int64], time: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """The class's number of each row, given its position in `meters` and its timestamp."""
        if not self.names:
            return np.zeros(len(which), np.int64)
        tables = np.array([[self._number(e, m) for m in meters] for e in self.editions], np.int64)
        if len(self.editions) == 1:
            return np.asarray(tables[0][which], np.int64)
        edition = np.searchsorted([e.since for e in self.editions], time, side="right") - 1
        return np.asarray(tables[np.maximum(edition, 0), which], np.int64)

    def number(self, meter: str, timestamp: int) -> int:
        """The class's number of one sample."""
        return int(self.numbers([meter], np.zeros(1, np.int64), np.array([timestamp], np.int64))[0])

    def name(self, number: int) -> str:
        """The class of a number."""
        return self.names[number - 1] if number else DEFAULT

    def numbers_of(self, meter: str) -> frozenset[int]:
        """All classes that samples of a meter may be in."""
        return frozenset(self._number(e, meter) for e in self.editions)

    def _number(self, edition: Edition, meter: str) -> int:
        name = next((n for n, patterns in edition.classes if _filter(patterns).matches(meter)), DEFAULT)
        return self.names.index(name) + 1 if name else 0

    def to_json(self) -> str:
        """What a store keeps of it."""
        return msgspec.json.encode({"editions": self.editions, "names": self.names}).decode()

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that a store kept."""
        tree: dict[str, Any] = msgspec.json.decode(text)
        editions = tuple(Edition(e[0], tuple((n, tuple(m)) for n, m in e[1])) for e in tree["editions"])
        return cls(editions, tuple(tree["names"]))


@lru_cache(maxsize=256)
def _filter(patterns: tuple[str, ...]) -> MeterFilter:
    return MeterFilter(patterns)


def _before(seconds: int, now: int) -> int:
    return MIN_TIME if seconds < 0 else now - seconds * SECOND
