"""What rate_of_change and delta share: one output for an input, and one predecessor a series.

All steps of a kind of one partition keep their series in one set of columns, whichever sinks they belong to: a series is (step,
meter, resource). So one pass of numpy serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from flows.interning import I64, Columns, Repeats, SeriesIndex, as_slice, distinct, numbers_of, repeats
from flows.plan import PlanStep
from flows.rows import (
    CARRIED,
    F64,
    I8,
    I32,
    TYPE_WORDS,
    U64,
    Bools,
    Rows,
    Strings,
    Watermarks,
    assemble,
    dictionary,
    times,
)
from flows.target import ScaleColumns, Target
from flows.transformer import Context
from nephoscope import identity
from nephoscope.times import MAX_TIME, NEVER

NAME_BITS, STEP_BITS = 20, 12
MAX_NAMES, MAX_STEPS = 1 << NAME_BITS, 1 << STEP_BITS


class SeriesState:
    """Predecessors of the series of one kind of step."""

    __slots__ = ("columns", "index")

    def __init__(self, fill: Mapping[str, tuple[Any, Any]]) -> None:
        self.index = SeriesIndex()
        self.columns = Columns(dict(fill))

    def find(self, resource: I32, name: I32, step: I32 | int) -> I32:
        """The slot of each (resource, meter, step)."""
        keys = (resource.astype(np.int64) << (NAME_BITS + STEP_BITS)) | (name.astype(np.int64) << STEP_BITS) | step
        slots = self.index.find(keys)
        self.columns.ensure(self.index.size)
        return slots

    def forget(self, before: I64) -> int:
        """Drop the series whose newest timestamp lies before `before` of their step (by its number); how many."""
        keys, slots, size = self.index.dump()
        limit = np.full(size, MAX_TIME)
        limit[slots] = before[keys & (MAX_STEPS - 1)]
        dead = self.columns["time"][:size] < limit
        # A slot without a time never had an accepted sample: nothing is forgotten with it.
        known = int(np.count_nonzero(dead & (self.columns["time"][:size] != NEVER)))
        self.index.release(dead)
        gone = np.flatnonzero(dead)
        self.columns.clear(gone)
        self.dropped(gone)
        return known

    def dropped(self, slots: I64) -> None:
        """Called with the slots that were forgotten."""

    def resources(self) -> I64:
        """The resource number of every series."""
        return self.index.keys >> (NAME_BITS + STEP_BITS)


@dataclass(slots=True)
class Entries:
    """Which rows go through which step, and all of their output that does not depend on volumes and times.

    Entries of one step are consecutive (`slices`) and in log order.
    """

    at: I64
    slot: I32 | slice
    repeats: Repeats | None
    cumulative: Bools
    name: I32
    kind: I8
    unit: I32
    source: I32
    origin: I32
    key_hi: U64
    key_lo: U64
    factor: F64 | float
    maximum: F64 | None
    scaled: list[tuple[Target, slice]]
    slices: list[tuple[PlanStep, slice]]

    def __len__(self) -> int:
        return len(self.at)


Values = Mapping[str, npt.NDArray[Any]]
"""Columns by name: those that the kind keeps of a predecessor (Transformer.shared)."""


class About(NamedTuple):
    """What a function may know of rows beside their values: arrays of a row each, or one value for all."""

    cumulative: Bools
    watermark: Any
    ttl: int
    growth_only: Bools | bool

    def of(self, index: I64) -> About:
        """For some of the rows."""
        return About(
            self.cumulative[index],
            self.watermark if isinstance(self.watermark, int) else self.watermark[index],
            self.ttl,
            self.growth_only if isinstance(self.growth_only, bool) else self.growth_only[index],
        )


class Judged(NamedTuple):
    """What a function makes of rows: volumes before scaling; which are published; which become predecessors (None: all)."""

    volume: F64
    publish: Bools | None = None
    accepted: Bools | None = None


Function = Callable[[Values, Values, About, dict[str, int]], Judged]
"""(predecessors' values, rows' values, about the rows, counters to add to). No series occurs twice, or each row follows its predecessor."""


def enter(
    state: SeriesState,
    rows: Rows,
    resource: I32,
    choices: Sequence[tuple[PlanStep, I64]],
    strings: Strings,
    source: int,
) -> Entries:
    """The entries of rows (indices into them, per step). `resource`: each row's resource number; `source`: of derived samples."""
    at = np.concatenate([index for _, index in choices])
    lengths = [len(index) for _, index in choices]
    ends = np.cumsum(lengths).tolist()
    slices = [(step, slice(end - n, end)) for (step, _), n, end in zip(choices, lengths, ends, strict=True)]
    numbers = np.repeat([step.number for step, _ in choices], lengths).astype(np.int32)
    name, unit, origin = (np.empty(len(at), np.int32) for _ in range(3))
    kind = np.empty(len(at), np.int8)
    key_hi, key_lo = np.empty(len(at), np.uint64), np.empty(len(at), np.uint64)
    factor, maximum = np.ones(len(at)), np.full(len(at), np.inf)
    scales = []
    for step, part in slices:
        target: Target = step.program.target
        index = at[part]
        name[part] = target.names(rows.name[index], strings.names)
        unit[part] = target.units(rows.unit[index], strings.units)
        kind[part] = step.program.kind
        origin[part] = origins(rows, index, step, strings)
        key_hi[part], key_lo[part] = identity.step_key(step.sink, step.position)
        factor[part] = target.factor
        maximum[part] = target.maximum
        if target.scale is not None:
            scales.append((target, part))
    slot = state.find(resource[at], rows.name[at], numbers)
    apart = repeats(slot, state.index.size)
    return Entries(
        at=at,
        slot=as_slice(slot) if apart is None else slot,
        repeats=apart,
        cumulative=rows.kind[at] == 2,
        name=name,
        kind=kind,
        unit=unit,
        source=np.full(len(at), source, np.int32),
        origin=origin,
        key_hi=key_hi,
        key_lo=key_lo,
        factor=1.0 if (factor == 1.0).all() else factor,
        maximum=None if np.isinf(maximum).all() else maximum,
        scaled=scales,
        slices=slices,
    )


