"""A partition's state as bytes of our own: versioned, immutable, cheap to take.

`take` copies the columns that change in place and refers to what does not; the bytes are made when somebody pickles the snapshot, which
an engine may do later, in its own time. `restore` accepts the snapshot of another plan: the state of the steps that are still there
(same sink, position and transformer) is kept.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from flows.accumulator import AccumulatorState
from flows.aggregator import AggregatorState, Pane
from flows.arithmetic import ArithmeticState, Held, new_pane
from flows.interning import Columns, Interner, SeriesIndex
from flows.one_to_one import MAX_STEPS, STEP_BITS, SeriesState
from flows.plan import Plan, PlanStep
from flows.state import State
from nephoscope.batch import SCHEMA
from nephoscope.errors import NephoscopeError

VERSION = 1
_POOLS = ("names", "units", "sources", "origins", "resources", "texts")
_CODEC = "lz4"


class SnapshotError(NephoscopeError):
    """Bytes that are no snapshot this version can read."""


class Snapshot:
    """A state at one moment. Pickles as its bytes."""

    __slots__ = ("_bytes", "_parts")

    def __init__(self, parts: dict[str, Any] | None = None, raw: bytes = b"") -> None:
        self._parts = parts
        self._bytes = raw

    def to_bytes(self) -> bytes:
        """``NPHS``, a version byte, the length of what follows (uint64), lz4 of msgpack."""
        if not self._bytes:
            raw = msgspec.msgpack.encode(self._parts, enc_hook=_pack_array)
            packed = pa.compress(raw, codec=_CODEC, asbytes=True)
            self._bytes = b"NPHS" + bytes([VERSION]) + len(raw).to_bytes(8, "little") + packed
            self._parts = None
        return self._bytes

    def parts(self) -> dict[str, Any]:
        """What take put in."""
        raw = self.to_bytes()
        if raw[:4] != b"NPHS":
            raise SnapshotError("this is no snapshot of a partition's state")
        if raw[4] != VERSION:
            raise SnapshotError(f"version {raw[4]} of a state's snapshot is not known here (known: {VERSION})")
        size = int.from_bytes(raw[5:13], "little")
        out: dict[str, Any] = msgspec.msgpack.decode(pa.decompress(raw[13:], size, codec=_CODEC, asbytes=True))
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self.to_bytes(),)


def _from_bytes(raw: bytes) -> Snapshot:
    return Snapshot(None, raw)


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, np.ascontiguousarray(value).view(np.uint8).data if value.size else b""]
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(type(value))


def _array(packed: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(packed[1], np.dtype(packed[0])).copy()


def take(plan: Plan, state: State) -> Snapshot:
    """The snapshot of a state, which may change at once afterwards."""
    series = {}
    for kind, kept in state.series.items():
        keys, slots, size = kept.index.dump()
        series[kind] = [keys, slots, size, kept.columns.dump(size)]
    steps = []
    for step in plan.steps:
        held = state.steps.get(step.number)
        if held is not None:
            steps.append([step.key, _DUMPS[step.kind](held)])
    return Snapshot(
        {
            "fingerprint": plan.fingerprint,
            "watermark": state.watermark,
            "forgotten": state.forgotten,
            "totals": dict(state.totals),
            "pools": {name: getattr(state.strings, name).pack() for name in _POOLS},
            "ids": list(state.ids.dump().items()),
            "numbers": {step.key: step.number for step in plan.steps},
            "series": series,
            "steps": steps,
        }
    )


def restore(plan: Plan, snapshot: Snapshot) -> State:
    """The state of a snapshot, for the same plan or a changed one."""
    parts = snapshot.parts()
    state = State(plan)
    state.watermark, state.forgotten = parts["watermark"], parts["forgotten"]
    state.totals = parts["totals"]
    for name in _POOLS:
        setattr(state.strings, name, Interner.unpack(parts["pools"][name]))
    state.ids.load(dict(parts["ids"]))
    same = parts["fingerprint"] == plan.fingerprint
    numbers = np.full(MAX_STEPS, -1, np.int64)
    numbers[0] = 0
    known = {step.key: step for step in plan.steps}
    for key, number in parts["numbers"].items():
        if key in known:
            numbers[number] = known[key].number
    for kind, (keys, slots, size, columns) in parts["series"].items():
        kept = state.series.get(kind)
        if kept is not None:
            _load_series(kept, _array(keys), _array(slots), size, columns, None if same else numbers)
    for key, packed in parts["steps"]:
        step = known.get(key)
        if step is not None:
            state.steps[step.number] = _LOADS[step.kind](step, packed)
    return state


def _load_series(
    kept: SeriesState, keys: Any, slots: Any, size: int, columns: dict[str, Any], numbers: Any
) -> None:
    if numbers is not None:
        # Steps are numbered anew in a changed plan; the series of steps that are gone go.
        step = numbers[keys & (MAX_STEPS - 1)]
        keys = (keys >> STEP_BITS << STEP_BITS | step)[step >= 0]
        slots = slots[step >= 0]
        order = np.argsort(keys)
        keys, slots = keys[order], slots[order]
    kept.index.load(keys, slots.astype(np.int32), size)
    kept.columns.load({name: _array(a) for name, a in columns.items()}, size)
    unused = np.ones(size, bool)
    unused[slots] = False
    kept.columns.clear(np.flatnonzero(unused))


def _dump_columns(columns: Columns, count: int) -> dict[str, Any]:
    return dict(columns.dump(count))


def _dump_arithmetic(state: ArithmeticState) -> Any:
    panes = [[p.period, p.end, p.expiry, p.count, _dump_columns(p.columns, p.count)] for p in state.panes.values()]
    held = [[list(key), [[h.time, h.volume, h.late, list(h.kept)] for h in rows]] for key, rows in state.held.items()]
    return [panes, held]


def _load_arithmetic(step: PlanStep, packed: Any) -> ArithmeticState:
    state = ArithmeticState()
    for period, end, expiry, count, columns in packed[0]:
        pane = new_pane(period, end, expiry, step.program)
        pane.count = count
        pane.columns.load({name: _array(a) for name, a in columns.items()}, count)
        pane.slot_of = {r: i for i, r in enumerate(pane.columns["resource"][:count].tolist())}
        state.panes[period] = pane
    for (resource, meter), rows in packed[1]:
        state.held[resource, meter] = [Held(time, volume, late, tuple(kept)) for time, volume, late, kept in rows]
    return state


def _dump_aggregator(state: AggregatorState) -> Any:
    keys, slots, size = state.keys.index.dump()
    panes = [
        [p.start, p.closing, p.late, p.count, _dump_columns(p.columns, p.count), list(p.parts.items())]
        for p in state.panes.values()
    ]
    others = [[list(k), v] for k, v in state.keys.others.items()]
    return [keys, slots, size, _dump_columns(state.keys.columns, size), others, panes]


def _load_aggregator(_step: PlanStep, packed: Any) -> AggregatorState:
    keys, slots, size, columns, others, panes = packed
    state = AggregatorState()
    state.keys.others = {(k[0], k[1], k[2]): v for k, v in others}
    state.keys.index = _index(_array(keys), _array(slots), size, set(state.keys.others.values()))
    state.keys.columns.load({name: _array(a) for name, a in columns.items()}, size)
    for start, closing, late, count, arrays, parts in panes:
        pane = Pane(start, closing, late, count)
        pane.columns.load({name: _array(a) for name, a in arrays.items()}, count)
        pane.parts = dict(parts)
        pane.room(size)
        live = np.flatnonzero(pane.columns["live"][:count])
        pane.slot_of[pane.columns["key"][live]] = live
        state.panes[start, closing] = pane
    return state


def _index(keys: Any, slots: Any, size: int, others: set[int]) -> SeriesIndex:
    index = SeriesIndex()
    index.load(keys, slots.astype(np.int32), size)
    index.reserve(others)
    return index


def _dump_accumulator(state: AccumulatorState) -> Any:
    raw = b""
    if state.batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(pa.concat_batches(state.batches))
        raw = sink.getvalue().to_pybytes()
    polled = np.concatenate(state.polled) if state.polled else np.empty(0, np.int64)
    return [raw, polled, state.count, state.opened]


def _load_accumulator(_step: PlanStep, packed: Any) -> AccumulatorState:
    raw, polled, count, opened = packed
    state = AccumulatorState(count=count, opened=opened)
    if raw:
        with pa.ipc.open_stream(raw) as reader:
            state.batches = [reader.read_next_batch()]
        state.polled = [_array(polled)]
    return state


_DUMPS: dict[str, Any] = {
    "accumulator": _dump_accumulator,
    "aggregator": _dump_aggregator,
    "arithmetic": _dump_arithmetic,
}
_LOADS: dict[str, Any] = {
    "accumulator": _load_accumulator,
    "aggregator": _load_aggregator,
    "arithmetic": _load_arithmetic,
}
