"""aggregator: one sample for many, over windows of event time or groups of a size (docs/semantics.md; flows/groups.py is its state)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.groups import AggregatorState, Pane, change, dump, held, in_order, load, move, squeeze
from flows.interning import I32, I64, Columns, Repeats, as_slice, numbers_of, repeats
from flows.plan import Options, PlanStep
from flows.rows import F64, Rows, Watermarks, join_rows, pool_block
from flows.target import Target, compile_target, scaled
from flows.transformer import Context, Transformer
from nephoscope import identity
from nephoscope.times import MAX_TIME, MIN_TIME, NEVER, SECOND

MEAN, SUM, LAST, FIRST, MIN, MAX = range(6)
_MODES = {"mean": MEAN, "sum": SUM, "last": LAST, "first": FIRST, "min": MIN, "max": MAX, "avg": MEAN}
_MODE_OF_KIND = np.array([MEAN, SUM, LAST], np.int8)


@dataclass(frozen=True, slots=True)
class Aggregator:
    """A compiled aggregator. `user`, `project`: '' where they are part of the key, else first or last."""

    target: Target
    size: int
    span: int
    user: str
    project: str
    metadata: str
    timestamp: str
    mode: int
    ttl: int


def compile_step(parameters: Mapping[str, Any], options: Options, _sink: Any) -> Aggregator:
    """Compile checked parameters."""
    size = int(parameters.get("size") or 0)
    span = round(float(parameters.get("retention_time") or 0) * SECOND)
    if not size and not span:
        size = 1

    def policy(name: str, default: str) -> str:
        value = parameters.get(name)
        return default if value is None else value if value in ("first", "drop") else "last"

    def key_policy(name: str) -> str:
        value = parameters.get(name)
        return "" if value is None else "first" if value == "first" else "last"

    return Aggregator(
        target=compile_target(parameters),
        size=size,
        span=span,
        user=key_policy("user_id"),
        project=key_policy("project_id"),
        metadata=policy("resource_metadata", "last"),
        timestamp="last" if parameters.get("timestamp") == "last" else "first",
        mode=_MODES[parameters["volume"]] if parameters.get("volume") else -1,
        ttl=options.micros("series_ttl"),
    )


def aggregator(
    step: PlanStep,
    state: AggregatorState,
    rows: Rows,
    marks: Watermarks,
    context: Context,
) -> Rows:
    """What is published in this call, in order."""
    program: Aggregator = step.program
    empty = rows.take(slice(0, 0))
    if len(rows):
        volume, bad = scaled(program.target, rows, context.strings, context.counts)
        if bad is not None:
            rows, volume = rows.take(~bad), volume[~bad]
    else:
        volume = rows.volume
    work = _Work(step, program, state, rows, volume, context)
    for former, panes in state.retired:
        work.publish_retired(former, panes, int(marks.positions[0]))
    state.retired = []
    span = program.span
    if span:
        # Everything closes at multiples of the span: cut the call where the watermark passes one.
        ticks = marks.values // span
        cuts = np.flatnonzero(np.concatenate(([True], ticks[1:] != ticks[:-1])))
    else:
        cuts = np.arange(len(marks.values))
    starts = marks.positions[cuts]
    edges = np.searchsorted(rows.position, starts)
    edges = np.append(edges, len(rows))
    for i, cut in enumerate(cuts.tolist()):
        watermark = int(marks.values[cut])
        work.close(watermark, int(starts[i]))
        begin, end = int(edges[i]), int(edges[i + 1])
        if end > begin:
            # Without windows the watermark at the row's own position counts; with them only its tick does.
            work.add(slice(begin, end), watermark)
    state.rows += len(rows)
    return join_rows([*work.out, empty], context.strings, [*work.causes, rows.at[:0]])


class _Work:
    """One call's work on a state."""

    def __init__(
        self,
        step: PlanStep,
        program: Aggregator,
        state: AggregatorState,
        rows: Rows,
        volume: F64,
        context: Context,
    ) -> None:
        self.step, self.program, self.state, self.rows, self.volume = step, program, state, rows, volume
        self.context, self.strings, self.source = context, context.strings, context.source
        self.out: list[Rows] = []
        self.causes: list[I64] = []
        if len(rows):
            strings = self.strings
            memo: dict[str, Any] = {} if rows.memo is None else rows.memo
            block = rows.block
            people = b"".join(
                part for c in ("user_id", "project_id") for part in (block.key(c), block.codes(c).tobytes())
            )
            if memo.get("people") != people:
                user, project = rows.texts("user_id", strings), rows.texts("project_id", strings)
                absent = np.full(len(rows), -1, np.int32)
                key = state.keys.find(
                    step,
                    rows.name,
                    rows.resource(strings),
                    absent if program.user else user,
                    absent if program.project else project,
                    strings,
                )
                memo.update(people=people, user=user, project=project, key=key)
                memo["repeats"] = repeats(key, state.keys.index.size)
            self.user, self.project, self.key = memo["user"], memo["project"], memo["key"]
            self.repeated: Repeats | None = memo["repeats"]
            self.metadata = rows.texts("resource_metadata", strings) if program.metadata != "drop" else None

    def add(self, part: slice, watermark: int) -> None:
        """Rows between two closings, at one tick of the watermark."""
        span = self.program.span
        index = np.arange(part.start, part.stop)
        if not span:
            self.add_to(self.pane(MIN_TIME, MAX_TIME, late=False), index, watermark)
            return
        start = self.rows.time[part] // span * span
        late_closing = (watermark // span + 1) * span
        if (start == start[0]).all():
            self.add_window(int(start[0]), late_closing, watermark, index)
            return
        for value in np.unique(start).tolist():
            self.add_window(value, late_closing, watermark, index[start == value])

    def add_window(self, start: int, late_closing: int, watermark: int, index: I64) -> None:
        end = start + self.program.span
        late = watermark >= end
        if late:
            self.context.count("late", len(index))
        self.add_to(self.pane(start, late_closing if late else end, late=late), index, watermark)

    def pane(self, start: int, closing: int, *, late: bool) -> Pane:
        found = self.state.panes.get((start, closing))
        if found is None:
            found = self.state.panes[start, closing] = Pane(start, closing, late)
        return found

    def add_to(self, pane: Pane, index: I64, watermark: int) -> None:
        key = self.key[index]
        whole = len(index) == len(self.key)
        repeated = self.repeated if whole else repeats(key, self.state.keys.index.size)
        if repeated is None:
            self.update(pane, index, key, watermark)
        elif self.program.size:
            for some in repeated.rounds:
                self.update(pane, index[some], key[some], watermark)
        else:
            # Groups cannot fill up: open them in the order of arrival, then add everything in order.
            self.update(pane, index, key, watermark, repeated=True)

    def update(self, pane: Pane, index: I64, key: I32, watermark: int, *, repeated: bool = False) -> None:
        program = self.program
        slot = pane.slots(key, self.state.keys.index.size)
        fresh = slot < 0
        if fresh.all() and not repeated:
            slot = np.arange(pane.count, pane.count + len(index), dtype=np.int32)
            pane.assign(key, slot)
            pane.count += len(index)
            pane.columns.ensure(pane.count)
            self.open(pane, as_slice(slot), as_slice(index), key, watermark)
        elif fresh.any():
            first = np.flatnonzero(fresh)
            if repeated:
                _, where = np.unique(key[first], return_index=True)
                first = first[np.sort(where)]
            new = np.arange(pane.count, pane.count + len(first), dtype=np.int32)
            pane.assign(key[first], new)
            pane.count += len(first)
            pane.columns.ensure(pane.count)
            self.open(pane, new, index[first], key[first], watermark)
            slot = pane.slots(key, self.state.keys.index.size)
        columns = pane.columns
        self.accumulate(columns, slot, index, repeated=repeated)
        if program.size:
            full = columns["count"][slot] >= program.size
            if full.any():
                self.leave(pane, slot[full], index[full])

    def open(self, pane: Pane, slot: Any, index: Any, key: I32, watermark: int) -> None:
        columns, rows, mode = pane.columns, self.rows, self.program.mode
        columns["key"][slot] = key
        columns["count"][slot] = 0
        columns["kind"][slot] = rows.kind[index]
        columns["mode"][slot] = mode if mode >= 0 else _MODE_OF_KIND[rows.kind[index]]
        columns["unit"][slot] = rows.unit[index]
        columns["first_time"][slot] = rows.time[index]
        columns["user"][slot], columns["project"][slot] = self.user[index], self.project[index]
        if self.metadata is not None:
            columns["metadata"][slot] = self.metadata[index]
        columns["late"][slot] = pane.late
        columns["opened"][slot] = watermark
        columns["hi"][slot], columns["lo"][slot] = rows.hi[index], rows.lo[index]
        columns["live"][slot] = True
        columns["order"][slot] = self.state.rows + numbers_of(index)
        if self.program.span and (self.program.size or pane.parts):
            columns["part"][slot] = [pane.parts.get(k, 0) for k in key.tolist()]

    def accumulate(self, columns: Columns, slot: I32, index: I64, *, repeated: bool) -> None:
        program, rows = self.program, self.rows
        total, count = columns["sum"], columns["count"]
        where: Any = slot if repeated else as_slice(slot)
        of: Any = as_slice(index)
        volume = self.volume[of]
        new = count[where] == 0
        if repeated:
            # The first row of a new group sets what the others are compared with or added to.
            _, first = np.unique(slot, return_index=True)
            head = np.zeros(len(slot), bool)
            head[first] = True
            new &= head
        if new.all():
            total[where] = volume
        else:
            total[slot[new]] = volume[new]
            more = ~new
            at, added, mode = slot[more], volume[more], columns["mode"][slot[more]]
            for number in np.unique(mode).tolist():
                these = mode == number
                _combine(number, total, at[these], added[these])
        if repeated:
            np.add.at(count, slot, 1)
        else:
            count[where] += 1
        # With repeated indices numpy keeps the last value: the last by arrival.
        columns["last_time"][where] = rows.time[of]
        if program.user == "last":
            columns["user"][where] = self.user[of]
        if program.project == "last":
            columns["project"][where] = self.project[of]
        if self.metadata is not None and program.metadata == "last":
            columns["metadata"][where] = self.metadata[of]
        late = rows.late[of]
        if late.any():
            np.logical_or.at(columns["late"], slot, late)

    def leave(self, pane: Pane, slot: I32, cause: I64) -> None:
        """Groups that have their size, each since a row."""
        self.publish(pane, slot, self.rows.position[cause], cause)
        key = pane.columns["key"][slot]
        pane.release(key)
        pane.columns["live"][slot] = False
        if self.program.span:
            for k in key.tolist():
                pane.parts[k] = pane.parts.get(k, 0) + 1
        live = pane.columns["live"][: pane.count]
        if pane.count > 1024 and np.count_nonzero(live) < pane.count // 4:
            squeeze(pane, live)

    def close(self, watermark: int, position: int) -> None:
        """Publish what the watermark closes."""
        panes = self.state.panes
        if self.program.span:
            for start, closing in sorted(k for k in panes if k[1] <= watermark):
                pane = panes.pop((start, closing))
                slot = in_order(pane, pane.columns["live"][: pane.count])
                self.publish(pane, slot, np.full(len(slot), position), None)
            return
        pane_ = panes.get((MIN_TIME, MAX_TIME))
        if pane_ is None:
            return
        columns = pane_.columns
        due = columns["live"][: pane_.count] & (columns["opened"][: pane_.count] + self.program.ttl <= watermark)
        if due.any():
            slot = in_order(pane_, due)
            self.publish(pane_, slot, np.full(len(slot), position), None)
            pane_.release(columns["key"][slot])
            columns["live"][slot] = False

    def publish_retired(self, former: PlanStep, panes: list[Pane], position: int) -> None:
        """What was open when the step's parameters changed."""
        work = _Work(former, former.program, self.state, self.rows.take(slice(0, 0)), self.volume[:0], self.context)
        for pane in sorted(panes, key=lambda p: (p.start, p.closing)):
            slot = in_order(pane, pane.columns["live"][: pane.count])
            work.publish(pane, slot, np.full(len(slot), position), None)
        self.out += work.out
        self.causes += work.causes

    def publish(self, pane: Pane, slot: Any, position: I64, cause: I64 | None) -> None:
        if not len(slot):
            return
        program, columns, keys, strings = self.program, pane.columns, self.state.keys.columns, self.strings
        n = len(slot)
        if cause is None and program.span:
            slot = as_slice(slot)  # The pane is gone; nothing changes under these views.
        key = columns["key"][slot]
        metadata = columns["metadata"][slot] if program.metadata != "drop" else np.full(n, strings.texts.number("{}"))
        block = pool_block(
            keys["resource"][key], columns["user"][slot], columns["project"][slot], metadata, strings=strings
        )
        volume = columns["sum"][slot]
        mode, kind = columns["mode"][slot], columns["kind"][slot]
        mean = mode == MEAN
        if mean.any():
            volume = np.where(mean, volume / columns["count"][slot], volume)
        if program.span:
            hi, lo = identity.mix(
                keys["hi"][key] ^ np.array(pane.start, np.int64).view(np.uint64),
                keys["lo"][key] ^ np.array(pane.closing, np.int64).view(np.uint64),
                columns["part"][slot].astype(np.uint64),
                np.uint64(0),
            )
        else:
            step_key = identity.step_key(self.step.sink, self.step.position)
            hi, lo = identity.mix(columns["hi"][slot], columns["lo"][slot], *step_key)
        target = program.target
        finite = np.isfinite(volume)
        rows = Rows(
            block,
            np.arange(n),
            position,
            target.names(keys["name"][key], strings.names),
            kind if target.kind < 0 else np.full(n, target.kind, np.int8),
            target.units(columns["unit"][slot], strings.units),
            np.full(n, self.source, np.int32),
            np.full(n, strings.origins.number(identity.join_origin(self.step.sink, self.step.position)), np.int32),
            volume,
            columns["first_time" if program.timestamp == "first" else "last_time"][slot],
            np.full(n, NEVER),
            hi,
            lo,
            columns["late"][slot],
            np.zeros(n, np.int64),
        )
        if not finite.all():
            self.context.count("not_finite", int((~finite).sum()))
            rows = rows.take(finite)
        self.out.append(rows)
        self.causes.append(np.full(len(rows), -1) if cause is None else cause[finite])


def _combine(mode: int, total: F64, slot: I32, volume: F64) -> None:
    """Bring volumes into their groups' totals, in order."""
    if mode in (MEAN, SUM):
        # Unbuffered and in order, so a sum does not depend on how the log was cut into batches.
        np.add.at(total, slot, volume)
    elif mode == LAST:
        total[slot] = volume
    elif mode == MIN:
        np.minimum.at(total, slot, volume)
    elif mode == MAX:
        np.maximum.at(total, slot, volume)


def _handed_on(step: PlanStep, marks: Watermarks) -> Watermarks:
    program: Aggregator = step.program
    return marks.floored(program.span, program.span) if program.span else marks.floored(1, program.ttl)


def _forget(_step: PlanStep, state: AggregatorState, _watermark: int, _ttl: int) -> None:
    state.forget()


TRANSFORMER = Transformer(
    compile=compile_step,
    run=aggregator,
    handed_on=_handed_on,
    state=AggregatorState,
    dump=dump,
    load=load,
    used=AggregatorState.used,
    change=change,
    held=held,
    move=move,
    forget=_forget,
)
