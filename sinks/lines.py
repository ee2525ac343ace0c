"""Samples as JSON lines: what the file and console publishers write."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from nephoscope.batch import int_column
from nephoscope.natural import codes, distinct, words
from nephoscope.times import NEVER, format_time

_encode = msgspec.json.Encoder().encode
_moment = lru_cache(maxsize=4096)(format_time)


class _Line(msgspec.Struct, omit_defaults=True):
    """nephoscope.sample's own form. What has a default is left out where it is unknown."""

    id: str
    name: str
    type: str
    unit: str
    volume: float
    user_id: str | None
    project_id: str | None
    resource_id: str
    timestamp: str
    resource_metadata: msgspec.Raw
    source: str
    measured_at: str | msgspec.UnsetType = msgspec.UNSET
    late: bool = False
    origin: str = ""


def json_lines(rows: pa.RecordBatch) -> list[bytes]:
    """A line for each sample, its end included; the metadata as it came."""
    ids = [f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}" for raw in map(bytes.hex, _plain(rows, "id"))]
    lines = map(
        _Line,
        ids,
        _words(rows, "name"),
        _words(rows, "type"),
        _words(rows, "unit"),
        _plain(rows, "volume"),
        _words(rows, "user_id", lambda text: text or None),
        _words(rows, "project_id", lambda text: text or None),
        _words(rows, "resource_id"),
        map(_moment, int_column(rows, "timestamp").tolist()),
        _words(rows, "resource_metadata", lambda text: msgspec.Raw(text.encode())),
        _words(rows, "source"),
        [msgspec.UNSET if t == NEVER else format_time(t) for t in int_column(rows, "measured_at").tolist()],
        _plain(rows, "late"),
        _words(rows, "origin"),
    )
    return [_encode(line) + b"\n" for line in lines]


def _plain(rows: pa.RecordBatch, name: str) -> list[Any]:
    values: list[Any] = rows.column(name).to_pylist()
    return values


def _words(rows: pa.RecordBatch, name: str, form: Callable[[str], Any] = str) -> list[Any]:
    """A column of text; each value in the dictionary that is used is formed once."""
    which, used = distinct(codes(rows, name).astype(np.int64), max(1, len(rows.column(name).dictionary)))
    values = [form(text) for text in words(rows, name, used)]
    return [values[i] for i in which.tolist()]
