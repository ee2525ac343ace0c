"""The fused stage: messages of one partition in, what its sinks publish out.

It knows no engine, no clock and no server: `process(plan, state, messages)` runs as well inline, in `dry-run` and in tests. For a given log
what it publishes is the same however the messages are cut into calls (docs/semantics.md).

A call decodes, gathers small batches, drops what is refused or double, and runs each sink's steps over columns. What depends only on which
series a batch has, in which order, is worked out once and remembered by the batch's content (flows.layout).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from flows import one_to_one
from flows.dedupe import dedupe
from flows.interning import I64
from flows.layout import Layout, layout_of
from flows.plan import Plan, PlanStep
from flows.rows import Bools, Rows, Watermarks, batch_of_rows, rows_of
from flows.state import State
from flows.tickets import Ticket
from flows.transformer import Context
from flows.validity import explained, refused
from nephoscope.batch import EMPTY, HAS_NULLS, Batch, decode, has_nulls
from nephoscope.errors import BatchError
from nephoscope.times import MAX_TIME, MIN_TIME, NEVER, SECOND, TOO_LATE
from nephoscope.topics import Message

ENOUGH = 1000
"""Rows that are worth a call; batches with fewer are gathered, up to GATHERED rows."""
GATHERED = 4000


@dataclass(frozen=True, slots=True)
class Dead:
    """What goes to the dead letters: the reason, what was wrong, the message it came in and the bytes or the sample's JSON."""

    reason: str
    detail: str
    message: Message
    value: bytes


