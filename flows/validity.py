"""Which rows are refused, and why (docs/semantics.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flows.plan import Options
from flows.rows import Bools, Rows
from nephoscope.times import TOO_LATE

if TYPE_CHECKING:
    from flows.layout import Layout


def refused(options: Options, layout: Layout, rows: Rows, appended: Any) -> dict[int, str]:
    """Reason by row; empty where all is well. `appended`: microseconds, one or one a row; 0: unknown."""
    bad: dict[int, str] = {}

    def mark(mask: Bools, reason: str) -> None:
        for row in np.flatnonzero(mask).tolist():
            bad.setdefault(row, reason)

    time = rows.time
    limit: Any = TOO_LATE
    if not isinstance(appended, int) or appended:
        limit = np.minimum(TOO_LATE, appended + options.micros("max_future") + 1)
    if int(time.min()) < 0 or np.any(time >= limit):
        mark((time < 0) | (time >= limit), "timestamp")
    finite = np.isfinite(rows.volume)
    if not finite.all():
        mark(~finite, "volume")
    for mask, reason in layout.malformed:
        mark(mask, reason)
    words = rows.block.dictionary("resource_metadata")
    wrong = not_objects(words, options.max_sample_bytes)
    if wrong.any():
        mark(wrong[rows.block.codes("resource_metadata")], "metadata")
    return bad


_OPEN, _CLOSE = ord("{"), ord("}")


def not_objects(words: pa.Array, limit: int) -> Bools:
    """Which strings do not look like a JSON object, or are too long. Whoever parses one checks the rest."""
    _, offsets, data = words.buffers()
    ends = np.frombuffer(offsets, np.int32)[words.offset : words.offset + len(words) + 1]
    length = np.diff(ends)
    if data is None:
        return length < 2
    raw = np.frombuffer(data, np.uint8)
    short = length < 2
    if short.any():
        first, last = np.where(short, 0, ends[:-1]), np.where(short, 0, ends[1:] - 1)
    else:
        first, last = ends[:-1], ends[1:] - 1
    wrong: Bools = short | (length > limit) | (raw.take(first) != _OPEN) | (raw.take(last) != _CLOSE)
    return wrong
