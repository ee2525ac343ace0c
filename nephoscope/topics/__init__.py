"""Topics: partitioned logs that samples, events and dead letters travel on.

One small interface, two implementations: the embedded log (`nephoscope.topics.embedded`, one SQLite file) and Kafka.
Whoever appends names the partition itself (nephoscope.partition): no topic hashes keys on its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

SAMPLES = "telemetry.samples"
EVENTS = "telemetry.events"
DEAD_LETTERS = "telemetry.dead-letters"
TOPICS = (SAMPLES, EVENTS, DEAD_LETTERS)


class Record(NamedTuple):
    """What is appended: bytes for a partition, with a key (the resource or target it concerns, or empty)."""

    partition: int
    value: bytes
    key: bytes = b""


class Message(NamedTuple):
    """What is read: a record with its place. `append_time` in microseconds, by the log's clock."""

    partition: int
    offset: int
    append_time: int
    value: bytes
    key: bytes = b""


class Consumer(Protocol):
    """Reads some partitions of a topic, each in order, from where it was told to start. Not safe for several threads."""

    def poll(self, limit: int = 1000, timeout: float = 0.0) -> list[Message]:
        """Up to `limit` messages, of one or several partitions, each partition in order; waits up to `timeout` seconds for the first."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class Log(Protocol):
    """A set of topics. Guarantee: what `append` returned for is on disk (or acknowledged by all brokers), once.

    The registry's group `nephoscope.log` has a function for each scheme of `log.url`: it takes the settings (and `also`, a second
    partition count that is right, while the log grows) and returns the log.
    """

    def partitions(self, topic: str) -> int:
        """The topic's partition count. TopicError if there is no such topic."""
        ...

    def append(self, topic: str, records: Sequence[Record]) -> list[int]:
        """Append in order; returns each record's offset once all are durable. Unavailable: nothing of it may be there, try again."""
        ...

    def consumer(self, topic: str, offsets: Mapping[int, int]) -> Consumer:
        """A consumer that starts at the given offset of each partition (the next to read)."""
        ...

    def grow(self, partitions: int) -> None:
        """Give every topic so many partitions. May be called again after it failed. Only for a log that nobody uses meanwhile."""
        ...

    def begin(self, topic: str) -> list[int]:
        """The oldest offset kept, of each partition."""
        ...

    def end(self, topic: str) -> list[int]:
        """The offset that the next record of each partition will get."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...
