"""A pack: the samples of one kind at one moment (or, with ids of their own, in one minute) as the bytes of one cell.

Little endian: a head, then a column after the other::

    head      flags, kind (8), roster (16), how many (u4), time in microseconds (i8)
    SHORT     bytes a volume and bytes a measured_at (4 bits each), the least volume (i8), the least measured_at less the time (i8)
    TIED      times less the head's (u4), ids (16)
    volumes   integers where all of them are (WHOLE), or are when multiplied by a thousand (MILLI); else the bits of float64
    MEASURED  measured_at
    LATE      late (u1)

SHORT: volumes and measured_at stand less the least of them, in as many bytes as that needs, byte by byte: the first one of all values first.

Packs from before it are read, and not written any more: volumes are int32 or float64, measured_at i8; with PLANES byte by byte as well.

The roster says of each row whose sample it is, and what that said of its user, project and metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nephoscope.errors import StoreError
from nephoscope.times import NEVER

I64 = npt.NDArray[np.int64]

TIED: Final = 1
MEASURED: Final = 2
LATE: Final = 4
WHOLE: Final = 8
MILLI: Final = 16
PLANES: Final = 32
SHORT: Final = 64

HEAD: Final = struct.Struct("<B8s16sIq")
_SHORTS: Final = bytes([SHORT])
_SHORT: Final = struct.Struct("<BQQ")


@dataclass(slots=True)
class Values:
    """The columns of some samples beside who and what they are. `ids`: (n, 16) bytes; used where they are of their own."""

    time: I64
    volume: npt.NDArray[np.float64]
    measured: I64
    late: npt.NDArray[np.bool_]
    ids: npt.NDArray[np.uint8]

    def take(self, at: Any) -> Values:
        """Some rows."""
        return Values(self.time[at], self.volume[at], self.measured[at], self.late[at], self.ids[at])


@dataclass(frozen=True, slots=True)
class Head:
    """What a pack says before its columns. `flags`: where they are SHORT, from the ninth bit on how many bytes the numbers have."""

    flags: int
    kind: bytes
    roster: bytes
    count: int
    time: int


def pack(kind: bytes, roster: bytes, values: Values, *, tied: bool) -> bytes:
    """The cell of these rows. Without ids of their own, all are of one time."""
    base = int(values.time.min()) if tied else int(values.time[0])
    flags, volumes = _volumes(values.volume)
    flags |= SHORT
    least, width, planes = _planes(volumes)
    parts = [b"", planes]
    early = size = 0
    if tied:
        flags |= TIED
        parts[0] = (values.time - base).astype("<u4").tobytes() + values.ids.tobytes()
    if (values.measured != NEVER).any():
        flags |= MEASURED
        early, size, planes = _planes(values.measured.astype("<i8").view(np.uint64) - np.uint64(base))
        parts.append(planes)
    if values.late.any():
        flags |= LATE
        parts.append(values.late.astype("u1").tobytes())
    return b"".join((
        HEAD.pack(flags, kind, roster, len(values.time), base), _SHORT.pack(width | size << 4, least, early), *parts
    ))  # fmt: skip


def head(cell: bytes) -> Head:
    """The head of a pack. StoreError where the cell is none."""
    if len(cell) < HEAD.size:
        raise StoreError(f"a cell of {len(cell)} bytes is no pack")
    flags, *rest = HEAD.unpack_from(cell)
    if flags & SHORT and len(cell) > HEAD.size:
        flags |= cell[HEAD.size] << 8
    return Head(flags, *rest)


def shape(cell: bytes) -> bytes:
    """The same for packs that have all in common but their times and values: flags, kind, roster, how many, bytes of the numbers."""
    return cell[: HEAD.size - 8] + (cell[HEAD.size : HEAD.size + 1] if cell[:1] >= _SHORTS else b"")


def moment(cell: bytes) -> bytes | None:
    """Different for packs that cannot have one sample; None where that takes more than a look: its samples have ids of their own."""
    return None if cell[0] & TIED else cell[HEAD.size - 8 : HEAD.size]


def unpack(cells: Sequence[bytes], flags: int, count: int, at: I64 | None = None) -> Values:
    """The rows of packs with the same flags and number of rows, one pack after the other; `at`: only these rows of each.

    `ids` is empty where the ids follow from the rest.
    """
    form = _layout(flags, count)
    if set(map(len, cells)) - {form.itemsize}:
        raise StoreError("a pack has not the size that its head says")
    table = np.frombuffer(b"".join(cells), form)
    n = len(cells) * (count if at is None else len(at))

    def column(name: str) -> Any:
        whole = table[name] if at is None else table[name][:, at]
        return whole.reshape(n, *whole.shape[2:])

    def number(name: str, kind: str, least: str) -> Any:
        if not flags & (PLANES | SHORT):
            return column(name)
        whole = (table[name] if at is None else table[name][:, :, at]).transpose(0, 2, 1)
        if not flags & SHORT:
            return np.ascontiguousarray(whole).view(kind).reshape(n)
        wide = np.zeros((*whole.shape[:2], 8), np.uint8)
        wide[:, :, : whole.shape[2]] = whole
        return (wide.view("<u8")[:, :, 0] + table[least][:, None]).reshape(n)

    time = np.repeat(table["time"].astype(np.int64), count if at is None else len(at))
    volume = number("volume", _volume_form(flags), "least")
    if flags & SHORT:
        volume = volume.view(np.int64 if flags & (WHOLE | MILLI) else np.float64)
    measured = np.full(n, NEVER, np.int64)
    if flags & MEASURED:
        measured = number("measured", "<i8", "early").astype(np.int64)
        measured += time if flags & SHORT else 0
    volume = volume.astype(np.float64)
    return Values(
        time + column("times").astype(np.int64) if flags & TIED else time,
        volume / 1000.0 if flags & MILLI else volume,
        measured,
        column("late").astype(bool) if flags & LATE else np.zeros(n, bool),
        column("ids") if flags & TIED else np.zeros((0, 16), np.uint8),
    )


@lru_cache(maxsize=4096)
def _layout(flags: int, n: int) -> np.dtype[Any]:
    fields: list[Any] = [("flags", "u1"), ("kind", "V8"), ("roster", "V16"), ("count", "<u4"), ("time", "<i8")]
    if flags & SHORT:
        fields += [("widths", "u1"), ("least", "<u8"), ("early", "<u8")]
    if flags & TIED:
        fields += [("times", "<u4", (n,)), ("ids", "u1", (n, 16))]
    if flags & SHORT:
        fields += [("volume", "u1", (flags >> 8 & 15, n)), ("measured", "u1", (flags >> 12, n))]
    else:
        fields += _fixed(flags, n)
    if flags & LATE:
        fields.append(("late", "u1", (n,)))
    return np.dtype(fields)


def _fixed(flags: int, n: int) -> list[Any]:
    fields: list[Any] = []
    for name, form in (("volume", _volume_form(flags)), *([("measured", "<i8")] if flags & MEASURED else [])):
        fields.append((name, "u1", (np.dtype(form).itemsize, n)) if flags & PLANES else (name, form, (n,)))
    return fields


def _volume_form(flags: int) -> str:
    return "<i4" if flags & (WHOLE | MILLI) else "<f8"


def _volumes(volume: npt.NDArray[np.float64]) -> tuple[int, npt.NDArray[np.uint64]]:
    """(flags, numbers): the form of few bytes that gives back every bit."""
    with np.errstate(over="ignore", invalid="ignore"):
        for flag, scale in ((WHOLE, 1.0), (MILLI, 1000.0)):
            whole = np.rint(volume * scale).astype("<i8")
            # What is too large does not come back. Bits, not values: -0.0 is not 0.
            if ((whole / scale).view(np.uint64) == volume.view(np.uint64)).all():
                return flag, whole.view(np.uint64)
    return 0, volume.astype("<f8").view(np.uint64)


def _planes(values: npt.NDArray[np.uint64]) -> tuple[int, int, bytes]:
    """(the least, bytes a value, the values less the least: the lowest byte of all of them first, which GZ makes something of)."""
    least = values[values.view(np.int64).argmin()]
    rest = values - least
    width = -(-int(rest.max()).bit_length() // 8)
    return int(least), width, rest.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes()
