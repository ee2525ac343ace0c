"""What a batch's order of series decides: numbers of names and resources, slots, who enters which sink.

None of it depends on volumes or times, and agents send the same series in the same order period after period: so it is
remembered by the content of the columns it comes from. A hit or a miss gives the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from flows import one_to_one
from flows.interning import I32, I64, Repeats, as_slice, distinct, repeats
from flows.one_to_one import Entries
from flows.plan import Plan, PlanStep
from flows.rows import I8, Block, Bools, Rows, content_key, kinds_of
from flows.state import State
from nephoscope.batch import Header, int_column, values_of

CACHED_ROWS = 4096
"""Rows a partition whose layouts are remembered: about 0.1 kB each."""
_KEYED = ("name", "type", "unit", "resource_id", "source", "origin")


@dataclass(slots=True)
class Layout:
    """See the module. Arrays have one element a row of the batch (or of the rows it was made for)."""

    name: I32
    kind: I8
    unit: I32
    source: I32
    origin: I32
    resource: I32
    header: Header
    slot: I32 = field(default_factory=lambda: np.empty(0, np.int32))
    close: I32 | slice = field(default_factory=lambda: slice(0, 0))
    repeats: Repeats | None = None
    entries: list[tuple[str, Entries, bool]] = field(default_factory=list)
    """(kind, entries, whether they all end their sinks) of the one-to-one steps that come first in a sink."""
    entered: dict[int, I64] = field(default_factory=dict)
    """Rows by number of the other steps that come first in a sink."""
    present: set[int] = field(default_factory=set)
    kept_sinks: list[tuple[str, Bools | None]] = field(default_factory=list)
    kept_urls: list[tuple[str, Bools | None]] = field(default_factory=list)
    malformed: list[tuple[Bools, str]] = field(default_factory=list)
    arrow: dict[str, Any] = field(default_factory=dict)
    """Columns of what the entries that end their sinks publish (flows.one_to_one.batch_of)."""
    memos: dict[int, dict[str, Any]] = field(default_factory=dict)
    """What the steps that come first in a sink have worked out about these rows (Rows.memo), by the step's number."""
    _urls: list[tuple[str, Bools | None]] | None = None

    def rows(self, batch: pa.RecordBatch, polled: int, position: I64) -> Rows:
        """The rows of the batch that this layout was made for."""
        n = batch.num_rows
        ids = values_of(batch.column("id"), np.uint64, 2).reshape(-1, 2)
        late = batch.column("late")
        everything = np.arange(n)
        return Rows(
            Block(batch),
            everything,
            position,
            self.name,
            self.kind,
            self.unit,
            self.source,
            self.origin,
            values_of(batch.column("volume"), np.float64),
            int_column(batch, "timestamp"),
            int_column(batch, "measured_at"),
            ids[:, 0],
            ids[:, 1],
            _flags(late),
            np.full(n, polled),
        )

    def subset(self, plan: Plan, state: State, rows: Rows) -> Layout:
        """The layout of some of the rows, which carry their numbers themselves."""
        header = self.header
        out = Layout(rows.name, rows.kind, rows.unit, rows.source, rows.origin, rows.resource(state.strings), header)
        out.arrange(plan, state, rows)
        return out

    def arrange(self, plan: Plan, state: State, rows: Rows) -> None:
        """Work out slots, entries and sinks for valid rows."""
        if not len(rows):
            return
        series = state.series["dedupe"]
        self.slot = series.find(self.resource, self.name, 0)
        self.close = as_slice(self.slot)
        self.repeats = repeats(self.slot, series.index.size)
        n = len(self.name)
        used, where = distinct(self.name, len(state.strings.names.values))
        words = [state.strings.names.values[u] for u in used.tolist()]
        wanted: dict[str, Bools | None] = {}
        groups: dict[tuple[str, bool], list[tuple[PlanStep, I64]]] = {}
        for sink in plan.sinks:
            takes = _takes(plan, sink.index, words, self.header)
            if not takes.any():
                continue
            mask: Bools | None = None if takes.all() else takes[where]
            if not sink.steps:
                self.kept_sinks.append((sink.name, mask))
                for url in sink.publishers:
                    before = wanted.get(url, False)
                    wanted[url] = None if mask is None or before is None else mask if before is False else before | mask
                continue
            first = sink.steps[0]
            index = np.arange(n) if mask is None else np.flatnonzero(mask)
            if first.transformer.shared is not None:
                self.present.add(first.number)
                groups.setdefault((first.kind, len(sink.steps) == 1), []).append((first, index))
            else:
                self.entered[first.number] = index
        self.kept_urls = list(wanted.items())
        source = state.strings.sources.number(plan.options.sample_source)
        for (kind, ending), choices in groups.items():
            entries = one_to_one.enter(state.series[kind], rows, self.resource, choices, state.strings, source)
            self.entries.append((kind, entries, ending))

    def ending_urls(self, plan: Plan) -> list[tuple[str, Bools | None]]:
        """The publishers of the entries that end their sinks, one kind after the other, and which of them each gets (None: all)."""
        if self._urls is None:
            endings = [entries for _, entries, ending in self.entries if ending]
            size = sum(len(e) for e in endings)
            masks: dict[str, npt.NDArray[np.bool_]] = {}
            start = 0
            for entries in endings:
                for step, part in entries.slices:
                    for url in plan.sink_of[step.number].publishers:
                        mask = masks.setdefault(url, np.zeros(size, bool))
                        mask[start + part.start : start + part.stop] = True
                start += len(entries)
            self._urls = [(url, None if mask.all() else mask) for url, mask in masks.items()]
        return self._urls