@dataclass(slots=True)
class Output:
    """What came out of a call.

    published: batches by publisher, as the pipeline names it (a row once for each publisher, whatever sinks led there); sinks: batches by sink's name (only when
    asked for); counts: by (where, reason); dead: what was refused; at: where the log has been read to, as the engine knows it: (partition,
    next offset, watermark); tickets: what of `published` is for publishers with a queue.
    """

    published: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    sinks: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    dead: list[Dead] = field(default_factory=list)
    at: tuple[int, int, int] | None = None
    tickets: list[Ticket] = field(default_factory=list)

    def add(self, publishers: Iterable[str], batch: pa.RecordBatch) -> None:
        """Publish a batch to each of these."""
        if batch.num_rows:
            for url in publishers:
                self.published.setdefault(url, []).append(batch)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A decoded message."""

    message: Message
    batch: Batch


def process(plan: Plan, state: State, messages: Sequence[Message], *, exact: bool = False) -> Output:
    """Feed messages of one partition, in the order of the log. `exact`: also say which sink published what."""
    out, state.owed = state.owed or Output(), None
    arrivals = []
    for message in messages:
        try:
            arrivals.append(Arrival(message, decode(message.value, nulls=True)))
        except BatchError as error:
            _undecodable(out, message, str(error))
    feed(plan, state, arrivals, out, exact=exact)
    return out


def _undecodable(out: Output, message: Message, detail: str) -> None:
    out.counts["stage", "undecodable"] += 1
    out.dead.append(Dead("undecodable", detail, message, message.value))


def feed(plan: Plan, state: State, arrivals: Sequence[Arrival], out: Output, *, exact: bool = False) -> None:
    """Feed decoded messages of one partition."""
    with np.errstate(all="ignore"):  # What overflows or is undefined is dropped, and counted.
        _feed(plan, state, arrivals, out, exact=exact)


def _feed(plan: Plan, state: State, arrivals: Sequence[Arrival], out: Output, *, exact: bool) -> None:
    group: list[Arrival] = []
    size = 0
    for arrival in arrivals:
        rows = len(arrival.batch)
        header = arrival.batch.header
        first = next((a.batch.header for a in group if len(a.batch)), header)
        alike = (header.interval, header.polling) == (first.interval, first.polling)
        if rows and size and (not alike or rows >= ENOUGH or size + rows > GATHERED):
            _call(plan, state, group, out, exact=exact)
            group, size = [], 0
        group.append(arrival)
        size += rows
        if rows >= ENOUGH:
            _call(plan, state, group, out, exact=exact)
            group, size = [], 0
    if group:
        _call(plan, state, group, out, exact=exact)


def finish(plan: Plan, state: State, *, exact: bool = False) -> Output:
    """The end of the input, which only dry-run and test know: every watermark goes to infinity, step by step along each chain."""
    out, state.owed = state.owed or Output(), None
    ending = Watermarks(np.array([-1, 0]), np.array([state.watermark, MAX_TIME]))
    with np.errstate(all="ignore"):
        _sinks(plan, state, None, _empty(state), ending, out, exact=exact)
    return out


def settle(plan: Plan, state: State) -> Output:
    """What a state that came from another plan has to publish before anything else happens: no message, no moment passes."""
    out = Output()
    with np.errstate(all="ignore"):
        _sinks(plan, state, None, _empty(state), Watermarks.constant(state.watermark), out, exact=False)
    return out


def _call(plan: Plan, state: State, group: list[Arrival], out: Output, *, exact: bool) -> None:
    """One call: messages that share an interval, as one batch."""
    full = [a for a in group if len(a.batch)]
    counts = out.counts
    events, marked = _events(plan, group)
    if not full:
        marks = _watermarks(plan, state, None, events, marked)
        _sinks(plan, state, None, _empty(state), marks, out, exact=exact)
        state.watermark = marks.last
        state.forget(plan)
        return
    header = full[0].batch.header
    try:
        batch = full[0].batch.rows if len(full) == 1 else pa.concat_batches([a.batch.rows for a in full])
    except pa.ArrowInvalid:
        if not any(has_nulls(a.batch.rows) for a in full):
            raise
        batch = None  # Arrow does not join dictionaries with nulls.
    if batch is None or has_nulls(batch):
        for arrival in full:
            if has_nulls(arrival.batch.rows):
                _undecodable(out, arrival.message, HAS_NULLS)
                group = [a for a in group if a is not arrival]
        if group:
            _call(plan, state, group, out, exact=exact)
        return
    n = batch.num_rows
    counts["stage", "received"] += n
    layout = layout_of(plan, state, batch, header)
    rows = layout.rows(batch, header.interval * SECOND, events * plan.width + (plan.width - 1))
    lengths = [len(a.batch) for a in group]
    appended: Any = group[0].message.append_time
    if any(a.message.append_time != appended for a in group):
        appended = np.repeat([a.message.append_time for a in group], lengths)
    bad = refused(plan.options, layout, rows, appended, state.caches)
    ahead = _ahead(plan, rows, appended)
    if bad:
        keep = np.ones(n, bool)
        ends = np.cumsum(lengths)
        for row, reason in bad.items():
            keep[row] = False
            counts["stage", reason] += 1
            message = group[int(np.searchsorted(ends, row, "right"))].message
            detail = explained(plan.options, reason, batch, row, message.append_time)
            out.dead.append(Dead(reason, detail, message, _json_of(batch, row)))
        rows, events = rows.take(keep), events[keep]
        ahead = None if ahead is None else ahead[keep]
        layout = layout.subset(plan, state, rows)
    marks = _watermarks(plan, state, rows, events, marked, ahead)
    if len(rows):
        new = dedupe(
            state.periods,
            state.ids,
            rows,
            layout.slot,
            layout.close,
            layout.repeats,
            marks,
            plan.options.micros("series_ttl"),
            plan.options.micros("dedupe_horizon"),
            ahead,
        )
        if new is not None:
            counts["stage", "double"] += int(len(rows) - new.sum())
            rows = rows.take(new)
            layout = layout.subset(plan, state, rows)
    _sinks(plan, state, layout, rows, marks, out, exact=exact)
    state.watermark = marks.last
    gone = state.forget(plan)
    if gone:
        counts["stage", "series_forgotten"] += gone


def _events(plan: Plan, group: list[Arrival]) -> tuple[I64, list[tuple[int, int]]]:
    """The number of each row's event, and (event, watermark) of the marks: in the order of the log."""
    marked: list[tuple[int, int]] = []
    parts: list[I64] = []
    start = 0
    for arrival in group:
        rows = len(arrival.batch)
        if rows:
            parts.append(np.arange(start, start + rows))
            start += rows
        if arrival.batch.header.mark != NEVER:
            marked.append((start, _mark(plan, arrival)))
            start += 1
    return (parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])), marked


