"""Strings as small numbers, and series as rows of numpy columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Interner:
    """Numbers for strings, in the order of their first sight."""

    __slots__ = ("_arrow", "_free", "_packed", "numbers", "values")

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.values: list[str] = list(values)
        self.numbers: dict[str, int] = {v: i for i, v in enumerate(self.values)}
        self._free: list[int] = []
        self._arrow: pa.Array | None = None
        self._packed: bytes | None = None

    def __len__(self) -> int:
        """Strings that have a number now."""
        return len(self.numbers)

    def number(self, value: str) -> int:
        """The number of one string."""
        found = self.numbers.get(value)
        if found is None:
            if self._free:
                found = self._free.pop()
                self.values[found] = value
                self._arrow = None
            else:
                found = len(self.values)
                self.values.append(value)
            self.numbers[value] = found
            self._packed = None
        return found

    def pack(self) -> bytes:
        """What unpack takes; not made again while nothing changes."""
        if self._packed is None:
            self._packed = msgspec.msgpack.encode((self.values, self._free))
        return self._packed

    @classmethod
    def unpack(cls, packed: bytes) -> Interner:
        """The interner that pack was called on."""
        values, free = msgspec.msgpack.decode(packed, type=tuple[list[str], list[int]])
        out = cls()
        out.values, out._free = values, free
        unused = set(free)
        out.numbers = {v: i for i, v in enumerate(values) if i not in unused}
        out._packed = packed
        return out

    def sweep(self, used: npt.NDArray[np.bool_]) -> None:
        """Forget the strings whose number is not marked in `used` (one flag a number); their numbers are dealt again."""
        for number in np.flatnonzero(~used).tolist():
            if self.numbers.get(self.values[number]) == number:
                del self.numbers[self.values[number]]
                self.values[number] = ""
                self._free.append(number)
        self._arrow = self._packed = None

    def numbers_of(self, values: Sequence[str]) -> I32:
        """The number of each string."""
        get = self.numbers.get
        out = [get(v, -1) for v in values]
        if -1 in out:
            out = [self.number(v) for v in values]
        return np.array(out, np.int32)

    def arrow(self) -> pa.Array:
        """All strings as an Arrow array: number i is element i. The same object until a string is added."""
        if self._arrow is None or len(self._arrow) != len(self.values):
            self._arrow = pa.array(self.values, pa.utf8())
        return self._arrow


class SeriesIndex:
    """Slots for int64 keys: a sorted array of keys, so 12 bytes a series whatever the mix of meters and resources."""

    __slots__ = ("_free", "keys", "size", "slots")

    def __init__(self) -> None:
        self.keys: I64 = np.empty(0, np.int64)
        self.slots: I32 = np.empty(0, np.int32)
        self._free: list[int] = []
        self.size = 0
        """Slots ever handed out at once: what columns must have room for."""

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: I64) -> I32:
        """The slot of each key; a new key gets a new slot."""
        at = np.searchsorted(self.keys, keys)
        if len(self.keys):
            np.minimum(at, len(self.keys) - 1, out=at)
            known = self.keys[at] == keys
            if known.all():
                return self.slots[at]
            keys_of_new = keys[~known]
        else:
            keys_of_new = keys
        # In the order of first sight: what comes together then lies together, and is read and written as a slice.
        fresh, first = np.unique(keys_of_new, return_index=True)
        given = np.empty(len(fresh), np.int32)
        given[np.argsort(first)] = self.allocate(len(fresh))
        where = np.searchsorted(self.keys, fresh)
        self.slots = np.insert(self.slots, where, given)
        self.keys = np.insert(self.keys, where, fresh)
        return self.slots[np.searchsorted(self.keys, keys)]

    def allocate(self, count: int) -> I32:
        """Slots without a key in the index."""
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        new = count - len(reused)
        out = np.array([*reused, *range(self.size, self.size + new)], np.int32)
        self.size += new
        return out

    def give_back(self, slot: int) -> None:
        """Take back a slot that allocate gave."""
        self._free.append(slot)

    def release(self, dead: npt.NDArray[np.bool_]) -> None:
        """Forget every key whose slot is marked in `dead` (one flag a slot)."""
        gone = dead[self.slots]
        if gone.any():
            self._free.extend(self.slots[gone].tolist())
            self.keys = self.keys[~gone]
            self.slots = self.slots[~gone]

    def dump(self) -> tuple[I64, I32, int]:
        """What load takes; the arrays are never changed in place, so no copies are made."""
        return self.keys, self.slots, self.size

    def load(self, keys: I64, slots: I32, size: int) -> None:
        """Take over what dump gave."""
        self.keys, self.slots, self.size = keys, slots, size
        used = np.zeros(size, bool)
        used[slots] = True
        self._free = np.flatnonzero(~used).tolist()

    def adopt(self, keys: I64, slots: I32, size: int) -> None:
        """As load, of a dump in which every slot has a key."""
        self.keys, self.slots, self.size, self._free = keys, slots, size, []

    def reserve(self, slots: Iterable[int]) -> None:
        """Slots that allocate gave and that have no key: not free after a load."""
        taken = set(slots)
        self._free = [s for s in self._free if s not in taken]


class Columns:
    """Named numpy columns of one length, grown together; new rows hold the column's fill value."""

    __slots__ = ("_fill", "arrays", "capacity")

    def __init__(self, fill: dict[str, tuple[Any, Any]]) -> None:
        self._fill = fill
        self.capacity = 0
        self.arrays: dict[str, npt.NDArray[Any]] = {n: np.empty(0, dtype) for n, (dtype, _) in fill.items()}

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self.arrays[name]

    def ensure(self, size: int) -> None:
        """Make room for `size` rows."""
        if size > self.capacity:
            grown = max(size, int(self.capacity * 1.25), 16)
            for name, (dtype, value) in self._fill.items():
                new = np.full(grown, value, dtype) if value else np.zeros(grown, dtype)
                new[: self.capacity] = self.arrays[name]
                self.arrays[name] = new
            self.capacity = grown

    def clear(self, slots: Any) -> None:
        """Put rows back to the fill values."""
        for name, (_, value) in self._fill.items():
            self.arrays[name][slots] = value

    def dump(self, size: int) -> dict[str, npt.NDArray[Any]]:
        """Copies of the first `size` rows."""
        return {n: a[:size].copy() for n, a in self.arrays.items()}

    def load(self, arrays: dict[str, npt.NDArray[Any]], size: int) -> None:
        """Take over what dump gave."""
        self.capacity = 0
        self.arrays = {n: np.empty(0, dtype) for n, (dtype, _) in self._fill.items()}
        self.ensure(size)
        for name, array in arrays.items():
            self.arrays[name][:size] = array


