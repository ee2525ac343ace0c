"""Rows between steps: numpy columns over a block of Arrow dictionaries.

What a step computes with (names, types, volumes, times, ids) are arrays of the rows' own; what it only carries
(resource, user, project, metadata) stays in the block, and a row points to the block's row that it takes them from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from flows.interning import Interner, distinct
from nephoscope import identity
from nephoscope.batch import SCHEMA, int_column, values_of
from nephoscope.sample import TYPES
from nephoscope.times import MAX_TIME, MIN_TIME

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

GAUGE, DELTA, CUMULATIVE = range(3)
TYPE_WORDS = pa.array(TYPES, pa.utf8())
_TIME = SCHEMA.field("timestamp").type
_DICT = SCHEMA.field("name").type
CARRIED = ("resource_id", "user_id", "project_id", "resource_metadata")


def codes_of(column: pa.DictionaryArray) -> I32:
    """The indices of a dictionary column as a numpy view."""
    codes: I32 = values_of(column.indices, np.int32)
    return codes


def dictionary(codes: I32, words: pa.Array) -> pa.DictionaryArray:
    """A dictionary column of codes known to be in range: no checks, no copies."""
    return pa.DictionaryArray.from_buffers(
        _DICT, len(codes), [None, pa.py_buffer(np.ascontiguousarray(codes))], words, 0
    )


def content_key(array: pa.Array) -> bytes:
    """A key of what an array of strings holds."""
    hasher = xxhash.xxh3_128()
    _, offsets, data = array.buffers()
    if array.offset:
        return content_key(pa.concat_arrays([array]))
    hasher.update(memoryview(offsets)[: 4 * (len(array) + 1)])
    if data is not None:
        ends = np.frombuffer(offsets, np.int32, len(array) + 1)
        hasher.update(memoryview(data)[ends[0] : ends[-1]])
    return hasher.digest()


class Strings:
    """The numbers that one partition gives to strings, and what it remembers of dictionaries seen before."""

    __slots__ = ("_lanes", "_seen", "names", "origins", "resources", "sources", "texts", "units")

    def __init__(self) -> None:
        self.names = Interner()
        self.units = Interner()
        self.sources = Interner()
        self.origins = Interner([""])
        self.resources = Interner()
        self.texts = Interner([""])
        """Users, projects and metadata that open windows and sets hold."""
        self._seen: dict[tuple[str, bytes], I32] = {}
        self._lanes: U64 = np.empty((0, 2), np.uint64)

    def resource_lanes(self, numbers: I32) -> U64:
        """(n, 2): the two lanes of identity.resource_key of each resource number."""
        known = len(self._lanes)
        if len(self.resources.values) > known:
            more = [identity.resource_key(r) for r in self.resources.values[known:]]
            self._lanes = np.concatenate([self._lanes, np.array(more, np.uint64).reshape(-1, 2)])
        return self._lanes[numbers]

    def map(self, which: str, words: pa.Array) -> I32:
        """The number of each word of a message's dictionary; remembered by content."""
        key = (which, content_key(words))
        found = self._seen.get(key)
        if found is None:
            pool: Interner = getattr(self, which)
            found = pool.numbers_of(words.to_pylist())
            if len(self._seen) >= 64:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = found
        return found

    def forget_seen(self) -> None:
        """Drop what was remembered by content: numbers are about to change."""
        self._seen.clear()
        self._lanes = np.empty((0, 2), np.uint64)


class Block:
    """Some samples' Arrow columns: what rows carry without looking at it."""

    __slots__ = ("_codes", "_keys", "batch", "words")

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self._codes: dict[str, I32] = {}
        self._keys: dict[str, bytes] = {}

    def codes(self, column: str) -> I32:
        """Indices into the column's dictionary, one a row."""
        found = self._codes.get(column)
        if found is None:
            found = self._codes[column] = codes_of(self.batch.column(column))
        return found

    def dictionary(self, column: str) -> pa.Array:
        """The column's dictionary."""
        return self.batch.column(column).dictionary

    def key(self, column: str) -> bytes:
        """A key of the content of the column's dictionary."""
        found = self._keys.get(column)
        if found is None:
            found = self._keys[column] = content_key(self.dictionary(column))
        return found


