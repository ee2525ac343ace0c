"""A recovery store read and written as a whole, by the engine itself: its files are its own business.

A flow with the steps of the real one is resumed on a copy, and tells what it was given; another one runs on an empty store and has what it is
to keep in its first snapshot.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition

from flows import engine
from flows.placement import key_of, partition_of
from flows.snapshot import Snapshot


@dataclass
class Stored:
    """What a flow goes on from: the next offset of each partition, its state, and the place of each publisher that keeps one."""

    offsets: dict[int, int] = field(default_factory=dict)
    states: dict[int, Snapshot] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)


def read(folder: Path, partitions: int, urls: Iterable[str], scratch: Path) -> Stored:
    """What the store in a folder has. `scratch`: a folder for a copy, which is removed in the end."""
    out = Stored()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    try:
        for part in folder.glob("part-*"):
            shutil.copy2(part, scratch)
        _run(scratch, _Parts(partitions, out.offsets, {}, found=True), out.states, list(urls), out.places, found=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out


def write(folder: Path, partitions: int, stored: Stored, tell: Callable[[], None] = lambda: None) -> None:
    """Make a store that has this. `tell` is called for each partition."""
    engine.recovery(folder)
    source = _Parts(partitions, stored.offsets, stored.states, found=False, tell=tell)
    _run(folder, source, {}, list(stored.places), dict(stored.places), found=False)


def _run(
    folder: Path, source: _Parts, states: dict[int, Snapshot], urls: list[str], places: dict[str, str], *, found: bool
) -> None:
    flow = Dataflow("nephoscope")
    items = op.input("log", flow, source)
    out = op.stateful_batch("stage", items, _Keep)
    op.output("publish", out, _Collect(states))
    if urls:
        # One item for each, or the engine would not ask for its place.
        in_place = op.flat_map("in_place", out, lambda _: [(url, None) for url in urls])
        op.output("publish_in_place", in_place, _Places(urls, places, found=found))
    engine.run(flow, recovery_config=engine.recovery(folder))


class _Part(StatefulSourcePartition[Any, int]):
    def __init__(self, offset: int, items: list[Any]) -> None:
        self._offset, self._items = offset, items

    def next_batch(self) -> list[Any]:
        if not self._items:
            raise StopIteration
        items, self._items = self._items, []
        return items

    def snapshot(self) -> int:
        return self._offset


class _Parts(FixedPartitionedSource[Any, int]):
    def __init__(
        self,
        count: int,
        offsets: dict[int, int],
        states: dict[int, Snapshot],
        *,
        found: bool,
        tell: Callable[[], None] = lambda: None,
    ) -> None:
        self._count, self._offsets, self._states, self._found, self._tell = count, offsets, states, found, tell

    def list_parts(self) -> list[str]:
        return [f"{p:05d}" for p in range(self._count)]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> _Part:
        partition = int(for_part)
        if self._found and resume_state is not None:
            self._offsets[partition] = resume_state
        self._tell()
        state = self._states.get(partition)
        items = [(key_of(partition), state)] if self._found or state is not None else []
        return _Part(self._offsets.get(partition, 0), items)


class _Keep(StatefulBatchLogic[Any, Snapshot, Snapshot | None]):
    """Keeps the snapshot that it is resumed with, or is sent; hands it out."""

    def __init__(self, state: Snapshot | None) -> None:
        self._state = state

    def on_batch(self, values: list[Any]) -> tuple[list[Any], bool]:
        self._state = next((v for v in values if v is not None), self._state)
        return [self._state], StatefulBatchLogic.RETAIN

    def snapshot(self) -> Snapshot | None:
        return self._state


class _Collect(DynamicSink[Any]):
    def __init__(self, states: dict[int, Snapshot]) -> None:
        self._states = states

    def build(self, step_id: str, worker_index: int, worker_count: int) -> StatelessSinkPartition[Any]:
        return _CollectPart(self._states)


class _CollectPart(StatelessSinkPartition[Any]):
    def __init__(self, states: dict[int, Snapshot]) -> None:
        self._states = states

    def write_batch(self, items: list[Any]) -> None:
        self._states.update((partition_of(key), state) for key, state in items if state is not None)


class _Place(StatefulSinkPartition[Any, Any]):
    def __init__(self, place: str | None) -> None:
        self._place = place

    def write_batch(self, values: list[Any]) -> None:
        pass

    def snapshot(self) -> str | None:
        return self._place


class _Places(FixedPartitionedSink[Any, Any]):
    def __init__(self, urls: list[str], places: dict[str, str], *, found: bool) -> None:
        self._urls, self._places, self._found = urls, places, found

    def list_parts(self) -> list[str]:
        return self._urls

    def part_fn(self, item_key: str) -> int:
        return self._urls.index(item_key)

    def build_part(self, step_id: str, for_part: str, resume_state: Any) -> _Place:
        if self._found and resume_state is not None:
            self._places[for_part] = resume_state
        return _Place(self._places.get(for_part))
