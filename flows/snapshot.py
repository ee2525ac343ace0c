"""A partition's state as bytes of our own: versioned, immutable, cheap to take.

`take` copies the columns that change in place and refers to what does not; the bytes are made when somebody pickles the snapshot, which
an engine may do later, in its own time. `restore` accepts the snapshot of another plan: the state of the steps that are still there
(same sink, position and transformer; for arithmetic, also the same meters) is kept. What a step whose parameters changed has open is closed first
where it could not be gone on with (Transformer.change); what a step that is gone has open is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from flows.interning import Interner
from flows.one_to_one import MAX_STEPS, STEP_BITS, SeriesState
from flows.plan import Plan, PlanSink, PlanStep
from flows.stage import settle
from flows.state import State
from flows.tickets import Ticket
from flows.transformer import unpack
from flows.transformers import transformer as find
from nephoscope import registry
from nephoscope.batch import Batch, compact, decode, encode
from nephoscope.errors import NephoscopeError

_log = logging.getLogger(__name__)
VERSION = 1
_POOLS = ("names", "units", "sources", "origins", "resources", "texts")
_CODEC = "lz4"


class SnapshotError(NephoscopeError):
    """Bytes that are no snapshot this version can read."""


class Snapshot:
    """A state at one moment. Pickles as its bytes."""

    __slots__ = ("_bytes", "_parts", "_tell")

    def __init__(
        self,
        parts: dict[str, Any] | None = None,
        raw: bytes = b"",
        tell: Callable[[int, float], None] | None = None,
    ) -> None:
        self._parts = parts
        self._bytes = raw
        self._tell = tell

    def to_bytes(self) -> bytes:
        """``NPHS``, a version byte, the length of what follows (uint64), lz4 of msgpack."""
        if self._parts is not None:
            began = time.perf_counter()
            raw = msgspec.msgpack.encode(self._parts, enc_hook=_pack_array)
            packed = pa.compress(raw, codec=_CODEC, asbytes=True)
            self._bytes = b"NPHS" + bytes([VERSION]) + len(raw).to_bytes(8, "little") + packed
            self._parts = None
            if self._tell is not None:
                self._tell(len(self._bytes), time.perf_counter() - began)
        return self._bytes

    def parts(self) -> dict[str, Any]:
        """What take put in."""
        raw = self.to_bytes()
        if raw[:4] != b"NPHS" or len(raw) < 5:
            raise SnapshotError("this is no snapshot of a partition's state")
        if raw[4] != VERSION:
            raise SnapshotError(f"version {raw[4]} of a state's snapshot is not known here (known: {VERSION})")
        try:
            plain = pa.decompress(raw[13:], int.from_bytes(raw[5:13], "little"), codec=_CODEC, asbytes=True)
            out: dict[str, Any] = msgspec.msgpack.decode(plain)
        except (pa.ArrowException, OSError, OverflowError, MemoryError, msgspec.MsgspecError) as error:
            raise SnapshotError(f"the snapshot of a partition's state is damaged: {error}") from None
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
    if isinstance(value, pa.RecordBatch):
        return encode(Batch(compact(value)))
    raise NotImplementedError(type(value))


def take(plan: Plan, state: State, tell: Callable[[int, float], None] | None = None) -> Snapshot:
    """The snapshot of a state, which may change at once afterwards. `tell` hears how many bytes it was, and the seconds it took to make them."""
    series = {}
    for kind, kept in state.series.items():
        keys, slots, size = kept.index.dump()
        series[kind] = [keys, slots, size, kept.columns.dump(size)]
    steps = [
        [step.key, step.transformer.dump(state.steps[step.number]), step.parameters]
        for step in plan.steps
        if step.transformer.dump is not None
    ]
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
            "gaps": [(slot, tuple(gaps)) for slot, gaps in state.periods.gaps.items()],
            "steps": steps,
            "waiting": [[ticket.url, ticket.rows] for ticket in state.waiting if ticket.left],
        },
        tell=tell,
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
            _load_series(kept, unpack(keys), unpack(slots), size, columns, None if same else numbers)
    state.periods.gaps = {slot: [(a, b) for a, b in gaps] for slot, gaps in parts["gaps"]}
    gone: dict[tuple[str, str], int] = {}
    for key, packed, *of in parts["steps"]:
        step = known.get(key)
        before = of[0] if of else None
        if step is None:
            gone |= _lost(plan, key, packed, before)
        elif step.transformer.load is not None:
            loaded = step.transformer.load(step, packed)
            if before is not None and before != step.parameters and step.transformer.change is not None:
                loaded = step.transformer.change(_former(plan, step, before), step, loaded)
            state.steps[step.number] = loaded
    state.waiting = [Ticket(url, decode(raw).rows) for url, raw in parts.get("waiting", ())]
    if not same:
        state.owed = settle(plan, state)
        state.owed.counts.update(gone)
    return state


def _former(plan: Plan, step: PlanStep, parameters: Mapping[str, Any]) -> PlanStep:
    """A step as it was before its parameters changed."""
    program = step.transformer.compile(parameters, plan.options, plan.sink_of[step.number])
    return replace(step, program=program, parameters=parameters)


def _lost(plan: Plan, key: str, packed: Any, parameters: Mapping[str, Any] | None) -> dict[tuple[str, str], int]:
    """What goes with a step that the pipeline has no more, as counts."""
    sink, position, kind, *_ = json.loads(key)
    if parameters is None or kind not in registry.names(registry.TRANSFORMER):
        return {}
    transformer = find(kind)
    if transformer.held is None or transformer.load is None:
        return {}
    draft = PlanSink(0, sink, (), (), ())
    step = PlanStep(0, sink, position, kind, transformer.compile(parameters, plan.options, draft), transformer)
    held = transformer.held(transformer.load(step, packed))
    where = f"{sink}[{position}]:{kind}"
    if held:
        _log.warning(
            "%s is not in the pipeline any more: %d samples that it had not handed on are dropped", where, held
        )
    return {(where, "step_gone"): held} if held else {}


def _load_series(kept: SeriesState, keys: Any, slots: Any, size: int, columns: dict[str, Any], numbers: Any) -> None:
    if numbers is not None:
        # Steps are numbered anew in a changed plan; the series of steps that are gone go.
        step = numbers[keys & (MAX_STEPS - 1)]
        keys = (keys >> STEP_BITS << STEP_BITS | step)[step >= 0]
        slots = slots[step >= 0]
        order = np.argsort(keys)
        keys, slots = keys[order], slots[order]
    kept.index.load(keys, slots.astype(np.int32), size)
    kept.columns.load({name: unpack(a) for name, a in columns.items()}, size)
    unused = np.ones(size, bool)
    unused[slots] = False
    kept.columns.clear(np.flatnonzero(unused))
