"""test://: keeps what it gets in memory, for tests and trials. ``test://NAME`` keeps it under a name.

Guarantee: none beyond the process; what was published is there until the process ends or `published(NAME)` is cleared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from nephoscope.batch import Batch
from nephoscope.event import Event
from nephoscope.sample import Sample
from nephoscope.store import Rows, batches

MOST: Final = 1_000_000
"""Samples, and events, kept under a name; older ones go first."""

_published: dict[str, list[Sample]] = defaultdict(list)
_events: dict[str, list[Event]] = defaultdict(list)


def published(name: str = "") -> list[Sample]:
    """What was published to ``test://name``, in order. The list is live: clear it to begin anew."""
    return _published[name]


def published_events(name: str = "") -> list[Event]:
    """The same for events."""
    return _events[name]


class MemoryPublisher:
    """Appends each sample and event to the list of its name."""

    guarantee = "nothing outlives the process"
    policy = "wait"

    def __init__(self, url: str = "test://") -> None:
        name = url.partition("://")[2].strip("/")
        self.samples, self.events = published(name), published_events(name)

    def publish(self, rows: Rows) -> None:
        """Keep the rows."""
        for batch in batches(rows):
            self.samples.extend(Batch(batch).samples())
        del self.samples[:-MOST]

    def publish_events(self, events: Sequence[Event]) -> None:
        """Keep events."""
        self.events.extend(events)
        del self.events[:-MOST]

    def flush(self) -> None:
        """Nothing to do: what was published is there."""

    def discard(self) -> int:
        """Forget nothing: what was published is there."""
        return 0

    def close(self) -> None:
        """Nothing to do."""
