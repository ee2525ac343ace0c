"""A record's fields as bytes: one after the other, each of the same few numbers.

A *form* says which: the kind's number and the volume always, the rest only where a field of the record has it. Little
endian, without padding::

    kind       2 bytes, or 4 (WIDE)
    volume     float64
    measured   MEASURED: measured_at less the timestamp, 4 bytes, the least one where unknown
               MEASURED | FAR: measured_at itself, 8 bytes
    late       LATE: 1 byte
    state      STATE: 4 bytes; without it, all are of the record's state
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
LATE: Final = 8
STATE: Final = 16
SIZES: Final = ((WIDE, 2), (MEASURED, 4), (FAR, 4), (LATE, 1), (STATE, 4))
"""Bytes that each bit of a form adds to a field's BASE."""
BASE: Final = 10
_NEVER_NEAR: Final = -(2**31)


@lru_cache(maxsize=64)
def layout(form: int) -> np.dtype[Any]:
    """A field of this form."""
    names: list[tuple[str, str]] = [("kind", "<u4" if form & WIDE else "<u2"), ("volume", "<f8")]
    if form & MEASURED:
        names.append(("measured", "<i8" if form & FAR else "<i4"))
    if form & LATE:
        names.append(("late", "u1"))
    if form & STATE:
        names.append(("state", "<u4"))
    return np.dtype(names)


def pack(rows: Fields, starts: I64, time: I64) -> tuple[I64, I64, list[bytes]]:
    """(form, state, fields) of each record; a record's rows are those from its start to the next. `time`: of each row."""
    lengths = np.diff(starts, append=len(rows.kind))
    state = rows.state[starts]
    known = rows.measured != NEVER
    near = np.where(known, rows.measured - np.where(known, time, 0), 0)
    needs = (rows.kind > 0xFFFF) * WIDE
    needs |= known * MEASURED
    # Not abs(): the least int64 has none.
    needs |= ((near > 2**31 - 1) | (near <= _NEVER_NEAR)) * (MEASURED | FAR)
    needs |= rows.late * LATE
    needs |= (rows.state != np.repeat(state, lengths)) * STATE
    forms = np.bitwise_or.reduceat(needs, starts)
    whole = int(forms[0])
    if (forms == whole).all():
        return forms, state, _cut(_table(rows, near, known, whole), lengths)
    out: list[bytes] = [b""] * len(starts)
    row_form = np.repeat(forms, lengths)
    for form in np.unique(forms).tolist():
        at = np.flatnonzero(row_form == form)
        records = np.flatnonzero(forms == form)
        table = _table(rows.take(at), near[at], known[at], form)
        for number, raw in zip(records.tolist(), _cut(table, lengths[records]), strict=True):
            out[number] = raw
    return forms, state, out


def unpack(
    forms: Sequence[int], fields: Sequence[bytes], state: Sequence[int], time: I64
) -> tuple[Fields, npt.NDArray[np.intp]]:
    """The fields of records, and the record's position of each; `time`: of each record. Records of one form come together."""
    form = np.array(forms, np.int64)
    parts: list[Fields] = []
    owners: list[npt.NDArray[np.intp]] = []
    for one in np.unique(form).tolist():
        records = np.flatnonzero(form == one)
        raw = fields if len(records) == len(fields) else [fields[i] for i in records.tolist()]
        shape = layout(one)
        table = np.frombuffer(b"".join(raw), shape)
        counts = np.fromiter(map(len, raw), np.int64, len(raw)) // shape.itemsize
        of = np.repeat(records, counts)
        n = len(table)
        measured = np.full(n, NEVER, np.int64)
        if one & FAR:
            measured = table["measured"].astype(np.int64)
        elif one & MEASURED:
            near = table["measured"]
            measured = np.where(near == _NEVER_NEAR, NEVER, near + time[of])
        states = table["state"] if one & STATE else np.asarray(state, np.int64)[of]
        parts.append(
            Fields(
                table["kind"].astype(np.int64),
                table["volume"].astype(np.float64),
                measured,
                table["late"].astype(bool) if one & LATE else np.zeros(n, bool),
                states.astype(np.int64),
            )
        )
        owners.append(of)
    if not parts:
        empty = np.zeros(0, np.int64)
        return Fields(empty, np.zeros(0), empty, np.zeros(0, bool), empty), np.zeros(0, np.intp)
    return joined(parts), np.concatenate(owners)


def _table(rows: Fields, near: I64, known: npt.NDArray[np.bool_], form: int) -> npt.NDArray[Any]:
    table = np.empty(len(rows.kind), layout(form))
    table["kind"] = rows.kind
    table["volume"] = rows.volume
    if form & FAR:
        table["measured"] = rows.measured
    elif form & MEASURED:
        table["measured"] = np.where(known, near, _NEVER_NEAR)
    if form & LATE:
        table["late"] = rows.late
    if form & STATE:
        table["state"] = rows.state
    return table


def _cut(table: npt.NDArray[Any], lengths: I64) -> list[bytes]:
    raw = table.tobytes()
    ends = (np.cumsum(lengths) * table.dtype.itemsize).tolist()
    return [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
