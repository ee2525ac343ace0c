"""Samples of many partitions as a batch for each: columns are made once for all of them and cut, not once a partition.

A batch of a few dozen samples costs some 14 small Arrow arrays, far more than its samples do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from nephoscope.batch import SCHEMA, Batch, Header, batch_of
from nephoscope.partition import partition
from nephoscope.sample import Sample


def grouped(samples: Sequence[Sample], header: Header, partitions: int) -> Iterator[tuple[int, Batch]]:
    """(partition, batch) for each partition that has samples, in their order; dictionaries hold the words that the batch uses."""
    if not samples:
        return
    numbers = np.fromiter((partition(s.resource_id, partitions) for s in samples), np.int64, len(samples))
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    whole = batch_of([samples[i] for i in order.tolist()], header)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    if len(starts) == 1:
        yield int(numbers[0]), whole
        return
    ends = [*starts[1:].tolist(), len(numbers)]
    columns = [
        _cut_words(column, starts, ends)
        if pa.types.is_dictionary(column.type)
        else [column.slice(start, end - start) for start, end in zip(starts.tolist(), ends, strict=True)]
        for column in whole.rows.columns
    ]
    for number, *parts in zip(numbers[starts].tolist(), *columns, strict=True):
        yield number, Batch(pa.RecordBatch.from_arrays(parts, schema=SCHEMA), header)


def _cut_words(column: Any, starts: Any, ends: Sequence[int]) -> list[Any]:
    """The pieces of a column of text, each with the words that it uses, in the order in which they first stand in `column`."""
    codes, words = column.indices.to_numpy(), column.dictionary
    firsts, lasts = np.minimum.reduceat(codes, starts), np.maximum.reduceat(codes, starts)
    # Codes are given in the order of the first use. So where a piece's least is above all before, it uses all from there to its greatest,
    # and nothing else: that is how resources lie, each in one partition.
    before = np.concatenate(([-1], np.maximum.accumulate(lasts)[:-1]))
    out = []
    for start, end, first, last, fresh in zip(
        starts.tolist(), ends, firsts.tolist(), lasts.tolist(), (firsts > before).tolist(), strict=True
    ):
        some = codes[start:end]
        if len(words) == 1:
            out.append(column.slice(start, end - start))
            continue
        if fresh or first == last:
            used, some = words.slice(first, last - first + 1), some - first
        else:
            found, some = np.unique(some, return_inverse=True)
            used, some = words.take(pa.array(found)), some.astype(np.int32)
        out.append(pa.DictionaryArray.from_arrays(pa.array(some), used))
    return out
