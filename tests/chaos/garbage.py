"""What is no batch, or hardly one: random bytes, and batches with bits flipped, cut, spliced and lied about in their header."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

import pyarrow as pa

from nephoscope import identity
from nephoscope.batch import SCHEMA, Batch, Header, batch_of, encode, frame
from nephoscope.sample import Sample
from nephoscope.times import SECOND

_HEAD = 24
_RESOURCES = 300
_NAMES = ("one", "two")


def good(number: int, now: int) -> bytes:
    """A batch of two samples that nobody has had before, number by number: resources take turns, with a minute more in each."""
    minutes = now // (60 * SECOND) - 600 + number // _RESOURCES
    resource, time = f"r{number % _RESOURCES}", minutes * 60 * SECOND
    rows = _rows(resource)
    ids = [identity.polled_id("openstack", name, resource, time) for name in _NAMES]
    for name, values in (("volume", [float(number)] * 2), ("timestamp", [time] * 2), ("id", ids)):
        place = SCHEMA.get_field_index(name)
        rows = rows.set_column(place, SCHEMA.field(place), pa.array(values, SCHEMA.field(place).type))
    return encode(Batch(rows, Header(interval=60, polling=("p",))))


@cache
def _rows(resource: str) -> pa.RecordBatch:
    """The two of a resource, which differ from number to number in nothing but volume, time and id."""
    return batch_of(
        Sample(name=name, type="gauge", unit="u", volume=0.0, resource_id=resource, timestamp=0, id=bytes(16))
        for name in _NAMES
    ).rows


def hostile(chance: random.Random, now: int) -> Iterator[bytes]:
    """Messages without end; now and then one is a good batch after all."""
    number = 0
    kinds: list[Callable[[bytes], bytes]] = [
        lambda _: chance.randbytes(chance.choice((0, 1, 7, 23, 24, 25, 100, 3000))),
        lambda m: m[:_HEAD] + chance.randbytes(len(m) - _HEAD),
        lambda m: _flipped(chance, m),
        lambda m: m[: chance.randrange(len(m))],
        lambda m: m + chance.randbytes(50),
        # From here on the checksum is right: Arrow has to see what is wrong.
        lambda m: _honest(_flipped(chance, m)),
        lambda m: _honest(_flipped(chance, m)),
        lambda m: _honest(m[: chance.randrange(_HEAD, len(m))]),
        lambda m: _honest(_zeroed(chance, m)),
        lambda m: _relabelled(chance, m),
        lambda m: m,
    ]
    while True:
        yield chance.choice(kinds)(good(number, now))
        number += 1


def _flipped(chance: random.Random, message: bytes) -> bytes:
    out = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        place = chance.randrange(len(out))
        out[place] ^= 1 << chance.randrange(8)
    return bytes(out)


def _zeroed(chance: random.Random, message: bytes) -> bytes:
    begin = chance.randrange(_HEAD, len(message))
    return message[:begin] + chance.choice((b"\0", b"\xff")) * chance.choice((1, 4, 8, 64)) + message[begin + 64 :]


def _honest(message: bytes) -> bytes:
    """The same with a head that fits: what it says of length and checksum is true."""
    rows = int.from_bytes(message[8:12], "little")
    length = int.from_bytes(message[12:16], "little")
    return frame(message[_HEAD : _HEAD + length], message[_HEAD + length :], rows)


def _relabelled(chance: random.Random, message: bytes) -> bytes:
    """Good rows under a header of somebody else's, or too many rows announced."""
    length = int.from_bytes(message[12:16], "little")
    head = chance.choice(
        (
            b"{}",
            b'{"interval":-1}',
            b'{"interval":1e99}',
            b'{"mark":9223372036854775807}',
            b'{"polling":[1]}',
            b'{"polling":' + b"[" * 2000,
            b"\xff\xfe",
            b"[]",
        )
    )
    head += b" " * (-len(head) % 8)
    return frame(head, message[_HEAD + length :], chance.choice((2, 2, 0, 1, 3, 2**32 - 1)))


__all__ = ["good", "hostile"]
