"""Samples of many partitions as a batch for each: columns are made once for all of them and cut, not once a partition.

A batch of a few dozen samples costs some 14 small Arrow arrays, far more than its samples do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import pyarrow as pa

from nephoscope.batch import SCHEMA, Batch, Header
from nephoscope.partition import partition
from nephoscope.sample import Sample

_Pieces = list[list[Sample]]


def grouped(samples: Sequence[Sample], header: Header, partitions: int) -> Iterator[tuple[int, Batch]]:
    """(partition, batch) for each partition that has samples, in their order; dictionaries hold the words that the batch uses."""
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(partition(sample.resource_id, partitions), []).append(sample)
    numbers = sorted(found)
    pieces = [found[number] for number in numbers]
    columns = [_WAYS[field.name](field.name, field.type, pieces) for field in SCHEMA]
    for number, *parts in zip(numbers, *columns, strict=True):
        yield number, Batch(pa.RecordBatch.from_arrays(parts, schema=SCHEMA), header)


def _plain(name: str, kind: Any, pieces: _Pieces) -> list[Any]:
    """A column of numbers, times or ids, cut."""
    values = list(map(attrgetter(_ATTRIBUTES.get(name, name)), chain.from_iterable(pieces)))
    whole = pa.array(values, pa.int64()).cast(kind) if pa.types.is_timestamp(kind) else pa.array(values, kind)
    return _cut(whole, [len(piece) for piece in pieces])


def _words(name: str, kind: Any, pieces: _Pieces) -> list[Any]:
    """A column of text, cut: the codes of all pieces are one array, and so are their words, each piece's in the order of their first use."""
    get = attrgetter(_ATTRIBUTES.get(name, name))
    codes: list[int] = []
    words: list[str] = []
    sizes: list[int] = []
    for piece in pieces:
        texts = list(map(get, piece))
        if texts.count(texts[0]) == len(texts):  # As most are: the source, the type, …
            used = texts[:1]
            codes += [0] * len(texts)
        else:
            # Python has hashed most of these texts before, Arrow would hash them again: the same few, and long ones.
            used = list(dict.fromkeys(texts))
            codes += map(dict(zip(used, range(len(used)), strict=True)).__getitem__, texts)
        words += used
        sizes.append(len(used))
    return [
        pa.DictionaryArray.from_arrays(some, of, safe=False)
        for some, of in zip(
            _cut(pa.array(codes, kind.index_type), [len(piece) for piece in pieces]),
            _cut(pa.array(words, kind.value_type), sizes),
            strict=True,
        )
    ]


def _cut(whole: Any, lengths: Sequence[int]) -> list[Any]:
    """The pieces of an array."""
    out = []
    start = 0
    for length in lengths:
        out.append(whole.slice(start, length))
        start += length
    return out


_ATTRIBUTES = {"resource_metadata": "metadata"}
_WAYS: dict[str, Callable[[str, Any, _Pieces], list[Any]]] = {
    field.name: _words if pa.types.is_dictionary(field.type) else _plain for field in SCHEMA
}
