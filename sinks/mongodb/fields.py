"""The samples of one resource at one time as bytes: column after column, little endian, without padding.

::

    form       1 byte: which of the following there are, and how wide
    state      4 bytes: what the samples said of the resource
    kinds      2 bytes each, or 4 (WIDE)
    volumes    float64 each
    measured   MEASURED: measured_at less the timestamp, 4 bytes each, the least one where unknown; FAR: measured_at itself, 8 bytes
               each; SAME: one for all
    late       LATE: 1 byte each
    states     STATES: 4 bytes each, where the samples said different things

How many samples there are follows from the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from nephoscope.times import NEVER
from sinks.columns import Fields, joined

I64 = npt.NDArray[np.int64]

WIDE: Final = 1
MEASURED: Final = 2
FAR: Final = 4
SAME: Final = 8
LATE: Final = 16
STATES: Final = 32
_HEAD: Final = 5
_NEVER_NEAR: Final = -(2**31)


@lru_cache(maxsize=1024)
def _layout(form: int, n: int) -> np.dtype[Any]:
    shape: list[tuple[str, str] | tuple[str, str, tuple[int]]] = [("form", "u1"), ("state", "<u4")]
    shape += [("kind", "<u4" if form & WIDE else "<u2", (n,)), ("volume", "<f8", (n,))]
    if form & MEASURED:
        shape.append(("measured", "<i8" if form & FAR else "<i4", (1 if form & SAME else n,)))
    if form & LATE:
        shape.append(("late", "u1", (n,)))
    if form & STATES:
        shape.append(("states", "<u4", (n,)))
    return np.dtype(shape)


@lru_cache(maxsize=4096)
def rows_in(form: int, length: int) -> int:
    """How many samples there are in so many bytes of a form."""
    wide = 8 if form & FAR else 4
    once, each = _HEAD, (4 if form & WIDE else 2) + 8 + bool(form & LATE) + (4 if form & STATES else 0)
    if form & MEASURED:
        once, each = (once + wide, each) if form & SAME else (once, each + wide)
    return (length - once) // each


def count(values: Sequence[bytes]) -> int:
    """How many samples there are in some values."""
    return sum(rows_in(v[0], len(v)) for v in values)


def pack(rows: Fields, starts: I64, time: I64) -> list[bytes]:
    """The value of each record; a record's rows are those from its start to the next. `time`: of each row."""
    n = len(rows.kind)
    lengths = np.diff(starts, append=n)
    state = rows.state[starts]
    known = rows.measured != NEVER
    near = np.where(known, rows.measured - np.where(known, time, 0), _NEVER_NEAR)
    far = known & ((near > 2**31 - 1) | (near <= _NEVER_NEAR))
    needs = (rows.kind > 0xFFFF) * WIDE | known * MEASURED | far * (MEASURED | FAR) | rows.late * LATE
    needs |= (rows.state != np.repeat(state, lengths)) * STATES
    forms = np.bitwise_or.reduceat(needs, starts)
    alike = np.minimum.reduceat(rows.measured, starts) == np.maximum.reduceat(rows.measured, starts)
    alike_near = np.minimum.reduceat(near, starts) == np.maximum.reduceat(near, starts)
    forms |= ((forms & MEASURED) != 0) * np.where(forms & FAR, alike, alike_near) * SAME
    out: list[bytes] = [b""] * len(starts)
    for form, length, records in _alike(forms, lengths):
        at = starts[records][:, None] + np.arange(length)
        table = np.empty(len(records), _layout(form, length))
        table["form"], table["state"] = form, state[records]
        table["kind"], table["volume"] = rows.kind[at], rows.volume[at]
        if form & MEASURED:
            measured = (rows.measured if form & FAR else near)[at]
            table["measured"] = measured[:, :1] if form & SAME else measured
        if form & LATE:
            table["late"] = rows.late[at]
        if form & STATES:
            table["states"] = rows.state[at]
        raw, size = table.tobytes(), table.dtype.itemsize
        for i, record in enumerate(records.tolist()):
            out[record] = raw[i * size : i * size + size]
    return out


def unpack(values: Sequence[bytes], time: I64) -> tuple[Fields, npt.NDArray[np.intp]]:
    """The samples of records, and the record's position of each; `time`: of each record. Records of one form come together."""
    lengths = np.fromiter(map(len, values), np.int64, len(values))
    firsts = np.cumsum(lengths) - lengths
    forms = np.frombuffer(b"".join(values), np.uint8)[firsts].astype(np.int64)
    parts: list[Fields] = []
    owners: list[npt.NDArray[np.intp]] = []
    for form, length, records in _alike(forms, lengths):
        n = rows_in(form, length)
        raw = values if len(records) == len(values) else [values[i] for i in records.tolist()]
        table = np.frombuffer(b"".join(raw), _layout(form, n))
        of = np.repeat(records, n)
        measured = np.full((len(records), n), NEVER, np.int64)
        if form & FAR:
            measured[:] = table["measured"]
        elif form & MEASURED:
            near = table["measured"].astype(np.int64)
            measured[:] = np.where(near == _NEVER_NEAR, NEVER, near + time[records][:, None])
        states = table["states"] if form & STATES else np.broadcast_to(table["state"][:, None], (len(records), n))
        late = table["late"].astype(bool).ravel() if form & LATE else np.zeros(len(of), bool)
        parts.append(
            Fields(
                table["kind"].astype(np.int64).ravel(),
                table["volume"].astype(np.float64).ravel(),
                measured.ravel(),
                late,
                states.astype(np.int64).ravel(),
            )
        )
        owners.append(of)
    if not parts:
        empty = np.zeros(0, np.int64)
        return Fields(empty, np.zeros(0), empty, np.zeros(0, bool), empty), np.zeros(0, np.intp)
    return joined(parts), np.concatenate(owners)


def _alike(forms: I64, lengths: I64) -> list[tuple[int, int, npt.NDArray[np.intp]]]:
    """(form, length, positions) of the records that share both."""
    if not len(forms):
        return []
    both = forms << 40 | lengths
    if (both == both[0]).all():
        return [(int(forms[0]), int(lengths[0]), np.arange(len(forms)))]
    order = np.argsort(both, kind="stable")
    starts = np.flatnonzero(np.diff(both[order], prepend=-1))
    return [(int(forms[p[0]]), int(lengths[p[0]]), p) for p in np.split(order, starts[1:])]
