"""The states of some partitions dealt anew to more of them, resource by resource.

What a state holds of a resource moves to the partition that the resource has under the new count; nothing is computed, closed or forgotten on
the way. A new partition begins at the newest of the old watermarks: in a drained log they differ by what the partitions' last samples did,
and a later one can only make a sample late, never publish a window twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from flows.interning import I64
from flows.one_to_one import NAME_BITS, STEP_BITS, SeriesState
from flows.plan import Plan
from flows.state import State
from nephoscope.errors import NephoscopeError
from nephoscope.partition import partition

MOST_IDS = 200_000
"""Ids that every new partition is given. They do not say whose they are, so each gets those of all."""


class Moved:
    """Some resources of one state on their way into another: how numbers of strings there are written here."""

    def __init__(self, source: State, target: State, resources: Iterable[int]) -> None:
        self.source, self.target = source, target
        self.chosen = np.zeros(len(source.strings.resources.values), bool)
        self.chosen[list(resources)] = True
        self._known: dict[tuple[str, int], int] = {}

    def has(self, resources: Any) -> Any:
        """Which of these resources (numbers there) move."""
        return self.chosen[resources]

    def number(self, pool: str, number: int) -> int:
        """A string's number here. What is negative stands for none, and stays."""
        if number < 0:
            return number
        key = pool, number
        found = self._known.get(key)
        if found is None:
            text = getattr(self.source.strings, pool).values[number]
            found = self._known[key] = getattr(self.target.strings, pool).number(text)
        return found

    def numbers(self, pool: str, numbers: Any) -> Any:
        """As number, of an array."""
        used, inverse = np.unique(numbers, return_inverse=True)
        return np.array([self.number(pool, n) for n in used.tolist()], used.dtype)[inverse.reshape(-1)]


def reshard(plan: Plan, states: Mapping[int, State], count: int) -> dict[int, State]:
    """The states of `count` partitions that hold what these do. States that hold nothing are left out.

    NephoscopeError where a transformer does not say how its state is divided.
    """
    for step in plan.steps:
        kind = step.transformer
        if kind.state is not None and kind.shared is None and kind.move is None:
            raise NephoscopeError(f"{step.sink}[{step.position}]: the state of {step.kind} cannot be divided")
    out: dict[int, State] = {}

    def made(number: int) -> State:
        return out.setdefault(number, State(plan))

    for old, source in sorted(states.items()):
        # The old one goes on as far as it was, whatever it keeps.
        target = made(old)
        target.totals, target.waiting, target.owed = dict(source.totals), source.waiting, source.owed
        _ids(source, target)
        going: dict[int, list[int]] = {old: []}
        for name, number in source.strings.resources.numbers.items():
            going.setdefault(partition(name, count), []).append(number)
        for to, resources in going.items():
            if resources or to == old:
                _move(plan, Moved(source, made(to), resources))
    fresh = set(out) - set(states)
    if fresh and sum(len(s.ids.of) for s in states.values()) <= MOST_IDS:
        for number in fresh:
            for source in states.values():
                _ids(source, out[number])
    return out


def _move(plan: Plan, moved: Moved) -> None:
    source, target = moved.source, moved.target
    target.watermark = max(target.watermark, source.watermark)
    target.forgotten = max(target.forgotten, source.forgotten)
    for kind, series in source.series.items():
        _series(kind, series, target.series[kind], moved)
    for step in plan.steps:
        if step.transformer.move is not None:
            step.transformer.move(step, source.steps[step.number], target.steps[step.number], moved)


def _series(kind: str, source: SeriesState, target: SeriesState, moved: Moved) -> None:
    keys, slots, _ = source.index.dump()
    chosen = moved.has(keys >> NAME_BITS + STEP_BITS)
    keys, slots = keys[chosen], slots[chosen]
    if not len(keys):
        return
    name_and_step: I64 = keys & (1 << NAME_BITS + STEP_BITS) - 1
    to = target.find(
        moved.numbers("resources", keys >> NAME_BITS + STEP_BITS).astype(np.int32),
        moved.numbers("names", name_and_step >> STEP_BITS).astype(np.int32),
        (name_and_step & (1 << STEP_BITS) - 1).astype(np.int32),
    )
    for name, column in source.columns.arrays.items():
        values = column[slots]
        target.columns[name][to] = moved.numbers("sources", values) if kind == "dedupe" and name == "source" else values
    if kind == "dedupe":
        gaps = moved.source.periods.gaps
        for slot, new in zip(slots.tolist(), to.tolist(), strict=True):
            if slot in gaps:
                moved.target.periods.gaps[new] = list(gaps[slot])


def _ids(source: State, target: State) -> None:
    """The ids that a partition remembers, each in its bucket."""
    for bucket, ids in source.ids.buckets.items():
        for raw in ids:
            target.ids.double(raw, bucket)


__all__ = ["MOST_IDS", "Moved", "reshard"]