def distinct(numbers: npt.NDArray[Any], size: int) -> tuple[I64, I64]:
    """(the distinct numbers, rising; where each number is among them), for numbers below `size`: np.unique without a sort where it can."""
    if size > 1 << 20:
        used, inverse = np.unique(numbers, return_inverse=True)
        return used, inverse.reshape(-1)
    present = np.zeros(size, bool)
    present[numbers] = True
    used = np.flatnonzero(present)
    place = np.empty(size, np.int64)
    place[used] = np.arange(len(used))
    return used, place[numbers]


def as_slice(slots: npt.NDArray[Any]) -> Any:
    """Numbers at a constant distance as a slice, through which columns are read and written without copies; else the numbers."""
    n = len(slots)
    if n < 2:
        return slice(int(slots[0]), int(slots[0]) + 1) if n else slots
    first, step = int(slots[0]), int(slots[1]) - int(slots[0])
    if step > 0 and int(slots[-1]) - first == (n - 1) * step and (np.diff(slots) == step).all():
        return slice(first, int(slots[-1]) + 1, step)
    return slots


def numbers_of(slots: I32 | slice) -> Any:
    """Slots as an array."""
    return np.arange(slots.start, slots.stop, slots.step) if isinstance(slots, slice) else slots


class Repeats:
    """Rows of which some share a slot: several periods of the same series in one call.

    order: row indices, slot by slot, each slot's rows in log order; head: where in that order a slot begins; tail: the place of each
    slot's last row; slots: each slot once; lengths: how many rows each has; rounds: row indices, the first row of each slot, then
    the second…
    """

    __slots__ = ("head", "lengths", "order", "rounds", "slots", "tail")

    def __init__(self, slots: I32) -> None:
        n = len(slots)
        self.order = np.argsort(slots, kind="stable")
        ordered = slots[self.order]
        self.head = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        starts = np.flatnonzero(self.head)
        self.lengths = np.diff(np.append(starts, n))
        self.tail = starts + self.lengths - 1
        self.slots = ordered[starts]
        occurrence = np.empty(n, np.int64)
        occurrence[self.order] = np.arange(n) - np.repeat(starts, self.lengths)
        by_round = np.argsort(occurrence, kind="stable")
        self.rounds: list[I64] = np.split(by_round, np.cumsum(np.bincount(occurrence))[:-1])

    def before(self, column: npt.NDArray[Any], now: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What precedes each row, in `order`: the column's value for a slot's first row, else the row before. `now`: values in `order`."""
        out = np.empty_like(now)
        out[1:] = now[:-1]
        out[self.head] = column[self.slots]
        return out


def repeats(slots: I32, size: int) -> Repeats | None:
    """None where no slot occurs twice. `size`: above all slots."""
    n = len(slots)
    if n < 2:
        return None
    scratch = np.empty(size, np.int32)
    numbers = np.arange(n, dtype=np.int32)
    scratch[slots] = numbers
    return None if (scratch[slots] == numbers).all() else Repeats(slots)
