"""Dead letters: what could not be read, decoded or stored lies on a topic of its own. Nothing vanishes.

A dead letter is a JSON object::

    {"reason": "too_large", "detail": "…", "origin": {"topic", "partition", "offset"}, "time": "…", "size": 10485760,
     "data_base64": "…"}

`reason` is the word that the counters use; `origin` is there where the bytes came from a topic; `size` is that of the whole,
`data_base64` holds up to 64 KiB of it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import msgspec

from nephoscope import times
from nephoscope.metrics import Counts
from nephoscope.partition import jump, key_hash
from nephoscope.topics import DEAD_LETTERS, Log, Message, Record

KEPT = 64 << 10
"""Bytes kept of what could not be used."""
_DETAIL = 500
_PATIENCE = 2.0
"""Seconds to wait for a message that is said to be there."""

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


class Written(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A dead letter as it lies on the topic. `size`: of the whole; `data_base64`: up to 64 KiB of it; `origin`: where the bytes came from a topic."""

    reason: str
    detail: str = ""
    origin: Origin | None = None
    time: str = ""
    size: int
    data_base64: str


def record_of(letter: DeadLetter, partitions: int) -> Record:
    """The record of a dead letter: on the partition of its origin, else of its key."""
    if letter.origin is not None and 0 <= letter.origin.partition < partitions:
        partition = letter.origin.partition
    else:
        partition = jump(key_hash(_clean(letter.key)), partitions)
    written = Written(
        reason=letter.reason,
        detail=_clean(letter.detail)[:_DETAIL],
        origin=letter.origin,
        time=times.format_time(times.now()),
        size=len(letter.data),
        data_base64=base64.b64encode(letter.data[:KEPT]).decode(),
    )
    return Record(partition, _encode(written), _clean(letter.key).encode())


def bury(log: Log, letters: Sequence[DeadLetter]) -> None:
    """Append dead letters, in one call. Raises as Log.append does."""
    if letters:
        count = log.partitions(DEAD_LETTERS)
        log.append(DEAD_LETTERS, [record_of(letter, count) for letter in letters])
        Counts("dead_letters").sent(len(letters))


class Buried(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter as it lies on the topic, at `partition` and `offset`. `size`: of the whole; `data`: what is kept of it."""

    partition: int
    offset: int
    reason: str
    detail: str
    origin: Origin | None
    time: str
    size: int
    data: bytes

    @property
    def name(self) -> str:
        """Where it lies, as commands take it."""
        return f"{self.partition}:{self.offset}"

    @property
    def truncated(self) -> bool:
        """Whether only the beginning is kept."""
        return len(self.data) < self.size


_read = msgspec.json.Decoder(Written).decode


def letters(log: Log) -> Iterator[Buried]:
    """All dead letters that the log keeps now, those of a partition in order. What is none (the topic is open to others) is one itself."""
    first, end = log.begin(DEAD_LETTERS), log.end(DEAD_LETTERS)
    offsets = {p: b for p, (b, e) in enumerate(zip(first, end, strict=True)) if b < e}
    left = {p: end[p] for p in offsets}
    if not left:
        return
    consumer = log.consumer(DEAD_LETTERS, offsets)
    try:
        while left:
            messages = consumer.poll(timeout=_PATIENCE)
            if not messages:
                return  # Retention was faster.
            for message in messages:
                if message.partition not in left:
                    continue
                if message.offset < left[message.partition]:
                    yield buried_of(message)
                if message.offset + 1 >= left[message.partition]:
                    del left[message.partition]
    finally:
        consumer.close()


def buried_of(message: Message) -> Buried:
    """The dead letter of a message."""
    try:
        read = _read(message.value)
        data = base64.b64decode(read.data_base64, validate=True)
    except (msgspec.MsgspecError, ValueError) as error:
        read = Written(reason="no_letter", size=len(message.value), data_base64="", detail=str(error))
        data = message.value
    return Buried(
        partition=message.partition,
        offset=message.offset,
        reason=read.reason,
        detail=read.detail,
        origin=read.origin,
        time=read.time or times.format_time(message.append_time),
        size=read.size,
        data=data,
    )


def data_of(value: bytes) -> bytes:
    """What a dead letter keeps of the bytes that could not be used."""
    kept: str = msgspec.json.decode(value)["data_base64"]
    return base64.b64decode(kept)


def _clean(text: str) -> str:
    """Text that can be written as UTF-8, whatever it came from."""
    return text.encode("utf-8", "replace").decode()