def _mark(plan: Plan, arrival: Arrival) -> int:
    """The watermark that a mark stands for; minus infinity where it does not count."""
    mark = arrival.batch.header.mark
    appended = arrival.message.append_time
    if not 0 <= mark < TOO_LATE or (appended and mark > appended + plan.options.micros("max_ahead")):
        return MIN_TIME
    return mark - plan.options.micros("lateness")


def _ahead(plan: Plan, rows: Rows, appended: Any) -> Bools | None:
    """Which rows lie too far in the future to move the watermark; None: none."""
    if isinstance(appended, int) and not appended:
        return None
    ahead = rows.time > appended + plan.options.micros("max_ahead")
    return ahead if ahead.any() else None


def _watermarks(
    plan: Plan, state: State, rows: Rows | None, events: I64, marked: list[tuple[int, int]], ahead: Bools | None = None
) -> Watermarks:
    """The first step's watermark through the call."""
    lateness, width = plan.options.micros("lateness"), plan.width
    if rows is None or not len(rows):
        numbers, values = np.array([e for e, _ in marked], np.int64), np.array([w for _, w in marked], np.int64)
    elif not marked and ahead is None and rows.time[0] == rows.time[-1] and (rows.time == rows.time[0]).all():
        numbers, values = events[:1], rows.time[:1] - lateness
    else:
        numbers, values = events, rows.time - lateness
        if ahead is not None:
            values[ahead] = MIN_TIME
        if marked:
            numbers = np.concatenate([numbers, [e for e, _ in marked]])
            values = np.concatenate([values, [w for _, w in marked]])
            order = np.argsort(numbers)
            numbers, values = numbers[order], values[order]
    values = np.maximum.accumulate(np.concatenate([[state.watermark], values]))
    moved = np.flatnonzero(values[1:] != values[:-1])
    return Watermarks(np.concatenate([[-1], numbers[moved] * width]), np.concatenate([values[:1], values[moved + 1]]))


def _sinks(
    plan: Plan, state: State, layout: Layout | None, rows: Rows, marks: Watermarks, out: Output, *, exact: bool
) -> None:
    """Take the new rows through every sink."""
    if layout is not None:
        _kept(layout, rows, out, exact=exact)
        endings = []
        for kind, entries, ending in layout.entries:
            context = _context(plan, state)
            function = entries.slices[0][0].transformer.function
            derived = one_to_one.run(function, state.series[kind], rows, entries, marks, context)
            for reason, count in context.counts.items():
                out.counts[kind, reason] += count
            if ending and not exact:
                endings.append(derived)
                continue
            for step, part in entries.slices:
                if len(plan.sink_of[step.number].steps) == 1:
                    sink = plan.sink_of[step.number]
                    _publish(state, sink.name, sink.publishers, derived.of(part), out, exact=exact)
                else:
                    _chain(plan, state, step, 1, derived.of(part), marks, out, exact=exact)
        if endings:
            batch, publish = one_to_one.batch_of(endings, state.strings, layout.arrow)
            for url, mask in layout.ending_urls(plan):
                if mask is None:
                    out.add([url], batch)
                else:
                    out.add([url], batch.filter(pa.array(mask if publish is None else mask[publish])))
    entered = {} if layout is None else layout.entered
    for sink in plan.sinks:
        if not sink.steps:
            continue
        first = sink.steps[0]
        if first.transformer.shared is not None:
            if layout is not None and first.number in layout.present:
                continue
            if len(sink.steps) > 1:
                _chain(plan, state, first, 1, _empty(state), marks, out, exact=exact)
            continue
        index = entered.get(first.number)
        some = _empty(state) if index is None else rows.take(slice(None) if len(index) == len(rows) else index)
        if layout is not None and index is not None:
            some.memo = layout.memos.setdefault(first.number, {})
        _chain(plan, state, first, 0, some, marks, out, exact=exact)


