"""A set of many integers that is asked about many of them at a time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


class Known:
    """A set of int64 that is asked about many at a time: a sorted array, and a small set of what came since."""

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.int64)
        self._recent: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def fresh(self, numbers: I64) -> list[int]:
        """Those that are not in the set, in order; they are from now on."""
        if len(self._sorted):
            at = np.searchsorted(self._sorted, numbers)
            numbers = numbers[self._sorted[np.minimum(at, len(self._sorted) - 1)] != numbers]
        if not len(numbers):
            return []
        out = sorted(set(numbers.tolist()) - self._recent)
        self._recent.update(out)
        if len(self._recent) > 1024 + len(self._sorted) // 8:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._recent, np.int64, len(self._recent)))
            self._recent.clear()
        return out
