"""accumulator: passes a partition's samples on unchanged, in groups (docs/semantics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flows.interning import I64
from flows.plan import PlanStep
from flows.rows import Rows, Strings, Watermarks, batch_of_rows, codes_of, join_rows, rows_of
from flows.transformer import Context, Transformer, unpack
from nephoscope.batch import EMPTY, SCHEMA, compact
from nephoscope.times import MIN_TIME, SECOND

if TYPE_CHECKING:
    from flows.resharding import Moved


@dataclass(frozen=True, slots=True)
class Accumulator:
    """A compiled accumulator; `max_hold` in microseconds."""

    size: int
    max_hold: int


def compile_step(parameters: Mapping[str, Any], _options: Any, _sink: Any) -> Accumulator:
    """Compile checked parameters."""
    size = parameters.get("size")
    hold = parameters.get("max_hold")
    return Accumulator(1 if size is None else int(size), round(float(600 if hold is None else hold) * SECOND))


@dataclass(slots=True)
class AccumulatorState:
    """The open group: its samples, the interval each was polled at, and the watermark at its opening."""

    batches: list[pa.RecordBatch] = field(default_factory=list)
    polled: list[I64] = field(default_factory=list)
    count: int = 0
    opened: int = MIN_TIME


def accumulator(step: PlanStep, state: AccumulatorState, rows: Rows, marks: Watermarks, context: Context) -> Rows:
    """The rows of the groups that leave in this call, at the position where they leave."""
    program: Accumulator = step.program
    strings = context.strings
    out: list[Rows] = []
    if state.count and state.count >= program.size and len(rows):
        # The group was opened under a larger size, before the pipeline was changed.
        out.append(_leave(state, rows.take(slice(0, 0)), int(rows.position[0]), strings))
    if program.size <= 1:
        return join_rows([*out, rows], strings) if out else rows
    edges = np.append(np.searchsorted(rows.position, marks.positions), len(rows))
    first = 0  # rows[first:] belong to the open group, together with what the state holds
    for i, watermark in enumerate(marks.values.tolist()):
        begin, end = int(edges[i]), int(edges[i + 1])
        if state.count and state.opened + program.max_hold <= watermark:
            out.append(_leave(state, rows.take(slice(first, begin)), int(marks.positions[i]), strings))
            first = begin
        while end > begin:
            if not state.count:
                state.opened = watermark
            room = min(program.size - state.count, end - begin)
            state.count += room
            begin += room
            if state.count == program.size:
                out.append(_leave(state, rows.take(slice(first, begin)), int(rows.position[begin - 1]), strings))
                first = begin
    if first < len(rows):
        kept = rows.take(slice(first, None))
        state.batches.append(compact(batch_of_rows(kept, strings)))
        state.polled.append(kept.polled.copy())
    return join_rows([*out, rows.take(slice(0, 0))], strings)


def _leave(state: AccumulatorState, more: Rows, position: int, strings: Strings) -> Rows:
    """The open group and `more`, at `position`; the group is empty then."""
    parts = []
    if state.batches:
        batch = pa.concat_batches(state.batches)
        parts.append(rows_of(batch, strings, np.concatenate(state.polled), np.full(batch.num_rows, position)))
    if len(more):
        more.position = np.full(len(more), position)
        parts.append(more)
    state.batches, state.polled, state.count, state.opened = [], [], 0, MIN_TIME
    return join_rows(parts, strings) if parts else rows_of(EMPTY, strings, np.empty(0, np.int64), np.empty(0, np.int64))


def move(_step: PlanStep, source: AccumulatorState, target: AccumulatorState, moved: Moved) -> None:
    """The part of the open group that is of some resources. Two groups that meet leave together."""
    for batch, polled in zip(source.batches, source.polled, strict=True):
        words = batch.column("resource_id").dictionary.to_pylist()
        known = moved.source.strings.resources.numbers
        here = np.array([w in known and bool(moved.chosen[known[w]]) for w in words], bool)
        index = np.flatnonzero(here[codes_of(batch.column("resource_id"))])
        if len(index):
            target.opened = source.opened if not target.count else min(target.opened, source.opened)
            target.batches.append(compact(batch.take(pa.array(index))))
            target.polled.append(polled[index])
            target.count += len(index)


def dump(state: AccumulatorState) -> Any:
    """The state as plain data."""
    raw = b""
    if state.batches:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_batch(pa.concat_batches(state.batches))
        raw = sink.getvalue().to_pybytes()
    polled = np.concatenate(state.polled) if state.polled else np.empty(0, np.int64)
    return [raw, polled, state.count, state.opened]


def load(_step: PlanStep, packed: Any) -> AccumulatorState:
    """The state that dump was called on."""
    raw, polled, count, opened = packed
    state = AccumulatorState(count=count, opened=opened)
    if raw:
        with pa.ipc.open_stream(raw) as reader:
            state.batches = [reader.read_next_batch()]
        state.polled = [unpack(polled)]
    return state


TRANSFORMER = Transformer(
    compile=compile_step,
    run=accumulator,
    handed_on=lambda step, marks: marks.floored(1, step.program.max_hold),
    state=AccumulatorState,
    dump=dump,
    load=load,
    held=lambda state: state.count,
    move=move,
)