@dataclass(slots=True)
class Rows:
    """n samples on their way through a sink's steps, in log order.

    at: their row in the block; position: of the log row that caused them; name, unit, source, origin: numbers of the partition's
    Strings; kind: 0 gauge, 1 delta, 2 cumulative; time, measured: microseconds; polled: the polling interval in microseconds, 0 for
    samples that were not polled.
    """

    block: Block
    at: I64
    position: I64
    name: I32
    kind: I8
    unit: I32
    source: I32
    origin: I32
    volume: F64
    time: I64
    measured: I64
    hi: U64
    lo: U64
    late: Bools
    polled: I64
    memo: dict[str, Any] | None = None
    """Where a step may keep what follows from the order of names and resources alone: the same rows come again each period."""

    def __len__(self) -> int:
        return len(self.at)

    def take(self, index: Any) -> Rows:
        """The rows at these indices (or where a mask holds)."""
        return Rows(self.block, *(getattr(self, f)[index] for f in ARRAYS))

    def codes(self, column: str) -> I32:
        """Each row's index into the block's dictionary of a carried column."""
        return self.block.codes(column)[self.at]

    def resource(self, strings: Strings) -> I32:
        """Each row's resource number in the partition."""
        return strings.map("resources", self.block.dictionary("resource_id"))[self.codes("resource_id")]

    def texts(self, column: str, strings: Strings) -> I32:
        """Each row's user, project or metadata as a number that outlives the block."""
        return strings.map("texts", self.block.dictionary(column))[self.codes(column)]


ARRAYS = tuple(f.name for f in fields(Rows) if f.name not in ("block", "memo"))


def rows_of(batch: pa.RecordBatch, strings: Strings, polled: I64, position: I64) -> Rows:
    """The rows of a whole batch."""
    block = Block(batch)
    ids = values_of(batch.column("id"), np.uint64, 2).reshape(-1, 2)

    def numbers(column: str, pool: str) -> I32:
        return strings.map(pool, block.dictionary(column))[block.codes(column)]

    late = batch.column("late")
    return Rows(
        block,
        np.arange(batch.num_rows),
        position,
        numbers("name", "names"),
        kinds_of(block.dictionary("type"))[block.codes("type")],
        numbers("unit", "units"),
        numbers("source", "sources"),
        numbers("origin", "origins"),
        values_of(batch.column("volume"), np.float64),
        int_column(batch, "timestamp"),
        int_column(batch, "measured_at"),
        ids[:, 0],
        ids[:, 1],
        late.to_numpy(zero_copy_only=False),
        polled,
    )


def kinds_of(words: pa.Array) -> I8:
    """The kind of each word of a dictionary of types; -1 for none."""
    return np.array([TYPES.index(w) if w in TYPES else -1 for w in words.to_pylist()], np.int8)


def batch_of_rows(rows: Rows, strings: Strings) -> pa.RecordBatch:
    """The samples of rows as a batch; carried columns keep the block's dictionaries."""
    return assemble(
        name=dictionary(rows.name, strings.names.arrow()),
        type=dictionary(rows.kind.astype(np.int32), TYPE_WORDS),
        unit=dictionary(rows.unit, strings.units.arrow()),
        volume=rows.volume,
        carried={c: dictionary(rows.codes(c), rows.block.dictionary(c)) for c in CARRIED},
        time=rows.time,
        measured=rows.measured,
        source=dictionary(rows.source, strings.sources.arrow()),
        ids=identity.pack(rows.hi, rows.lo),
        origin=dictionary(rows.origin, strings.origins.arrow()),
        late=pa.array(rows.late) if rows.late.any() else none_late(len(rows)),
    )


@lru_cache(maxsize=256)
def none_late(count: int) -> pa.Array:
    """A column of so many samples of which none is late."""
    return pa.array(np.zeros(count, bool))


