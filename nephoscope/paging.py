"""Order and cursors of samples, for stores that sort what they find here.

An order is a list of (field, 'asc' or 'desc'); timestamp (newest first), resource, name and id settle what it leaves open,
so that every sample has a place of its own. A cursor is the place of a page's last sample.
"""

from __future__ import annotations

import base64
import binascii
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Final, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from nephoscope.errors import StoreError
from nephoscope.filters import METADATA, NUMBERS, Columns, metadata_value
from nephoscope.sample import Sample

_NOWHERE: Final = object()
"""Stands for no place: None is a value that metadata may have."""

Order = Sequence[tuple[str, str]]
Levels = Sequence[tuple[int, str, str, int]]

_REST: Final = (("timestamp", "desc"), ("resource_id", "asc"), ("name", "asc"), ("id", "asc"))


def full_order(order: Order) -> tuple[tuple[str, str], ...]:
    """The order with what settles it."""
    named = {name for name, _ in order}
    return (*order, *(o for o in _REST if o[0] not in named))


def place(sample: Sample, order: Order) -> list[Any]:
    """A sample's values in an order."""
    return [_value(sample, name) for name, _ in order]


def cursor_of(sample: Sample, order: Order) -> str:
    """The cursor of what comes after a sample."""
    whole = full_order(order)
    raw = msgspec.json.encode([[list(o) for o in whole], place(sample, whole)])
    return base64.urlsafe_b64encode(raw).decode()


def read_cursor(cursor: str, order: Order) -> list[Any]:
    """The place that a cursor of this order means. StoreError where it is none."""
    whole = full_order(order)
    try:
        given, values = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()))
        if [tuple(o) for o in given] != list(whole) or len(values) != len(whole):
            raise StoreError("the cursor belongs to another order")
        for (name, _), value in zip(whole, values, strict=True):
            if name == "id":
                bytes.fromhex(value)
            elif not name.startswith(METADATA) and isinstance(value, str) is (name in NUMBERS):
                raise ValueError(name)
    except (ValueError, TypeError, binascii.Error, msgspec.DecodeError) as error:
        raise StoreError(f"{cursor[:40]!r} is no cursor") from error
    return list(values)


def list_cursor(values: Sequence[str]) -> str:
    """The cursor of what comes after an entry of a list of resources or meters, whose key is `values`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(values)).decode()


def read_list_cursor(cursor: str, length: int) -> list[str]:
    """The key, of so many parts, that a list's cursor means. StoreError where it is none."""
    try:
        values = msgspec.json.decode(base64.urlsafe_b64decode(cursor.encode()), type=list[str])
    except (ValueError, msgspec.DecodeError) as error:
        raise StoreError(f"{cursor[:40]!r} is no cursor of this list") from error
    if len(values) != length:
        raise StoreError(f"{cursor[:40]!r} is no cursor of this list")
    return values


class Rows(Columns, Protocol):
    """Columns of which some rows can be taken."""

    def take(self, at: npt.NDArray[np.intp]) -> Rows:
        """These rows."""
        ...


def select(columns: Rows, order: Order, after: list[Any] | None, limit: int | None) -> npt.NDArray[np.intp]:
    """The rows that come after a place, in order, at most `limit` of them.

    Level by level: a later field is looked at only for the rows that the fields before it leave equal.
    """
    levels = _levels(order)
    rows = np.arange(columns.length)
    if after is not None:
        rows = _beyond(columns, levels, after)
    if limit is not None and len(rows) > limit:
        rows = _foremost(columns, levels, rows, limit)
    part = columns.take(rows)
    keys = [_turned(_key(part, name, lane), way) for _, name, way, lane in levels]
    return rows[np.lexsort(keys[::-1])]


def _levels(order: Order) -> list[tuple[int, str, str, int]]:
    """(position in the order, field, way, lane): an id is compared as two numbers, first one lane, then the other."""
    return [
        (i, name, way, lane)
        for i, (name, way) in enumerate(full_order(order))
        for lane in range(2 if name == "id" else 1)
    ]


def _beyond(columns: Rows, levels: Levels, after: list[Any]) -> npt.NDArray[np.intp]:
    accepted = []
    level = np.arange(columns.length)
    for i, name, way, lane in levels:
        key, at = _key_and(columns.take(level), name, lane, after[i])
        accepted.append(level[key < at if way == "desc" else key > at])
        level = level[key == at]
    return np.sort(np.concatenate(accepted))


def _foremost(columns: Rows, levels: Levels, rows: npt.NDArray[np.intp], limit: int) -> npt.NDArray[np.intp]:
    sure = []
    for _, name, way, lane in levels:
        if len(rows) <= limit:
            break
        key = _turned(_key(columns.take(rows), name, lane), way)
        last = np.partition(key, limit - 1)[limit - 1]
        sure.append(rows[key < last])
        limit -= len(sure[-1])
        rows = rows[key == last]
    return np.concatenate([*sure, rows[:limit]])


def in_order(samples: list[Sample], order: Order) -> list[Sample]:
    """The samples sorted."""
    out = list(samples)
    for name, way in reversed(full_order(order)):
        out.sort(key=lambda s: _rank(_value(s, name)), reverse=way == "desc")
    return out


def _value(sample: Sample, name: str) -> Any:
    if name.startswith(METADATA):
        return metadata_value(sample.metadata, name.removeprefix(METADATA))
    return sample.id.hex() if name == "id" else getattr(sample, name)


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    return (3, value) if isinstance(value, str) else (4, msgspec.json.encode(value, order="deterministic").decode())


def _turned(key: npt.NDArray[Any], way: str) -> npt.NDArray[Any]:
    # ~ turns the order of integers round without the overflow that - has at their ends.
    return key if way == "asc" else ~key if key.dtype.kind in "iu" else -key


def _key(columns: Columns, name: str, lane: int) -> npt.NDArray[Any]:
    """Numbers in the order of a field's values."""
    return _key_and(columns, name, lane, _NOWHERE)[0]


def _key_and(columns: Columns, name: str, lane: int, at: Any) -> tuple[npt.NDArray[Any], Any]:
    """Numbers in the order of a field's values, and the number of the value `at` among them."""
    if name in NUMBERS:
        numbers = columns.numbers(name)
        return (numbers.astype(np.int8) if numbers.dtype == bool else numbers), at
    if name == "id":
        lanes = np.ascontiguousarray(columns.ids()).view(">u8").reshape(-1, 2).astype(np.uint64)
        wanted = None if at is _NOWHERE else np.frombuffer(bytes.fromhex(at), ">u8").astype(np.uint64)[lane]
        return lanes[:, lane], wanted
    metadata = name.startswith(METADATA)
    codes, values = columns.words("resource_metadata" if metadata else name)
    path = name.removeprefix(METADATA)
    used, which = np.unique(codes, return_inverse=True)
    ranks = [_rank(metadata_value(values[c], path) if metadata else values[c]) for c in used.tolist()]
    known = sorted(set(ranks))
    # Even numbers for the values here; a cursor's value that is not among them lies between two.
    position = {rank: 2 * i for i, rank in enumerate(known)}
    numbers = np.array([position[r] for r in ranks], np.int64)[which.ravel()]
    if at is _NOWHERE:
        return numbers, None
    wanted = _rank(at)
    return numbers, position.get(wanted, 2 * bisect_left(known, wanted) - 1)
