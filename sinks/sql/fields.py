"""A record's fields as bytes: one after the other, each of the same few numbers.

A *form* says which: the kind's number and the volume always, the rest only where a field of the record has it. Little
endian, without padding::

    kind       2 bytes, or 4 (WIDE), or 1 (NARROW); none where the form names the first one (FIRST times its number) and each next
               field's is one more, as meters are that were first seen together
    volume     float64; where all of the record's are whole numbers that fit, integers of 7, 6, 4 or 2 bytes (LESS, LESS << 1, …)
    measured   MEASURED: measured_at less the timestamp, 4 bytes, or 3 (SHORT), the least one where unknown
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
NARROW: Final = 32
SHORT: Final = 64
LESS: Final = 128
"""Three bits, a number: how many bytes less than eight a volume has; with none less it is a float64."""
FIRST: Final = 1024
LAST_FIRST: Final = 31
"""The last kind that a form can name: more bits a smallint does not have."""
FORM_BITS: Final = 15
SIZES: Final = (
    (FIRST * LAST_FIRST, -1),
    *((WIDE, 2), (MEASURED, 4), (FAR, 4), (LATE, 1), (STATE, 4), (NARROW, -1), (SHORT, -1)),
    *((LESS, -1), (LESS << 1, -2), (LESS << 2, -4)),
)
"""Bytes that bits of a form, where any of them is set, add to a field's BASE. Who names the first kind is NARROW besides."""
BASE: Final = 10
_NEVER_NEAR: Final = -(2**31)
_NEVER_SHORT: Final = -(2**23)
_WIDTHS: Final = (2, 4, 6, 7)
"""Of whole volumes. Few, so that the records of a batch have few forms."""
_BOUNDS: Final = np.array([2.0 ** (8 * w - 1) for w in _WIDTHS])
_LESS: Final = np.array([*((8 - w) * LESS for w in _WIDTHS), 0], np.int64)


@lru_cache(maxsize=1024)
def layout(form: int) -> np.dtype[Any]:
    """A field of this form. Integers of other lengths than numpy has are so many bytes."""
    less = form // LESS & 7
    names: list[Any] = [("volume", "u1", (8 - less,)) if less else ("volume", "<f8")]
    if form < FIRST:
        names.insert(0, ("kind", "<u4" if form & WIDE else "u1" if form & NARROW else "<u2"))
    if form & MEASURED:
        names.append(("measured", "u1", (3,)) if form & SHORT else ("measured", "<i8" if form & FAR else "<i4"))
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
    # What a record can do without takes that none of its fields needs it.
    needs |= (rows.kind > 0xFF) * NARROW
    needs |= ((near > 2**23 - 1) | (near <= _NEVER_SHORT)) * SHORT
    forms = np.bitwise_or.reduceat(needs, starts) ^ (NARROW | SHORT)
    forms &= ~np.where(forms & MEASURED, 0, SHORT)
    forms |= _LESS[np.maximum.reduceat(_widths(rows.volume), starts)]
    forms |= FIRST * _firsts(rows.kind, starts, lengths)
    whole = int(forms[0])
    if (forms == whole).all():
        return forms, state, _cut(_table(rows, near, known, whole, slice(None)), lengths)
    out: list[bytes] = [b""] * len(starts)
    row_form = np.repeat(forms, lengths)
    for form in np.unique(forms).tolist():
        at = np.flatnonzero(row_form == form)
        records = np.flatnonzero(forms == form)
        table = _table(rows, near, known, form, at)
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
        lengths = np.fromiter(map(len, raw), np.int64, len(raw))
        part, of = unpack_form(one, b"".join(raw), lengths, np.asarray(state, np.int64)[records], time[records])
        parts.append(part)
        owners.append(records[of])
    if not parts:
        empty = np.zeros(0, np.int64)
        return Fields(empty, np.zeros(0), empty, np.zeros(0, bool), empty), np.zeros(0, np.intp)
    return joined(parts), np.concatenate(owners)


