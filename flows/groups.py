"""The groups that the aggregator fills: their keys, and panes of open groups.

A pane holds the groups of one window (or of one late part of it; or all groups, where there are no windows), a row a key. Windows and late
parts all close at multiples of `retention_time`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows.interning import I32, Columns, SeriesIndex
from flows.plan import PlanStep
from flows.rows import Strings
from flows.transformer import unpack
from nephoscope import identity

if TYPE_CHECKING:
    from flows.resharding import Moved

_KEYS: dict[str, tuple[Any, Any]] = {
    "name": (np.int32, 0),
    "resource": (np.int32, 0),
    "user": (np.int32, -1),
    "project": (np.int32, -1),
    "hi": (np.uint64, 0),
    "lo": (np.uint64, 0),
}
_GROUP: dict[str, tuple[Any, Any]] = {
    "key": (np.int32, 0),
    "count": (np.int64, 0),
    "sum": (np.float64, 0.0),
    "mode": (np.int8, 0),
    "kind": (np.int8, 0),
    "unit": (np.int32, 0),
    "first_time": (np.int64, 0),
    "last_time": (np.int64, 0),
    "user": (np.int32, 0),
    "project": (np.int32, 0),
    "metadata": (np.int32, 0),
    "late": (bool, False),
    "opened": (np.int64, 0),
    "hi": (np.uint64, 0),
    "lo": (np.uint64, 0),
    "part": (np.int64, 0),
    "live": (bool, False),
    "order": (np.int64, 0),  # of the row that opened the group, among all that the step got
}


class Keys:
    """Numbers for (name, resource, user, project): found by (name, resource), the rest compared, exceptions in a dictionary."""

    __slots__ = ("columns", "index", "others")

    def __init__(self) -> None:
        self.index = SeriesIndex()
        self.columns = Columns(_KEYS)
        self.others: dict[tuple[int, int, int], int] = {}

    def find(self, step: PlanStep, name: I32, resource: I32, user: I32, project: I32, strings: Strings) -> I32:
        """The key number of each row; user and project are -1 where they are not part of the key."""
        slot = self.index.find((resource.astype(np.int64) << 32) | name)
        columns = self.columns
        columns.ensure(self.index.size)
        unset = columns["user"][slot] == -1
        if unset.any():
            # The first row of a new key says what user and project it has.
            some = np.flatnonzero(unset)[::-1]
            self._fill(step, slot[some], name[some], resource[some], user[some], project[some], strings)
        other = (columns["user"][slot] != user + 2) | (columns["project"][slot] != project + 2)
        if other.any():
            slot = slot.copy()
            for i in np.flatnonzero(other).tolist():
                triple = (int(slot[i]), int(user[i]), int(project[i]))
                number = self.others.get(triple)
                if number is None:
                    number = self.others[triple] = int(self.index.allocate(1)[0])
                    columns.ensure(self.index.size)
                    one = slice(i, i + 1)
                    self._fill(step, np.array([number]), name[one], resource[one], user[one], project[one], strings)
                slot[i] = number
        return slot

    def _fill(
        self, step: PlanStep, slot: Any, name: I32, resource: I32, user: I32, project: I32, strings: Strings
    ) -> None:
        columns = self.columns
        columns["name"][slot], columns["resource"][slot] = name, resource
        columns["user"][slot], columns["project"][slot] = user + 2, project + 2
        names, resources, texts = strings.names.values, strings.resources.values, strings.texts.values
        for s in np.unique(slot).tolist():
            u, p = int(columns["user"][s]) - 2, int(columns["project"][s]) - 2
            columns["hi"][s], columns["lo"][s] = identity.digest(
                "aggregate",
                step.sink,
                step.position,
                names[columns["name"][s]],
                resources[columns["resource"][s]],
                texts[u] if u >= 0 else "",
                texts[p] if p >= 0 else "",
            )

    def forget(self, used: npt.NDArray[np.bool_]) -> int:
        """Drop the keys that are not marked in `used` (one flag a number); how many. They carry nothing from group to group."""
        before = len(self.index) + len(self.others)
        for triple in [t for t, number in self.others.items() if not used[number]]:
            self.index.give_back(self.others.pop(triple))
        used[[base for base, _, _ in self.others]] = True
        self.index.release(~used)
        self.columns.clear(np.flatnonzero(~used))
        return before - len(self.index) - len(self.others)


@dataclass(slots=True)
class Pane:
    """Groups of one window or late part; `start` and `closing` are MIN_TIME and MAX_TIME where there are no windows."""

    start: int
    closing: int
    late: bool
    count: int = 0
    columns: Columns = field(default_factory=lambda: Columns(_GROUP))
    parts: dict[int, int] = field(default_factory=dict)
    dense: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    sparse: dict[int, int] = field(default_factory=dict)
    """Slots by key: an array over all keys, for the many groups of a window; a dictionary for the few of a late part."""

    def slots(self, keys: I32, size: int) -> I32:
        """The slot of each key, -1 for none. `size`: above all keys."""
        if self.late:
            get = self.sparse.get
            return np.array([get(k, -1) for k in keys.tolist()], np.int32)
        if len(self.dense) < size:
            grown = np.full(int(size * 1.25) + 16, -1, np.int32)
            grown[: len(self.dense)] = self.dense
            self.dense = grown
        return self.dense[keys]

    def assign(self, keys: I32, slots: I32) -> None:
        """Give keys their slots; slots has looked them up before."""
        if self.late:
            self.sparse.update(zip(keys.tolist(), slots.tolist(), strict=True))
        else:
            self.dense[keys] = slots

    def release(self, keys: I32) -> None:
        """Take the keys' slots back."""
        if self.late:
            for key in keys.tolist():
                del self.sparse[key]
        else:
            self.dense[keys] = -1


