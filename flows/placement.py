"""Which worker has a partition's state: what the engine works out for itself, so that partitions are spread evenly, and read where they are
computed.

The engine sends an item to the worker `hash(key) % workers`, the hash being that of Rust's standard library (SipHash-1-3, Aumasson and Bernstein
2012, under a key of zeros, over the text and a byte 0xff). `key_of` gives a partition a key for which that is `partition % workers`, for any
number of workers up to 8 (and what else divides 840). Where a worker reads just its own partitions, no message crosses to another process.
Were the engine to choose otherwise, the shares would be less even and messages would cross, and nothing else would be different.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

_EVEN = 840
"""The least number that 1 to 8 divide."""
_TRIES = 16 * _EVEN


@lru_cache(maxsize=1 << 16)
def key_of(partition: int) -> str:
    """The key of a partition's state: its number, and what makes its hash even."""
    digits = np.arange(10_000, 10_000 + _TRIES)
    ends = [digits // 10**i % 10 + 48 for i in range(4, -1, -1)]
    text = np.empty((_TRIES, 11), np.uint8)
    text[:, :6] = np.frombuffer(f"{partition:05d}.".encode(), np.uint8)
    text[:, 6:] = np.stack(ends, 1)
    found = np.flatnonzero(_hashed(text) % np.uint64(_EVEN) == partition % _EVEN)
    # About 16 are to be expected; where none is, any key is right, and only less even.
    return str(text[found[0] if len(found) else 0].tobytes(), "ascii")


def partition_of(key: str) -> int:
    """The partition of a key."""
    return int(key.partition(".")[0])


def worker_of(key: str, workers: int) -> int:
    """The number of the worker that has the state of a key."""
    raw = np.frombuffer(key.encode(), np.uint8).reshape(1, -1)
    return int(_hashed(raw)[0]) % workers


def _hashed(text: Any) -> Any:
    """SipHash-1-3 with the key 0 of each row's bytes and a byte 0xff."""
    count, length = text.shape
    size = length + 1
    padded = np.zeros((count, size // 8 * 8 + 8), np.uint8)
    padded[:, :length] = text
    padded[:, length] = 0xFF
    padded[:, -1] = size & 0xFF
    words = padded.view("<u8")
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [np.full(count, value, np.uint64) for value in start]
    for i in range(words.shape[1]):
        v[3] ^= words[:, i]
        _round(v)
        v[0] ^= words[:, i]
    v[2] ^= np.uint64(0xFF)
    for _ in range(3):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[Any]) -> None:
    v[0] = v[0] + v[1]
    v[1] = _rotated(v[1], 13) ^ v[0]
    v[0] = _rotated(v[0], 32)
    v[2] = v[2] + v[3]
    v[3] = _rotated(v[3], 16) ^ v[2]
    v[0] = v[0] + v[3]
    v[3] = _rotated(v[3], 21) ^ v[0]
    v[2] = v[2] + v[1]
    v[1] = _rotated(v[1], 17) ^ v[2]
    v[2] = _rotated(v[2], 32)


def _rotated(x: Any, by: int) -> Any:
    return x << np.uint64(by) | x >> np.uint64(64 - by)
