"""What is on its way to publishers with a queue: part of a partition's state, until it is delivered.

A flow does not wait for such a publisher, so a snapshot may be ahead of it. What had not been acknowledged at the snapshot is in the snapshot,
and is handed out again after a restart.
"""

from __future__ import annotations

import pyarrow as pa


class Ticket:
    """Rows for one publisher. `left`: how many of them are neither acknowledged nor dropped (and counted) yet."""

    __slots__ = ("left", "rows", "url")

    def __init__(self, url: str, rows: pa.RecordBatch) -> None:
        self.url, self.rows = url, rows
        self.left: int = rows.num_rows
