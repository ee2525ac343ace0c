"""Which rows are refused, and why (docs/semantics.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa

from flows.plan import Options
from flows.rows import Bools, Rows
from nephoscope.sample import TYPES
from nephoscope.times import SECOND, TOO_LATE, format_time

if TYPE_CHECKING:
    from flows.layout import Layout


def refused(options: Options, layout: Layout, rows: Rows, appended: Any, caches: dict[Any, Any]) -> dict[int, str]:
    """Reason by row; empty where all is well. `appended`: microseconds, one or one a row; 0: unknown.

    `caches` remembers, by a dictionary's content, which of its texts are no metadata.
    """
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
    key = "metadata", rows.block.key("resource_metadata")
    if key not in caches:
        if len(caches) >= 256:
            caches.pop(next(iter(caches)))
        wrong = not_objects(rows.block.dictionary("resource_metadata"), options.max_sample_bytes)
        caches[key] = wrong if wrong.any() else None
    if caches[key] is not None:
        mark(caches[key][rows.block.codes("resource_metadata")], "metadata")
    return bad


def explained(options: Options, reason: str, batch: pa.RecordBatch, row: int, appended: int) -> str:
    """What is wrong with a refused row, and what was expected. `appended`: when its message came, microseconds; 0: unknown."""
    if reason == "timestamp":
        time = int(batch.column("timestamp").cast(pa.int64())[row].as_py())
        if time < 0:
            return f"{_moment(time)} is before 1970"
        if time >= TOO_LATE:
            return f"{_moment(time)} is not before {format_time(TOO_LATE)}"
        late = (time - appended) / SECOND
        return f"{_moment(time)} is {late:.0f} s after its message came, and max_future is {options.max_future:g} s"
    if reason == "volume":
        return f"{batch.column('volume')[row].as_py()} is no finite number"
    if reason == "metadata":
        size = len(batch.column("resource_metadata")[row].as_py().encode())
        if size > options.max_sample_bytes:
            return f"resource_metadata has {size} bytes, and max_sample_bytes is {options.max_sample_bytes}"
        return "resource_metadata is not the text of a JSON object"
    if reason == "type":
        return f"{batch.column('type')[row].as_py()[:40]!r} is none of {', '.join(TYPES)}"
    return "is empty" if reason in {"name", "resource_id"} else ""


def _moment(time: int) -> str:
    try:
        return format_time(time)
    except OverflowError:
        return f"{time} µs since 1970"


_parse = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def not_objects(words: pa.Array, limit: int) -> Bools:
    """Which strings are not the text of a JSON object, or are too long."""
    out = np.zeros(len(words), bool)
    for i, word in enumerate(words.to_pylist()):
        try:
            out[i] = len(word) > limit or len(word.encode()) > limit
            if not out[i]:
                _parse(word)
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
            out[i] = True
    return out
