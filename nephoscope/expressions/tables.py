"""What a part of an expression makes of the distinct values of a column, kept between batches.

Two caches, both bounded, neither of which can change a result: by the identity of the sequence of values (a batch whose dictionary was seen
costs one gather), then by the text of a value. A list may have been changed since: it is compared with what it held, which costs little
where it holds the same objects. Any other sequence is taken as constant.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Judge = Callable[[str], tuple[float, bool, bool, bool]]
"""number, failed, odd (no number), true: of one value."""

MAX_TEXTS = 32 << 20
"""Characters that the cache by text holds before it starts anew."""
MAX_TABLES = 4096
MAX_HELD_TABLES = 256
MAX_HELD_VALUES = 65_536
"""Bounds for sequences that cannot be referred to weakly, so that a table keeps them alive."""


class Table:
    """The results for one sequence of values: arrays over it, filled as rows use them."""

    __slots__ = ("any_failed", "any_odd", "complete", "failed", "held", "known", "number", "odd", "owner", "true")

    def __init__(self, owner: Callable[[], Sequence[str] | None], held: list[str] | None) -> None:
        self.owner = owner
        self.held = held
        """What the owner held, where it is a list."""
        self.number = np.zeros(0)
        self.failed, self.odd, self.true, self.known = (np.zeros(0, bool) for _ in range(4))
        self.any_failed = self.any_odd = False
        self.complete = False

    def is_for(self, values: Sequence[str]) -> bool:
        """Whether it was made for these values, or for the first of them."""
        if self.owner() is not values:
            return False
        if self.held is None or self.held == values:
            return True
        if len(values) <= len(self.held) or self.held != values[: len(self.held)]:
            return False
        self.held += values[len(self.held) :]
        return True

    def grow(self, length: int) -> None:
        """Make room for values that were added."""
        more = length - len(self.number)
        self.number = np.concatenate([self.number, np.zeros(more)])
        for name in ("failed", "odd", "true", "known"):
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, bool)]))
        self.complete = False


class Tables:
    """The tables of one part of an expression."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._tables: dict[int, Table] = {}
        self._held: dict[int, int] = {}
        self._texts: dict[str, tuple[float, bool, bool, bool]] = {}
        self._size = 0

    def of(self, codes: npt.NDArray[np.int32], values: Sequence[str]) -> Table:
        """A table that knows at least the values that the codes name."""
        table = self._tables.get(id(values))
        if table is None or not table.is_for(values):
            table = self._new(values)
        if len(table.number) < len(values):
            table.grow(len(values))
        if not table.complete:
            self._fill(table, codes, values)
        return table

    def _new(self, values: Sequence[str]) -> Table:
        key = id(values)
        tables, held = self._tables, self._held

        def forget(_: Any) -> None:
            found = tables.get(key)
            if found is not None and found.owner() is None:
                del tables[key]

        try:
            owner: Callable[[], Sequence[str] | None] = weakref.ref(values, forget)
        except TypeError:
            held[key] = len(values)
            while len(held) > 1 and (len(held) > MAX_HELD_TABLES or sum(held.values()) > MAX_HELD_VALUES):
                oldest = next(iter(held))
                del held[oldest]
                tables.pop(oldest, None)
            owner = lambda: values  # noqa: E731
        if len(tables) >= MAX_TABLES:
            tables.clear()
            held.clear()
        table = tables[key] = Table(owner, list(values) if isinstance(values, list) else None)
        return table

    def _fill(self, table: Table, codes: npt.NDArray[np.int32], values: Sequence[str]) -> None:
        if table.known[codes].all():
            return
        wanted = np.zeros(len(values), bool)
        wanted[codes] = True
        todo = np.flatnonzero(wanted & ~table.known)
        texts = self._texts
        results = []
        for code in todo.tolist():
            text = values[code]
            result = texts.get(text)
            if result is None:
                result = self._judge(text)
                if self._size > MAX_TEXTS:
                    texts.clear()
                    self._size = 0
                if len(text) <= MAX_TEXTS // 16:
                    texts[text] = result
                    self._size += len(text)
            results.append(result)
        number, failed, odd, true = (np.array(column) for column in zip(*results, strict=True))
        table.number[todo], table.failed[todo], table.odd[todo], table.true[todo] = number, failed, odd, true
        table.any_failed |= bool(failed.any())
        table.any_odd |= bool(odd.any())
        table.known[todo] = True
        table.complete = bool(table.known.all())
