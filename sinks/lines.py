"""Samples as JSON lines: what the file and console publishers write."""

from __future__ import annotations

import pyarrow as pa

from nephoscope.forms import lines


def json_lines(rows: pa.RecordBatch) -> list[bytes]:
    """A line for each sample, its end included; the metadata as it came."""
    return lines(rows, end=b"\n")