def origins(rows: Rows, index: I64, step: PlanStep, strings: Strings) -> I32:
    """The origin of what `step` makes of each of these rows."""
    names, sources = len(strings.names.values), len(strings.sources.values)
    combined = (rows.origin[index].astype(np.int64) * sources + rows.source[index]) * names + rows.name[index]
    used, inverse = distinct(combined, len(strings.origins.values) * sources * names)
    out = []
    for code in used.tolist():
        origin, rest = divmod(code, sources * names)
        source, name = divmod(rest, names)
        before = strings.origins.values[origin] or identity.raw_origin(
            strings.sources.values[source], strings.names.values[name]
        )
        out.append(strings.origins.number(identity.step_origin(before, step.sink, step.position)))
    return np.array(out, np.int32)[inverse]


@dataclass(slots=True)
class Derived:
    """What came out: the entries' volumes, and which of them are published (None: all)."""

    rows: Rows
    entries: Entries
    volume: F64
    publish: Bools | None

    def of(self, part: slice) -> Rows:
        """The rows of one step."""
        entries, source = self.entries, self.rows
        index: Any = part if self.publish is None else np.flatnonzero(self.publish[part]) + part.start
        at = entries.at[index]
        hi, lo = identity.mix(source.hi[at], source.lo[at], entries.key_hi[index], entries.key_lo[index])
        return Rows(
            source.block,
            source.at[at],
            source.position[at],
            entries.name[index],
            entries.kind[index],
            entries.unit[index],
            entries.source[index],
            entries.origin[index],
            self.volume[index],
            source.time[at],
            np.full(len(at), NEVER),
            hi,
            lo,
            source.late[at],
            source.polled[at],
        )


