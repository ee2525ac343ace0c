"""Where things stand in HBase (docs/decisions/0053-hbase-layout.md says why).

Five tables, all with the store's prefix::

    sample  bucket | identity | span          → FAMILY:place|token     a pack: the samples of a kind at a moment
    commit  bucket | minute                   → c:j                    which packs count, in the order in which they came
    fact    'f' | digest                      → f:v                    rosters and states, found by their content
            'k' | digest                      → a:v                    kinds
            'e' | era | bucket                → f:'k'|kind|resources   which kinds of which resources an era has
                                                f:'s'|roster           and what was said of them
            'a'                               → a:layout, a:buckets, a:plan, a:swept
    id      id                                → c:v                    the sample of an id of its own, and where it is
            'm' | digest of a message_id      → m:v                    the event of a message_id
    event   't' | bucket | time | digest      → e:v                    events
            'i' | type | bucket | time | digest → e:v                  those of a type

`bucket` is a byte of the resource's hash; `identity` 8 bytes of the kind's identity (nephoscope.natural); `span` the hour, `place` the minute in it.
A cell's timestamp is that of its newest sample.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from nephoscope.natural import Kind
from nephoscope.partition import jump, key_hash
from nephoscope.times import SECOND

VERSION: Final = b"1"
BUCKETS: Final = 64
MINUTE: Final = 60 * SECOND
SPAN: Final = 3600 * SECOND
ERA: Final = 2**18 * SECOND
"""Three days: how finely the store knows, without looking, which resources and meters it has."""
MINUTES: Final = SPAN // MINUTE

SAMPLE: Final = b"sample"
COMMIT: Final = b"commit"
FACT: Final = b"fact"
ID: Final = b"id"
EVENT: Final = b"event"
TABLES: Final = (SAMPLE, COMMIT, FACT, ID, EVENT)

JOURNAL: Final = b"c:j"
CLAIM: Final = b"c:v"
VALUE: Final = b"f:v"
LASTING: Final = b"a:v"
ABOUT: Final = b"a"
"""The row of what is true of the whole store."""

_U32: Final = struct.Struct(">I")


def digest(*parts: bytes, size: int = 16) -> bytes:
    """A digest of the parts' contents that nobody can make two contents for."""
    hasher = blake2b(digest_size=size)
    for part in parts:
        hasher.update(len(part).to_bytes(4, "big"))
        hasher.update(part)
    return hasher.digest()


@lru_cache(maxsize=65536)
def kind_key(kind: Kind) -> bytes:
    """8 bytes of a kind."""
    return digest(*(word.encode() for word in kind), size=8)


@lru_cache(maxsize=65536)
def identity_key(identity: str) -> bytes:
    """8 bytes of a kind's identity: kinds that share it stand in the same rows."""
    return digest(identity.encode(), size=8)


def family(number: int) -> bytes:
    """The column family of a class of lifetimes."""
    return b"d" if number == 0 else b"d%d" % number


def bucket_of(resource: str, buckets: int) -> int:
    """The first byte of a resource's rows: the buckets are spread evenly over the bytes."""
    return jump(key_hash(resource), buckets) * 256 // buckets


def all_buckets(buckets: int) -> list[int]:
    """The first bytes that there may be."""
    return [b * 256 // buckets for b in range(buckets)]


def sample_row(bucket: int, identity: bytes, span: int) -> bytes:
    """The row of a bucket, identity and hour (a number since 1970)."""
    return bytes([bucket]) + identity + _U32.pack(span)


def read_sample_row(row: bytes) -> tuple[int, bytes, int]:
    """(bucket, identity, span)."""
    return row[0], row[1:9], _U32.unpack_from(row, 9)[0]


def commit_row(bucket: int, minute: int) -> bytes:
    """The row of a bucket and minute (a number since 1970)."""
    return bytes([bucket]) + _U32.pack(minute)


def minute_of(row: bytes) -> int:
    """The minute of a row of commits."""
    number: int = _U32.unpack_from(row, 1)[0]
    return number


def era_row(era: int, bucket: int) -> bytes:
    """The row of what an era has in a bucket."""
    return b"e" + _U32.pack(era) + bytes([bucket])


def read_era_row(row: bytes) -> tuple[int, int]:
    """(era, bucket)."""
    return _U32.unpack_from(row, 1)[0], row[5]


def after(key: bytes) -> bytes:
    """The first key beyond all that begin with this one; empty: there is none."""
    stripped = key.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b""