def _chain(
    plan: Plan, state: State, first: PlanStep, skip: int, rows: Rows, marks: Watermarks, out: Output, *, exact: bool
) -> None:
    """Take rows through a sink's steps from `first` on (without the first `skip` of them), and publish."""
    sink = plan.sink_of[first.number]
    for step in sink.steps[:skip]:
        marks = step.transformer.handed_on(step, marks)
    for step in sink.steps[skip:]:
        rows, marks = _step(plan, state, step, rows, marks, out.counts)
    _publish(state, sink.name, sink.publishers, rows, out, exact=exact)


def _step(
    plan: Plan, state: State, step: PlanStep, rows: Rows, marks: Watermarks, counts: Counter[tuple[str, str]]
) -> tuple[Rows, Watermarks]:
    """One step of one sink, and the watermarks that it hands on."""
    context = _context(plan, state)
    rows = step.transformer.run(step, state.steps.get(step.number), rows, marks, context)
    for reason, count in context.counts.items():
        counts[f"{step.sink}[{step.position}]:{step.kind}", reason] += count
    return rows, step.transformer.handed_on(step, marks)


def _context(plan: Plan, state: State) -> Context:
    source = state.strings.sources.number(plan.options.sample_source)
    return Context(state.strings, source, plan.options.micros("series_ttl"), state.caches)


def _publish(state: State, sink: str, publishers: Sequence[str], rows: Rows, out: Output, *, exact: bool) -> None:
    if len(rows):
        batch = batch_of_rows(rows, state.strings)
        out.add(publishers, batch)
        if exact:
            out.sinks.append((sink, batch))


def _kept(layout: Layout, rows: Rows, out: Output, *, exact: bool) -> None:
    """Samples that a sink without steps publishes as they came."""
    whole: dict[int, pa.RecordBatch] = {}

    def chosen(mask: Any) -> pa.RecordBatch:
        batch = whole.get(id(mask))
        if batch is None:
            batch = rows.block.batch
            if len(rows) != batch.num_rows:
                batch = batch.take(pa.array(rows.at if mask is None else rows.at[mask]))
            elif mask is not None:
                batch = batch.filter(pa.array(mask))
            whole[id(mask)] = batch
        return batch

    for url, mask in layout.kept_urls:
        out.add([url], chosen(mask))
    if exact:
        for name, mask in layout.kept_sinks:
            batch = chosen(mask)
            if batch.num_rows:
                out.sinks.append((name, batch))


def _empty(state: State) -> Rows:
    none = np.empty(0, np.int64)
    return rows_of(EMPTY, state.strings, none, none)


def _json_of(batch: pa.RecordBatch, row: int) -> bytes:
    """One row as text for the dead letters: what it holds, whether it is a sample or not."""
    from nephoscope.sample import to_json

    values: dict[str, Any] = {}
    for name in batch.schema.names:
        column = batch.column(name)
        if pa.types.is_timestamp(column.type):
            values[name] = int(column.cast(pa.int64())[row].as_py())
        else:
            value = column[row].as_py()
            values[name] = value.hex() if isinstance(value, bytes) else value
    if not np.isfinite(values["volume"]):
        values["volume"] = str(values["volume"])
    return to_json(values)


__all__ = ["Arrival", "Dead", "Output", "feed", "finish", "process", "settle"]