def batch_of(parts: Sequence[Derived], strings: Strings, cache: dict[str, Any]) -> tuple[pa.RecordBatch, Bools | None]:
    """All that several steps publish of the same rows as one batch, and which of the entries it holds (None: all).

    `cache` keeps the columns that do not depend on volumes and times.
    """
    source = parts[0].rows
    block = source.block
    if not cache:
        entries = [p.entries for p in parts]

        def joined(name: str) -> Any:
            return np.concatenate([getattr(e, name) for e in entries])

        cache["at"] = joined("at")
        cache["keys"] = joined("key_hi"), joined("key_lo")
        cache["name"] = dictionary(joined("name"), strings.names.arrow())
        cache["type"] = dictionary(joined("kind").astype(np.int32), TYPE_WORDS)
        cache["unit"] = dictionary(joined("unit"), strings.units.arrow())
        cache["source"] = dictionary(joined("source"), strings.sources.arrow())
        cache["origin"] = dictionary(joined("origin"), strings.origins.arrow())
        cache["measured"] = times(np.full(len(cache["at"]), NEVER))
        cache["late"] = pa.array(np.zeros(len(cache["at"]), bool))
    at = cache["at"]
    hi, lo = identity.mix(source.hi.take(at), source.lo.take(at), *cache["keys"])
    where = at if source.at is source.position or len(source) == block.batch.num_rows else source.at.take(at)
    batch = assemble(
        name=cache["name"],
        type=cache["type"],
        unit=cache["unit"],
        volume=parts[0].volume if len(parts) == 1 else np.concatenate([p.volume for p in parts]),
        carried={c: dictionary(block.codes(c).take(where), block.dictionary(c)) for c in CARRIED},
        time=source.time.take(at),
        measured=cache["measured"],
        source=cache["source"],
        ids=identity.pack(hi, lo),
        origin=cache["origin"],
        late=pa.array(source.late.take(at)) if source.late.any() else cache["late"],
    )
    if all(p.publish is None for p in parts):
        return batch, None
    publish = np.concatenate([np.ones(len(p.entries), bool) if p.publish is None else p.publish for p in parts])
    return batch.filter(pa.array(publish)), publish


def run(
    function: Function, state: SeriesState, rows: Rows, entries: Entries, marks: Watermarks, context: Context
) -> Derived:
    """Pass the entries of rows through a transformer's function, then scale."""
    at, columns = entries.at, state.columns
    watermark: Any = marks.scalar(rows.position)
    if not isinstance(watermark, int):
        watermark = watermark[at]
    about = About(entries.cumulative, watermark, context.ttl, _growth_only(entries))
    now = {name: getattr(rows, name).take(at) for name in columns.arrays}
    if entries.repeats is None:
        out, publish, _ = _judge(function, columns, entries.slot, now, about, context.counts)
    else:
        judged = _in_one_go(function, columns, entries.repeats, now, about, context.counts)
        out, publish = judged or _in_rounds(function, columns, entries, now, about, context.counts)
    if not isinstance(entries.factor, float):
        out = out * entries.factor
    failed = _scale(out, rows, entries, context)
    if entries.maximum is not None:
        out = np.minimum(out, entries.maximum)
    finite = np.isfinite(out)
    if failed is not None or not finite.all():
        wanted = np.ones(len(out), bool) if publish is None else publish
        wrong = ~finite if failed is None else ~finite | failed
        errors = 0 if failed is None else int((failed & wanted).sum())
        context.count("expression", errors)
        context.count("not_finite", int((wrong & wanted).sum()) - errors)
        publish = wanted & ~wrong
    return Derived(rows, entries, out, publish)


def _judge(
    function: Function, columns: Columns, slot: I32 | slice, now: Values, about: About, counts: dict[str, int]
) -> Judged:
    """Rows of which no two are of one series."""
    judged = function({name: columns[name][slot] for name in now}, now, about, counts)
    accepted = judged.accepted
    if accepted is None:
        for name, values in now.items():
            columns[name][slot] = values
    else:
        kept = numbers_of(slot)[accepted]
        for name, values in now.items():
            columns[name][kept] = values[accepted]
    return judged


