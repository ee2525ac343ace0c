"""Which packs count: for each bucket and minute, a list of packs in the order in which they came.

A pack is written first; then it is added to the list, in one step that fails where somebody else added something meanwhile. Who fails
looks again at what is there. So of two writers of the same sample the list knows the first, and nobody ever waits for anybody.

An entry is of fixed size, little endian: kind (8), token of the pack (10), roster (16), microseconds from the start of the minute (u4), flags.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nephoscope.errors import StoreError

TIED: Final = 1
"""The samples of the pack have ids of their own; which times they are of stands in the pack."""

ENTRY: Final = np.dtype([("kind", "V8"), ("token", "V10"), ("roster", "V16"), ("offset", "<u4"), ("flags", "u1")])
_SIZE: Final = ENTRY.itemsize


class Entry:
    """A pack that counts. `time`: the start of its minute, and the samples' own where they share one."""

    __slots__ = ("kind", "minute", "offset", "raw", "roster", "tied", "token")

    def __init__(self, minute: int, raw: bytes) -> None:
        self.minute = minute
        self.raw = raw
        self.kind = raw[:8]
        self.token = raw[8:18]
        self.roster = raw[18:34]
        self.offset = int.from_bytes(raw[34:38], "little")
        self.tied = bool(raw[38] & TIED)


def entry(kind: bytes, token: bytes, roster: bytes, offset: int, *, tied: bool) -> bytes:
    """The bytes of an entry."""
    return kind + token + roster + offset.to_bytes(4, "little") + bytes([TIED if tied else 0])


def entries(minute: int, value: bytes) -> list[Entry]:
    """The entries of a list."""
    _check(value)
    return [Entry(minute, value[i : i + _SIZE]) for i in range(0, len(value), _SIZE)]


def table(value: bytes) -> npt.NDArray[Any]:
    """The entries of a list as a table."""
    _check(value)
    return np.frombuffer(value, ENTRY)


def tokens(value: bytes) -> dict[bytes, int]:
    """The place of each pack, by its kind and token."""
    _check(value)
    return {value[i : i + 18]: i // _SIZE for i in range(0, len(value), _SIZE)}


def _check(value: bytes) -> None:
    if len(value) % _SIZE:
        raise StoreError(f"a list of packs of {len(value)} bytes is none")
