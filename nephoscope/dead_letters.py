"""Dead letters: what could not be read, decoded or stored lies on a topic of its own. Nothing vanishes.

A dead letter is a JSON object::

    {"reason": "too_large", "detail": "…", "origin": {"topic", "partition", "offset"}, "time": "…", "size": 10485760,
     "data_base64": "…"}

`reason` is the word that the counters use; `origin` is there where the bytes came from a topic; `size` is that of the whole,
`data_base64` holds up to 64 KiB of it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from nephoscope import times
from nephoscope.partition import jump, key_hash
from nephoscope.topics import DEAD_LETTERS, Log, Record

KEPT = 64 << 10
"""Bytes kept of what could not be used."""
_DETAIL = 500

_encode = msgspec.json.Encoder().encode


class Origin(msgspec.Struct, frozen=True):
    """A place on a topic."""

    topic: str
    partition: int
    offset: int


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """What is to lie on the topic. `key`: the resource or target that it concerns, where known."""

    reason: str
    data: bytes
    detail: str = ""
    origin: Origin | None = None
    key: str = ""


def record_of(letter: DeadLetter, partitions: int) -> Record:
    """The record of a dead letter: on the partition of its origin, else of its key."""
    if letter.origin is not None and 0 <= letter.origin.partition < partitions:
        partition = letter.origin.partition
    else:
        partition = jump(key_hash(_clean(letter.key)), partitions)
    message: dict[str, Any] = {"reason": letter.reason, "detail": _clean(letter.detail)[:_DETAIL]}
    if letter.origin is not None:
        message["origin"] = letter.origin
    message["time"] = times.format_time(times.now())
    message["size"] = len(letter.data)
    message["data_base64"] = base64.b64encode(letter.data[:KEPT]).decode()
    return Record(partition, _encode(message), _clean(letter.key).encode())


def bury(log: Log, letters: Sequence[DeadLetter]) -> None:
    """Append dead letters, in one call. Raises as Log.append does."""
    if letters:
        count = log.partitions(DEAD_LETTERS)
        log.append(DEAD_LETTERS, [record_of(letter, count) for letter in letters])


def data_of(value: bytes) -> bytes:
    """What a dead letter keeps of the bytes that could not be used."""
    kept: str = msgspec.json.decode(value)["data_base64"]
    return base64.b64decode(kept)


def _clean(text: str) -> str:
    """Text that can be written as UTF-8, whatever it came from."""
    return text.encode("utf-8", "replace").decode()