def _flags(column: pa.BooleanArray) -> Bools:
    """A column of flags, which usually are all off."""
    if not column.offset and not np.frombuffer(column.buffers()[1], np.uint8)[: (len(column) + 7) // 8].any():
        return np.zeros(len(column), bool)
    flags: Bools = column.to_numpy(zero_copy_only=False)
    return flags


def layout_of(plan: Plan, state: State, batch: pa.RecordBatch, header: Header) -> Layout:
    """The layout of a batch, remembered or made."""
    hasher = xxhash.xxh3_128(f"{header.interval}\x00{chr(0).join(header.polling)}".encode())
    for column in _KEYED:
        array = batch.column(column)
        indices = array.indices
        hasher.update(memoryview(indices.buffers()[1])[4 * indices.offset : 4 * (indices.offset + len(indices))])
        hasher.update(content_key(array.dictionary))
    key = hasher.digest()
    found: Layout | None = state.layouts.get(key)
    if found is not None:
        return found
    layout = _make(plan, state, batch, header)
    if not layout.malformed and batch.num_rows <= CACHED_ROWS:
        held = sum(len(v.name) for v in state.layouts.values())
        while state.layouts and held + batch.num_rows > CACHED_ROWS:
            held -= len(state.layouts.pop(next(iter(state.layouts))).name)
        state.layouts[key] = layout
    return layout


def _make(plan: Plan, state: State, batch: pa.RecordBatch, header: Header) -> Layout:
    block, strings = Block(batch), state.strings

    def numbers(column: str, pool: str) -> I32:
        return strings.map(pool, block.dictionary(column))[block.codes(column)]

    layout = Layout(
        name=numbers("name", "names"),
        kind=kinds_of(block.dictionary("type"))[block.codes("type")],
        unit=numbers("unit", "units"),
        source=numbers("source", "sources"),
        origin=numbers("origin", "origins"),
        resource=numbers("resource_id", "resources"),
        header=header,
    )
    layout.malformed = _malformed(layout, state)
    if not layout.malformed:
        layout.arrange(plan, state, layout.rows(batch, header.interval, np.arange(batch.num_rows)))
    return layout


def _malformed(layout: Layout, state: State) -> list[tuple[Bools, str]]:
    strings = state.strings
    out = []
    bad_type = layout.kind < 0
    if bad_type.any():
        out.append((bad_type, "type"))
    for column, pool, reason in (
        (layout.name, strings.names, "name"),
        (layout.resource, strings.resources, "resource_id"),
    ):
        empty = pool.numbers.get("")
        if empty is not None and (column == empty).any():
            out.append((column == empty, reason))
    over = layout.name >= one_to_one.MAX_NAMES - 1
    if over.any():
        out.append((over, "too_many_meters"))
    return out


def _takes(plan: Plan, sink: int, words: Sequence[str], header: Header) -> Bools:
    """Which meters enter a sink, under a header."""
    cache: dict[tuple[Any, ...], bool] = plan.cache
    if len(cache) > 100_000:
        cache.clear()
    out = np.empty(len(words), bool)
    for i, word in enumerate(words):
        key = (sink, word, header.polling, header.interval > 0)
        takes = cache.get(key)
        if takes is None:
            takes = plan.sinks[sink].takes(word, header.polling, header.interval > 0, plan.own_polling)
            cache[key] = takes
        out[i] = takes
    return out