def unpack_form(
    form: int,
    raw: bytes,
    lengths: int | I64,
    state: I64,
    time: I64,
    kinds: I64 | None = None,
    *,
    delays: bool = True,
) -> tuple[Fields, npt.NDArray[np.intp]]:
    """The fields of records of one form, which lie one after the other, each (or all of them) so long; and each field's record.

    `kinds`: these alone; `delays`: whether it matters when they were measured.
    """
    table = np.frombuffer(raw, layout(form))
    counts = np.floor_divide(lengths, table.itemsize)
    of = np.repeat(np.arange(len(time)), counts)
    if form < FIRST:
        kind = table["kind"].astype(np.int64)
    else:
        ends = np.cumsum(np.broadcast_to(counts, len(time)))
        kind = np.arange(len(table)) - (ends - counts)[of] + form // FIRST
    if kinds is not None:
        wanted = among(kind, kinds)
        if not wanted.all():
            table, of, kind = table[wanted], of[wanted], kind[wanted]
    n = len(table)
    if form & FAR:
        measured = table["measured"].astype(np.int64)
    elif form & MEASURED and delays:
        near = _integers(table["measured"]) if form & SHORT else table["measured"]
        measured = np.where(near == (_NEVER_SHORT if form & SHORT else _NEVER_NEAR), NEVER, near + time[of])
    else:
        measured = np.full(n, NEVER, np.int64)
    columns = Fields(
        kind,
        (_integers(table["volume"]) if form // LESS & 7 else table["volume"]).astype(np.float64),
        measured,
        table["late"].astype(bool) if form & LATE else np.zeros(n, bool),
        table["state"].astype(np.int64) if form & STATE else state[of],
    )
    return columns, of


def among(numbers: npt.NDArray[Any], some: I64) -> npt.NDArray[np.bool_]:
    """np.isin, which looks at the whole before it begins."""
    return numbers == some[0] if len(some) == 1 else np.isin(numbers, some)


def _table(rows: Fields, near: I64, known: npt.NDArray[np.bool_], form: int, at: Any) -> npt.NDArray[Any]:
    """The fields of the rows `at`, of one form."""
    volume = rows.volume[at]
    table = np.empty(len(volume), layout(form))
    if form < FIRST:
        table["kind"] = rows.kind[at]
    less = form // LESS & 7
    table["volume"] = _bytes(volume.astype(np.int64), 8 - less) if less else volume
    if form & FAR:
        table["measured"] = rows.measured[at]
    elif form & SHORT:
        table["measured"] = _bytes(np.where(known[at], near[at], _NEVER_SHORT), 3)
    elif form & MEASURED:
        table["measured"] = np.where(known[at], near[at], _NEVER_NEAR)
    if form & LATE:
        table["late"] = rows.late[at]
    if form & STATE:
        table["state"] = rows.state[at]
    return table


def _firsts(kind: I64, starts: I64, lengths: I64) -> I64:
    """The first kind of each record whose kinds follow one another; 0 where they do not, or where it is too large."""
    first = kind[starts]
    steps = kind - np.repeat(first, lengths) == np.arange(len(kind)) - np.repeat(starts, lengths)
    named = np.logical_and.reduceat(steps, starts) & (first <= LAST_FIRST) & (first + lengths <= 0x100)
    return np.where(named, first, 0)


def _widths(volume: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """For each volume, the position in _WIDTHS of the first width that holds it; one beyond the last where none does."""
    # Zero of the other sign and what is no number have their bits in a float64 alone.
    fits = volume == np.rint(volume)
    zero = volume == 0
    if zero.any():
        fits &= ~(zero & np.signbit(volume))
    width = np.searchsorted(_BOUNDS, np.abs(volume), side="right")
    return np.where(fits, width, len(_WIDTHS))


def _bytes(numbers: I64, width: int) -> npt.NDArray[np.uint8]:
    """(n, width): integers as so many bytes each."""
    return numbers.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]


def _integers(raw: npt.NDArray[np.uint8]) -> I64:
    """What `_bytes` made bytes of."""
    width = raw.shape[1]
    whole = np.zeros((len(raw), 8), np.uint8)
    whole[:, 8 - width :] = raw
    # Shifted down with its sign.
    out: I64 = whole.view("<i8").ravel().astype(np.int64) >> 8 * (8 - width)
    return out


def _cut(table: npt.NDArray[Any], lengths: I64) -> list[bytes]:
    raw = table.tobytes()
    ends = (np.cumsum(lengths) * table.dtype.itemsize).tolist()
    return [raw[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
