"""Samples as JSON lines: what the file and console publishers write."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa

from nephoscope.batch import Batch
from nephoscope.identity import format_id
from nephoscope.times import NEVER, format_time

_encode = msgspec.json.Encoder().encode


def _one_line(metadata: str) -> bytes:
    """The metadata's text, which may hold line breaks between its members."""
    raw = metadata.encode()
    return msgspec.json.format(raw, indent=-1) if b"\n" in raw or b"\r" in raw else raw


def json_lines(rows: pa.RecordBatch) -> list[bytes]:
    """A line for each sample, its end included: nephoscope.sample's own form, the metadata as it came."""
    out = []
    for sample in Batch(rows).samples():
        line: dict[str, Any] = {
            "id": format_id(sample.id),
            "name": sample.name,
            "type": sample.type,
            "unit": sample.unit,
            "volume": sample.volume,
            "user_id": sample.user_id or None,
            "project_id": sample.project_id or None,
            "resource_id": sample.resource_id,
            "timestamp": format_time(sample.timestamp),
            "resource_metadata": msgspec.Raw(_one_line(sample.metadata)),
            "source": sample.source,
        }
        if sample.measured_at != NEVER:
            line["measured_at"] = format_time(sample.measured_at)
        if sample.late:
            line["late"] = True
        if sample.origin:
            line["origin"] = sample.origin
        out.append(_encode(line) + b"\n")
    return out