@dataclass(slots=True)
class AggregatorState:
    """Keys, open panes by (start, closing), and how many rows have come so far."""

    keys: Keys = field(default_factory=Keys)
    panes: dict[tuple[int, int], Pane] = field(default_factory=dict)
    rows: int = 0
    retired: list[tuple[PlanStep, list[Pane]]] = field(default_factory=list)
    """What was open under other parameters, with the step as it was: goes out with the next call."""

    def forget(self) -> int:
        """Drop the keys that no open group has; how many."""
        used = np.zeros(self.keys.index.size, bool)
        for pane in self.panes.values():
            columns = pane.columns
            used[columns["key"][: pane.count][columns["live"][: pane.count]]] = True
            used[list(pane.parts)] = True
        return self.keys.forget(used)

    def used(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """(pool, numbers) of every string that the state refers to."""
        keys = self.keys
        size = keys.index.size
        named = keys.columns["user"][:size] != -1
        yield "names", keys.columns["name"][:size][named]
        yield "resources", keys.columns["resource"][:size][named]
        for column in ("user", "project"):
            numbers = keys.columns[column][:size][named] - 2
            yield "texts", numbers[numbers >= 0]
        for pane in self.panes.values():
            for column, pool in (("user", "texts"), ("project", "texts"), ("metadata", "texts"), ("unit", "units")):
                yield pool, pane.columns[column][: pane.count]


def in_order(pane: Pane, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """The slots of groups in the order in which they were opened."""
    slot = np.flatnonzero(chosen)
    order = pane.columns["order"][slot]
    return slot if (order[1:] >= order[:-1]).all() else slot[np.argsort(order, kind="stable")]


def squeeze(pane: Pane, live: npt.NDArray[np.bool_]) -> None:
    """Move the live groups of a pane together, in order."""
    kept = np.flatnonzero(live)
    for name, array in pane.columns.arrays.items():
        pane.columns.arrays[name][: len(kept)] = array[kept]
    pane.columns["live"][len(kept) : pane.count] = False
    pane.count = len(kept)
    pane.assign(pane.columns["key"][: pane.count], np.arange(pane.count, dtype=np.int32))


def change(former: PlanStep, step: PlanStep, state: AggregatorState) -> AggregatorState:
    """Close what is open, as the step was when it opened it. A window that goes on under the new parameters goes on with its next part."""
    state.retired.append((former, list(state.panes.values())))
    old, state.panes = state.panes, {}
    span = step.program.span
    if span and former.program.span:
        for (start, closing), pane in old.items():
            parts = dict(pane.parts)
            for key in pane.columns["key"][: pane.count][pane.columns["live"][: pane.count]].tolist():
                parts[key] = parts.get(key, 0) + 1
            if parts:
                state.panes[start, closing] = Pane(start, closing, closing != start + span, parts=parts)
    return state


def held(state: AggregatorState) -> int:
    """Samples in open groups."""
    return sum(int(p.columns["count"][: p.count][p.columns["live"][: p.count]].sum()) for p in state.panes.values())


def move(step: PlanStep, source: AggregatorState, target: AggregatorState, moved: Moved) -> None:
    """The open groups of some resources, and which parts of open windows they have published."""
    keys = source.keys.columns
    target.rows = max(target.rows, source.rows)
    for (start, closing), pane in source.panes.items():
        columns = pane.columns
        slot = np.flatnonzero(columns["live"][: pane.count])
        slot = slot[moved.has(keys["resource"][columns["key"][slot]])]
        parts = np.array([k for k in pane.parts if moved.has(keys["resource"][k])], np.int64)
        old = np.unique(np.concatenate([columns["key"][slot], parts]))
        if not len(old):
            continue
        resource = moved.numbers("resources", keys["resource"][old])
        names = moved.numbers("names", keys["name"][old])
        user, project = (moved.numbers("texts", keys[c][old] - 2) for c in ("user", "project"))
        new = dict(
            zip(
                old.tolist(),
                target.keys.find(step, names, resource, user, project, moved.target.strings).tolist(),
                strict=True,
            )
        )
        into = target.panes.setdefault((start, closing), Pane(start, closing, pane.late))
        into.parts.update((new[k], pane.parts[k]) for k in parts.tolist())
        place = np.arange(into.count, into.count + len(slot), dtype=np.int32)
        into.columns.ensure(into.count + len(slot))
        for name, column in columns.arrays.items():
            pool = {"unit": "units", "user": "texts", "project": "texts", "metadata": "texts"}.get(name)
            into.columns[name][place] = moved.numbers(pool, column[slot]) if pool else column[slot]
        key = np.array([new[k] for k in columns["key"][slot].tolist()], np.int32)
        into.columns["key"][place] = key
        into.count += len(slot)
        into.slots(key, target.keys.index.size)
        into.assign(key, place)


def dump(state: AggregatorState) -> Any:
    """The state as plain data."""
    keys, slots, size = state.keys.index.dump()
    panes = [
        [p.start, p.closing, p.late, p.count, p.columns.dump(p.count), list(p.parts.items())]
        for p in state.panes.values()
    ]
    others = [[list(k), v] for k, v in state.keys.others.items()]
    return [keys, slots, size, state.keys.columns.dump(size), others, panes, state.rows]


def load(_step: PlanStep, packed: Any) -> AggregatorState:
    """The state that dump was called on."""
    keys, slots, size, columns, others, panes, rows = packed
    state = AggregatorState(rows=rows)
    state.keys.others = {(k[0], k[1], k[2]): v for k, v in others}
    state.keys.index.load(unpack(keys), unpack(slots), size)
    state.keys.index.reserve(state.keys.others.values())
    state.keys.columns.load({name: unpack(a) for name, a in columns.items()}, size)
    for start, closing, late, count, arrays, parts in panes:
        pane = Pane(start, closing, late, count)
        pane.columns.load({name: unpack(a) for name, a in arrays.items()}, count)
        pane.parts = dict(parts)
        pane.slots(np.empty(0, np.int32), size)
        live = np.flatnonzero(pane.columns["live"][:count]).astype(np.int32)
        pane.assign(pane.columns["key"][live], live)
        state.panes[start, closing] = pane
    return state
