"""A pack: the samples of one kind at one moment (or, with ids of their own, in one minute) as the bytes of one cell.

Little endian: a head, then a column after the other::

    head      flags, kind (8), roster (16), how many (u4), time in microseconds (i8)
    TIED      times less the head's (u4), ids (16)
    volumes   int32 where all of them are integers (WHOLE), or are when multiplied by a thousand (MILLI); else float64
    MEASURED  measured_at (i8)
    LATE      late (u1)

PLANES: volumes and measured_at stand byte by byte, the first one of all values first. Packs without it are read, and not written any more.

The roster says of each row whose sample it is, and what that said of its user, project and metadata.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
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

HEAD: Final = struct.Struct("<B8s16sIq")


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
    """What a pack says before its columns."""

    flags: int
    kind: bytes
    roster: bytes
    count: int
    time: int


def pack(kind: bytes, roster: bytes, values: Values, *, tied: bool) -> bytes:
    """The cell of these rows. Without ids of their own, all are of one time."""
    flags, volumes = _volumes(values.volume)
    flags |= PLANES
    base = int(values.time.min()) if tied else int(values.time[0])
    parts = [b"", volumes]
    if tied:
        flags |= TIED
        parts[0] = (values.time - base).astype("<u4").tobytes() + values.ids.tobytes()
    if (values.measured != NEVER).any():
        flags |= MEASURED
        parts.append(_planes(values.measured.astype("<i8")))
    if values.late.any():
        flags |= LATE
        parts.append(values.late.astype("u1").tobytes())
    return HEAD.pack(flags, kind, roster, len(values.time), base) + b"".join(parts)


def head(cell: bytes) -> Head:
    """The head of a pack. StoreError where the cell is none."""
    if len(cell) < HEAD.size:
        raise StoreError(f"a cell of {len(cell)} bytes is no pack")
    return Head(*HEAD.unpack_from(cell))


def unpack(cells: Sequence[bytes], flags: int, count: int, at: I64 | None = None) -> Values:
    """The rows of packs with the same flags and number of rows, one pack after the other; `at`: only these rows of each.

    `ids` is empty where the ids follow from the rest.
    """
    shape = _layout(flags, count)
    if any(len(c) != shape.itemsize for c in cells):
        raise StoreError("a pack has not the size that its head says")
    table = np.frombuffer(b"".join(cells), shape)
    n = len(cells) * (count if at is None else len(at))

    def column(name: str) -> Any:
        whole = table[name] if at is None else table[name][:, at]
        return whole.reshape(n, *whole.shape[2:])

    def number(name: str, form: str) -> Any:
        if not flags & PLANES:
            return column(name)
        whole = table[name] if at is None else table[name][:, :, at]
        return np.ascontiguousarray(whole.transpose(0, 2, 1)).view(form).reshape(n)

    time = np.repeat(table["time"].astype(np.int64), count if at is None else len(at))
    volume = number("volume", _volume_form(flags)).astype(np.float64)
    return Values(
        time + column("times").astype(np.int64) if flags & TIED else time,
        volume / 1000.0 if flags & MILLI else volume,
        number("measured", "<i8").astype(np.int64) if flags & MEASURED else np.full(n, NEVER, np.int64),
        column("late").astype(bool) if flags & LATE else np.zeros(n, bool),
        column("ids") if flags & TIED else np.zeros((0, 16), np.uint8),
    )


def _layout(flags: int, n: int) -> np.dtype[Any]:
    fields: list[Any] = [("flags", "u1"), ("kind", "V8"), ("roster", "V16"), ("count", "<u4"), ("time", "<i8")]
    if flags & TIED:
        fields += [("times", "<u4", (n,)), ("ids", "u1", (n, 16))]
    for name, form in (("volume", _volume_form(flags)), *([("measured", "<i8")] if flags & MEASURED else [])):
        fields.append((name, "u1", (np.dtype(form).itemsize, n)) if flags & PLANES else (name, form, (n,)))
    if flags & LATE:
        fields.append(("late", "u1", (n,)))
    return np.dtype(fields)


def _volume_form(flags: int) -> str:
    return "<i4" if flags & (WHOLE | MILLI) else "<f8"


def _volumes(volume: npt.NDArray[np.float64]) -> tuple[int, bytes]:
    """(flags, bytes): the shortest form that gives back every bit."""
    for flag, scale in ((WHOLE, 1.0), (MILLI, 1000.0)):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = np.rint(volume * scale)
            if not (np.abs(scaled) < 2**31).all():
                continue
        whole = scaled.astype("<i4")
        again = whole.astype(np.float64) / scale
        # Bits, not values: -0.0 is not 0.
        if (again.view(np.uint64) == volume.view(np.uint64)).all():
            return flag, _planes(whole)
    return 0, _planes(volume.astype("<f8"))


def _planes(values: npt.NDArray[Any]) -> bytes:
    """The first byte of all values, then the second one …: neighbours are alike, which GZ makes something of."""
    return np.ascontiguousarray(values.view(np.uint8).reshape(len(values), -1).T).tobytes()
