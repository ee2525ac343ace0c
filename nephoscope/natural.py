"""Natural ids: where a sample's id is a function of what is stored anyway, a store need not keep it.

The id of a polled sample is a function of (source, meter, resource, timestamp); what steps make of it one for one adds
only their own names (the sample's origin, see nephoscope.identity); arithmetic's output is known by (origin,
resource, period). So a store computes for each row the id that follows from its origin, resource and timestamp. A row whose
id is just that is *natural*: its key says all. Any other (pushed, notified, aggregated) keeps its id as tie-breaker.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from nephoscope import identity
from nephoscope.batch import int_column, values_of

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_CACHED_DICTIONARIES = 512
# Drawn for each process: nobody can prepare two dictionaries that pass for one.
_SEED = int.from_bytes(os.urandom(8), "little")


class Kind(NamedTuple):
    """What samples of one meter have in common: a store keeps it once, under a number."""

    name: str
    type: str
    unit: str
    source: str
    origin: str

    @property
    def identity(self) -> str:
        """What an id of this kind is made of beside resource and time: kinds that share it give the same ids."""
        return self.origin or identity.raw_origin(self.source, self.name)


def codes(rows: pa.RecordBatch, name: str) -> npt.NDArray[np.int32]:
    """The indices of a dictionary column, without a copy."""
    out: npt.NDArray[np.int32] = values_of(rows.column(name).indices, np.int32)
    return out


def distinct(numbers: I64, bound: int | None = None) -> tuple[I64, I64]:
    """(each row's position among the distinct numbers, the distinct numbers). `bound`: all are at least 0 and below it."""
    if bound is not None and bound <= 65536:
        there = np.zeros(bound, bool)
        there[numbers] = True
        used = np.flatnonzero(there)
        position = np.empty(bound, np.int64)
        position[used] = np.arange(len(used))
        return position[numbers], used
    encoded = pa.array(numbers).dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), encoded.dictionary.to_numpy()


def combined(columns: Sequence[tuple[npt.NDArray[Any], int]]) -> tuple[I64, int]:
    """(one number a row that says the codes of all columns, a bound of the numbers), given (codes, how many there are)."""
    out = np.zeros(len(columns[0][0]), np.int64)
    room = 1
    for values, size in columns:
        if room * size >= 2**62:
            # Dictionaries of hostile size: renumber what is really used, so that the product fits.
            out, used = distinct(out)
            room = len(used)
        if size > 1:
            out = out * size + values
            room *= size
    return out, room


def words(rows: pa.RecordBatch, name: str, used: I64) -> list[str]:
    """The strings of these codes."""
    taken: list[str] = rows.column(name).dictionary.take(pa.array(used)).to_pylist()
    return taken


_kinds: dict[tuple[bytes, ...], list[Kind]] = {}


def kinds_of(rows: pa.RecordBatch) -> tuple[I64, list[Kind]]:
    """(each row's position in the list, the distinct kinds of the rows). Not to be changed: the list is kept."""
    columns = [(codes(rows, n), max(1, len(rows.column(n).dictionary))) for n in Kind._fields]
    which, used = distinct(*combined(columns))
    key = (*(content(rows.column(n).dictionary) for n in Kind._fields), used.tobytes())
    kinds = _kinds.get(key)
    if kinds is None:
        # A row of each kind; which one is all the same.
        row = np.empty(len(used), np.int64)
        row[which] = np.arange(len(which))
        parts = [words(rows, n, c[row].astype(np.int64)) for n, (c, _) in zip(Kind._fields, columns, strict=True)]
        kinds = [Kind(*values) for values in zip(*parts, strict=True)]
        if len(_kinds) >= _CACHED_DICTIONARIES:
            _kinds.clear()
        _kinds[key] = kinds
    return which, kinds


def content(dictionary: pa.Array) -> bytes:
    """A digest of a string dictionary's values: what caches of facts about them are keyed by."""
    n, at = len(dictionary), dictionary.offset
    _, offsets, data = dictionary.buffers()
    if not n or offsets is None:
        return b""
    bounds = np.frombuffer(offsets, np.int32, n + 1, 4 * at)
    hasher = xxhash.xxh3_128(bounds.tobytes(), seed=_SEED)
    if data is not None:
        hasher.update(memoryview(data)[bounds[0] : bounds[-1]])
    return hasher.digest()


_keys_of_dictionary: dict[bytes, tuple[U64, U64]] = {}


def resource_keys(dictionary: pa.Array) -> tuple[U64, U64]:
    """identity.resource_key of each value, as two arrays. Cached by content: the same resources come back each period."""
    key = content(dictionary)
    found = _keys_of_dictionary.get(key)
    if found is None:
        pairs = np.array([identity.resource_key(r) for r in dictionary.to_pylist()], np.uint64).reshape(-1, 2)
        found = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        if len(_keys_of_dictionary) >= _CACHED_DICTIONARIES:
            _keys_of_dictionary.clear()
        _keys_of_dictionary[key] = found
    return found


def _origin_keys(origin: str) -> Any:
    try:
        return identity.origin_keys(origin)
    except (ValueError, TypeError, LookupError, RecursionError):
        # Somebody else's idea of an origin: no id follows from it.
        return identity.base_key(("unreadable", origin)), ()


def ids(kinds: Sequence[Kind], which: I64, resource_hi: U64, resource_lo: U64, time: I64) -> npt.NDArray[np.uint8]:
    """(n, 16) bytes: the natural ids of n rows, given each row's position in `kinds`, its resource's key and its timestamp."""
    keys = [_origin_keys(kind.identity) for kind in kinds]
    base = np.array([k[0] for k in keys], np.uint64).reshape(-1, 2)
    hi, lo = identity.keyed(base[which, 0], base[which, 1], resource_hi, resource_lo, time)
    lengths = np.array([len(k[1]) for k in keys], np.int64)
    for depth in range(int(lengths.max(initial=0))):
        longer = lengths > depth
        step = np.zeros((len(keys), 2), np.uint64)
        step[longer] = [k[1][depth] for k in keys if len(k[1]) > depth]
        at = np.flatnonzero(longer[which])
        if len(at) == len(which):
            hi, lo = identity.mix(hi, lo, step[which, 0], step[which, 1])
        else:
            hi[at], lo[at] = identity.mix(hi[at], lo[at], step[which[at], 0], step[which[at], 1])
    return identity.pack(hi, lo)


def stored_ids(rows: pa.RecordBatch) -> npt.NDArray[np.uint8]:
    """The id column as (n, 16) bytes, without a copy."""
    raw: npt.NDArray[np.uint8] = values_of(rows.column("id"), np.uint8, 16)
    return raw.reshape(-1, 16)


def natural_ids(rows: pa.RecordBatch) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """((n, 16) bytes: the id that each row's key gives, whether the row's own id is that one)."""
    which, kinds = kinds_of(rows)
    computed = ids(kinds, which, *row_keys(rows), int_column(rows, "timestamp"))
    return computed, same(computed, stored_ids(rows))


def row_keys(rows: pa.RecordBatch) -> tuple[U64, U64]:
    """The resource key of each row."""
    hi, lo = resource_keys(rows.column("resource_id").dictionary)
    resource = codes(rows, "resource_id")
    return hi[resource], lo[resource]


def same(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which of n ids are equal."""
    x, y = (np.ascontiguousarray(v).view(np.uint64).reshape(-1, 2) for v in (a, b))
    equal: npt.NDArray[np.bool_] = (x[:, 0] == y[:, 0]) & (x[:, 1] == y[:, 1])
    return equal
