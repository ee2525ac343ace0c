"""Events on their way: the form of a message on the topic `telemetry.events`.

A JSON object::

    {"events": [{"message_id", "event_type", "generated": microseconds UTC,
                 "traits": [{"name", "type", "value"}, …], "raw": "{…}"}, …]}

An event's partition follows from its message_id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from nephoscope.batch import MAX_MESSAGE
from nephoscope.errors import BatchError
from nephoscope.event import DATETIME, Event
from nephoscope.partition import partitions_of_new
from nephoscope.times import format_time
from nephoscope.topics import Record


class EventMessage(msgspec.Struct):
    """The message: some events of one partition."""

    events: list[Event]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(EventMessage).decode
_OPEN, _CLOSE = b'{"events":[', b"]}"


def event_to_dict(event: Event) -> dict[str, Any]:
    """An event as others read it: times as ISO 8601 (UTC), the traits by name."""
    return {
        "message_id": event.message_id,
        "event_type": event.event_type,
        "generated": format_time(event.generated),
        "traits": {t.name: format_time(int(t.value)) if t.type == DATETIME else t.value for t in event.traits},
        "raw": msgspec.json.decode(event.raw),
    }


def event_records(events: Sequence[Event], partitions: int) -> Iterator[Record]:
    """The messages of some events, in their order within a partition, each below the brokers' limit (an event alone may be above it)."""
    groups: dict[int, list[bytes]] = {}
    numbers = partitions_of_new([event.message_id for event in events], partitions)
    for number, event in zip(numbers, events, strict=True):
        groups.setdefault(number, []).append(_encode(event))
    for number, group in groups.items():
        piece: list[bytes] = []
        size = 0
        for text in group:
            if piece and size + len(text) > MAX_MESSAGE - 64:
                yield Record(number, _OPEN + b",".join(piece) + _CLOSE)
                piece, size = [], 0
            piece.append(text)
            size += len(text) + 1
        yield Record(number, _OPEN + b",".join(piece) + _CLOSE)


def decode_events(value: bytes) -> list[Event]:
    """The events of a message. BatchError for bytes that are none."""
    try:
        return _decode(value).events
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BatchError(f"no message of events: {error}") from None