def _in_one_go(
    function: Function, columns: Columns, repeated: Repeats, now: Values, about: About, counts: dict[str, int]
) -> tuple[F64, Bools | None] | None:
    """Several rows of a series at once, each following the one before. None where some row is not accepted: nothing was done."""
    order = repeated.order
    ordered = {name: values[order] for name, values in now.items()}
    before = {name: repeated.before(columns[name], values) for name, values in ordered.items()}
    counted: dict[str, int] = {}
    judged = function(before, ordered, about.of(order), counted)
    if judged.accepted is not None:
        return None
    for name, values in ordered.items():
        columns[name][repeated.slots] = values[repeated.tail]
    for reason, count in counted.items():
        counts[reason] = counts.get(reason, 0) + count
    out = np.empty(len(order))
    out[order] = judged.volume
    if judged.publish is None:
        return out, None
    publish = np.empty(len(order), bool)
    publish[order] = judged.publish
    return out, publish


def _in_rounds(
    function: Function, columns: Columns, entries: Entries, now: Values, about: About, counts: dict[str, int]
) -> tuple[F64, Bools | None]:
    """Several rows of a series, one after the other."""
    assert entries.repeats is not None
    slots = numbers_of(entries.slot)
    out = np.empty(len(slots))
    publish = np.ones(len(slots), bool)
    for part in entries.repeats.rounds:
        some = {name: values[part] for name, values in now.items()}
        judged = _judge(function, columns, slots[part], some, about.of(part), counts)
        out[part] = judged.volume
        if judged.publish is not None:
            publish[part] = judged.publish
    return out, None if publish.all() else publish


def one_step(step: PlanStep, series: SeriesState, rows: Rows, marks: Watermarks, context: Context) -> Rows:
    """All rows through one step: Transformer.run of what keeps predecessors."""
    if not len(rows):
        return rows
    everything = [(step, np.arange(len(rows)))]
    entries = enter(series, rows, rows.resource(context.strings), everything, context.strings, context.source)
    return run(step.transformer.function, series, rows, entries, marks, context).of(slice(0, len(rows)))


def _growth_only(entries: Entries) -> Bools | bool:
    flags = [getattr(step.program, "growth_only", False) for step, _ in entries.slices]
    if not any(flags) or all(flags):
        return any(flags)
    return np.repeat(flags, [part.stop - part.start for _, part in entries.slices])


def _scale(out: F64, rows: Rows, entries: Entries, context: Context) -> Bools | None:
    """Multiply by the value of each step's expression, in place; a mask of the entries whose expression fails."""
    failed: Bools | None = None
    for target, part in entries.scaled:
        scale = target.scale
        assert scale is not None
        if scale.reads == ("resource_metadata",):
            value, bad = by_metadata(target, rows, entries.at[part], context.caches)
        else:
            value, bad = scale.evaluate(ScaleColumns(rows.take(entries.at[part]), context.strings))
        out[part] *= value
        if bad.any():
            if failed is None:
                failed = np.zeros(len(out), bool)
            failed[part] = bad
    return failed


def by_metadata(target: Target, rows: Rows, at: I64, caches: dict[Any, Any]) -> tuple[F64, Bools]:
    """The value of an expression that reads metadata only: once per distinct text, remembered by a dictionary's content."""
    scale = target.scale
    assert scale is not None
    block = rows.block
    key = (id(scale), block.key("resource_metadata"))
    found: tuple[Any, F64, Bools] | None = caches.get(key)
    if found is None:
        words = block.dictionary("resource_metadata")
        value, bad = scale.evaluate(_Texts(words.to_pylist()))
        if len(caches) >= 256:
            caches.pop(next(iter(caches)))
        found = caches[key] = (scale, np.asarray(value), np.asarray(bad))
    codes = block.codes("resource_metadata").take(rows.at.take(at))
    return found[1].take(codes), found[2].take(codes)


class _Texts:
    """A dictionary's words as rows of their own."""

    def __init__(self, values: list[str]) -> None:
        self._values = values
        self.length = len(values)

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        raise KeyError(name)

    def words(self, name: str) -> tuple[I32, Sequence[str]]:
        return np.arange(self.length, dtype=np.int32), self._values
