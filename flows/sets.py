"""The sets that arithmetic waits for: a pane for those of a period that expire together, a row a resource, in the order of their first arrival.

What a set carries on (user, project, metadata, unit, type of the meters whose attributes are used) is a reference into the current
block while a call lasts, and becomes the partition's own numbers only if the set is still open when the call ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows.interning import Columns, SeriesIndex
from flows.plan import PlanStep
from flows.transformer import unpack

if TYPE_CHECKING:
    from flows.resharding import Moved

KEPT = ("user", "project", "metadata", "unit", "kind", "source", "time", "hi", "lo")
POOLS = {
    "user": "texts",
    "project": "texts",
    "metadata": "texts",
    "unit": "units",
    "source": "sources",
}
Key = tuple[int, int, int]
"""(period, end, expiry) of a pane."""
TEXTS = {"user": "user_id", "project": "project_id", "metadata": "resource_metadata"}


@dataclass(slots=True)
class Pane:
    """The sets of one period that expire together."""

    period: int
    end: int
    expiry: int
    index: SeriesIndex
    columns: Columns
    kept: Columns
    """What open sets carry on, once a call has ended without completing them."""

    @property
    def count(self) -> int:
        """Sets in the pane."""
        return self.index.size

    @property
    def key(self) -> Key:
        """What it is found by."""
        return self.period, self.end, self.expiry


def new_pane(period: int, end: int, expiry: int, meters: int, attributed: Sequence[int]) -> Pane:
    """An empty pane for so many meters; of those in `attributed` more than the volume is kept."""
    fill: dict[str, tuple[Any, Any]] = {
        "resource": (np.int32, 0),
        "have": (np.uint64, 0),
        "done": (bool, False),
        "polled": (np.int64, 0),
        "time": (np.int64, 0),
    }
    for m in range(meters):
        fill[f"v{m}"] = (np.float64, 0.0)
        fill[f"late{m}"] = (bool, False)
    kept: dict[str, tuple[Any, Any]] = {}
    for m in attributed:
        fill[f"ref{m}"] = (np.int32, -1)
        for name in KEPT:
            dtype: Any = {"time": np.int64, "kind": np.int8, "hi": np.uint64, "lo": np.uint64}.get(name, np.int32)
            kept[f"{name}{m}"] = (dtype, 0)
    return Pane(period, end, expiry, SeriesIndex(), Columns(fill), Columns(kept))


@dataclass(slots=True)
class Held:
    """A row that `hold` may carry over."""

    time: int
    volume: float
    late: bool
    kept: tuple[Any, ...]


@dataclass(slots=True)
class ArithmeticState:
    """Open panes, and what `hold` remembers by (resource, meter)."""

    panes: dict[Key, Pane] = field(default_factory=dict)
    held: dict[tuple[int, int], list[Held]] = field(default_factory=dict)

    def forget(self, before: int) -> int:
        """Drop held rows older than `before`; how many resources and meters have none left."""
        old = [key for key, held in self.held.items() if all(h.time < before for h in held)]
        for key in old:
            del self.held[key]
        return len(old)

    def used(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(pool, numbers) of every string that the state refers to."""
        for pane in self.panes.values():
            yield "resources", pane.columns["resource"][: pane.count]
            for name, array in pane.kept.arrays.items():
                pool = POOLS.get(name.rstrip("0123456789"))
                if pool:
                    yield pool, array[: pane.count]
        if self.held:
            yield "resources", np.array([r for r, _ in self.held])
            kept = np.array([h.kept[:6] for held in self.held.values() for h in held], np.int64).reshape(-1, 6)
            yield "texts", kept[:, :3].reshape(-1)
            yield "units", kept[:, 3]
            yield "sources", kept[:, 5]


def held_back(state: ArithmeticState) -> int:
    """Samples in sets that are not complete."""
    waiting = 0
    for pane in state.panes.values():
        have = pane.columns["have"][: pane.count][~pane.columns["done"][: pane.count]]
        waiting += int(np.bitwise_count(have).sum())
    return waiting


def move(step: PlanStep, source: ArithmeticState, target: ArithmeticState, moved: Moved) -> None:
    """The sets of some resources, the published ones of open panes too, and what `hold` remembers of them."""
    for key, pane in source.panes.items():
        slot = np.flatnonzero(moved.has(pane.columns["resource"][: pane.count]))
        if not len(slot):
            continue
        program = step.program
        into = target.panes.get(key)
        if into is None:
            into = target.panes[key] = new_pane(*key, len(program.meters), program.attributed)
        resource = moved.numbers("resources", pane.columns["resource"][slot])
        to = into.index.find(resource.astype(np.int64))
        into.columns.ensure(into.count)
        for name, column in pane.columns.arrays.items():
            into.columns[name][to] = column[slot]
        into.columns["resource"][to] = resource
        if pane.kept.capacity:
            into.kept.ensure(into.columns.capacity)
            for name, column in pane.kept.arrays.items():
                pool = POOLS.get(name.rstrip("0123456789"))
                into.kept[name][to] = moved.numbers(pool, column[slot]) if pool else column[slot]
    for (resource, meter), rows in source.held.items():
        if moved.has(resource):
            target.held[moved.number("resources", resource), meter] = [_held(h, moved) for h in rows]


def _held(row: Held, moved: Moved) -> Held:
    pools = [POOLS.get(name) for name in KEPT]
    kept = tuple(moved.number(p, n) if p else n for p, n in zip(pools, row.kept, strict=True))
    return Held(row.time, row.volume, row.late, kept)


def dump(state: ArithmeticState) -> Any:
    """The state as plain data."""
    panes = [
        [p.period, p.end, p.expiry, p.count, p.columns.dump(p.count), p.kept.dump(p.count) if p.kept.capacity else None]
        for p in state.panes.values()
    ]
    held = [[list(key), [[h.time, h.volume, h.late, list(h.kept)] for h in rows]] for key, rows in state.held.items()]
    return [panes, held]


def load(step: PlanStep, packed: Any) -> ArithmeticState:
    """The state that dump was called on."""
    state = ArithmeticState()
    for period, end, expiry, count, columns, kept in packed[0]:
        pane = new_pane(period, end, expiry, len(step.program.meters), step.program.attributed)
        pane.columns.load({name: unpack(a) for name, a in columns.items()}, count)
        if kept is not None:
            pane.kept.load({name: unpack(a) for name, a in kept.items()}, count)
        pane.index.find(pane.columns["resource"][:count].astype(np.int64))
        state.panes[pane.key] = pane
    for (resource, meter), rows in packed[1]:
        state.held[resource, meter] = [Held(time, volume, late, tuple(kept)) for time, volume, late, kept in rows]
    return state