def assemble(
    *,
    name: pa.Array,
    type: pa.Array,  # noqa: A002 - the column's name
    unit: pa.Array,
    volume: F64,
    carried: dict[str, pa.Array],
    time: I64,
    measured: I64 | pa.Array,
    source: pa.Array,
    ids: npt.NDArray[np.uint8],
    origin: pa.Array,
    late: pa.Array,
) -> pa.RecordBatch:
    """A RecordBatch of SCHEMA from buffers that are known to fit."""
    n = len(volume)
    if isinstance(measured, np.ndarray):
        measured = times(measured)
    columns = [
        name,
        type,
        unit,
        pa.Array.from_buffers(pa.float64(), n, [None, pa.py_buffer(np.ascontiguousarray(volume))], 0),
        carried["user_id"],
        carried["project_id"],
        carried["resource_id"],
        times(time),
        measured,
        carried["resource_metadata"],
        source,
        pa.Array.from_buffers(SCHEMA.field("id").type, n, [None, pa.py_buffer(ids)], 0),
        origin,
        late,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def times(micros: I64) -> pa.Array:
    """A column of times of microseconds."""
    return pa.Array.from_buffers(_TIME, len(micros), [None, pa.py_buffer(np.ascontiguousarray(micros))], 0)


def pool_block(resources: I32, users: I32, projects: I32, metadata: I32, strings: Strings) -> Block:
    """A block made of what the partition remembers: one row for each element of the arguments."""

    def column(numbers: I32, pool: Interner) -> pa.DictionaryArray:
        values = pool.values
        used, codes = distinct(numbers, len(values))
        return dictionary(codes.astype(np.int32), pa.array([values[i] for i in used.tolist()], pa.utf8()))

    arrays = [
        column(resources, strings.resources),
        column(users, strings.texts),
        column(projects, strings.texts),
        column(metadata, strings.texts),
    ]
    return Block(pa.RecordBatch.from_arrays(arrays, names=list(CARRIED)))


def join_rows(parts: Sequence[Rows], strings: Strings, causes: Sequence[I64] | None = None) -> Rows:
    """One Rows of several, in the order of their positions; equal ones in the order of their causes, else as given.

    causes: for each part, the number of the input row that each of its rows was published for.
    """
    chosen = [i for i, p in enumerate(parts) if len(p)]
    filled = [parts[i] for i in chosen]
    if not filled:
        return parts[0]
    position = np.concatenate([p.position for p in filled])
    if causes is not None:
        order = np.lexsort((np.concatenate([causes[i] for i in chosen]), position))
    elif len(filled) == 1:
        return filled[0]
    else:
        order = np.argsort(position, kind="stable")
    if len(filled) == 1:
        return filled[0] if (order[1:] > order[:-1]).all() else filled[0].take(order)
    same = all(p.block is filled[0].block for p in filled)
    arrays: dict[str, Any] = {f: np.concatenate([getattr(p, f) for p in filled])[order] for f in ARRAYS}
    if same:
        return Rows(filled[0].block, **arrays)
    users, projects, metadata = (np.concatenate([p.texts(c, strings) for p in filled]) for c in CARRIED[1:])
    block = pool_block(np.concatenate([p.resource(strings) for p in filled]), users, projects, metadata, strings)
    arrays["at"] = order
    return Rows(block, **arrays)


class Watermarks:
    """A step's watermark through a call: `values[0]` at its start, then `values[i]` from `positions[i]` on; both rise.

    Positions number what happens, not rows: every log row and every mark is an event e, and takes `width` positions from
    `e * width` on. The first step hears the new watermark at `e * width`, the step after it one position later, when it has got what the first
    one closed, and so on; the row itself comes last, at `e * width + width - 1`.
    """

    __slots__ = ("positions", "values")

    def __init__(self, positions: I64, values: I64) -> None:
        self.positions = positions
        self.values = values

    @classmethod
    def constant(cls, value: int) -> Watermarks:
        """The same watermark all the time."""
        return cls(np.full(1, -1), np.array([value], np.int64))

    @property
    def last(self) -> int:
        """The watermark at the end of the call."""
        return int(self.values[-1])

    def at(self, positions: I64) -> I64:
        """The watermark at each of these positions."""
        if not len(positions) or positions[0] >= self.positions[-1]:
            return np.broadcast_to(self.values[-1:], len(positions))
        return self.values[np.searchsorted(self.positions, positions, "right") - 1]

    def scalar(self, positions: I64) -> int | I64:
        """As `at`, but one number where it is the same for all."""
        if not len(positions) or positions[0] >= self.positions[-1]:
            return self.last
        return self.at(positions)

    def reaches(self, moment: int) -> int:
        """The first position where the watermark is at least `moment`, which it is at the end."""
        return int(self.positions[np.searchsorted(self.values, moment)])

    def floored(self, span: int, back: int) -> Watermarks:
        """floor((W - back) / span) * span, heard one position later: what a step hands on."""
        moved = (self.values - back) // span * span
        moved[self.values >= MAX_TIME] = MAX_TIME
        moved[self.values <= MIN_TIME] = MIN_TIME
        return Watermarks(self._later(), moved)

    def handed_on(self) -> Watermarks:
        """The same watermark, heard one position later."""
        return Watermarks(self._later(), self.values)

    def _later(self) -> I64:
        later = self.positions + 1
        later[0] = -1
        return later
