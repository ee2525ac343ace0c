"""stdout://: JSON lines on standard output.

Guarantee: at least once; what was printed after the last snapshot is printed again after a restart.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import BinaryIO

from nephoscope.errors import ConfigError, Problem, Unavailable
from nephoscope.event import Event
from nephoscope.event_forms import event_message
from nephoscope.store import Rows, batches
from sinks.lines import json_lines


class ConsolePublisher:
    """Prints a line for each sample. Raises Unavailable where nobody reads any longer."""

    guarantee = "at least once: what was printed after the last snapshot is printed again after a restart"
    policy = "wait"

    def __init__(self, url: str = "stdout://", stream: BinaryIO | None = None) -> None:
        if url.partition("://")[2].strip("/"):
            raise ConfigError([Problem(f"{url!r}: stdout:// takes nothing more")])
        self._stream = stream

    def publish(self, rows: Rows) -> None:
        """Print the rows."""
        # Looked up now, not when the pipeline was loaded: whoever redirects standard output is obeyed.
        stream = self._stream or sys.stdout.buffer
        try:
            for batch in batches(rows):
                stream.writelines(json_lines(batch))
        except OSError as error:
            raise Unavailable(f"standard output: {error}") from error

    def publish_events(self, events: Sequence[Event]) -> None:
        """Print a line for each event."""
        try:
            (self._stream or sys.stdout.buffer).writelines(event_message(e) + b"\n" for e in events)
        except OSError as error:
            raise Unavailable(f"standard output: {error}") from error

    def flush(self) -> None:
        """Hand over what was printed."""
        try:
            (self._stream or sys.stdout.buffer).flush()
        except OSError as error:
            raise Unavailable(f"standard output: {error}") from error

    def discard(self) -> int:
        """Forget nothing: what was printed is out."""
        return 0

    def close(self) -> None:
        """Flush; standard output stays open."""
        self.flush()
