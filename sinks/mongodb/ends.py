"""The ends of a resource's life: its newest sample, which says what it is, and the time of its oldest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pymongo.database import Database

from nephoscope.filters import EVERYTHING
from sinks.columns import Newest, newest_by_resource, newest_rows, oldest_rows
from sinks.mongodb.address import Document
from sinks.mongodb.catalogue import Catalogue
from sinks.mongodb.found import Found, joined
from sinks.mongodb.layout import DAY, HOUR
from sinks.mongodb.scan import Scan

I64 = npt.NDArray[np.int64]

_LONGEST: Final = 5 * DAY
_BEYOND: Final = 2**62


class Ends:
    """Of some resources: the days between which all their samples lie."""

    def __init__(self, db: Database[Document], catalogue: Catalogue, numbers: Sequence[int]) -> None:
        self._db, self._catalogue = db, catalogue
        self._days: dict[int, tuple[int, int]] = {}
        for state in catalogue.states_of(list(numbers)):
            low, high = self._days.get(state["r"], (_BEYOND, -1))
            self._days[state["r"]] = min(low, state["a"]), max(high, state["z"])

    def newest(self) -> dict[int, Newest]:
        """Of each that has samples. Of several samples at one time, the last by name and id says what the resource is."""
        parts = self._picked(newest_rows, newest_first=True)
        if not parts:
            return {}
        return newest_by_resource(joined(parts))

    def oldest(self) -> dict[int, int]:
        """The time of the oldest sample of each that has samples."""
        parts = self._picked(oldest_rows, newest_first=False)
        return {n: t for p in parts for n, t in zip(p.resource.tolist(), p.time.tolist(), strict=True)}

    def _picked(self, pick: Callable[[Found], Found], *, newest_first: bool) -> list[Found]:
        """A row for each resource that has samples: window of time by window of time, until all are found."""
        out: list[Found] = []
        left = dict(self._days)
        size = 2 * HOUR
        whole = Scan(self._db, EVERYTHING, self._catalogue).ends()
        at = whole[1] if newest_first else whole[0]
        while left and whole[0] <= at <= whole[1]:
            if newest_first:
                # No sample of any of them lies between here and the last day of the latest.
                at = min(at, (max(high for _, high in left.values()) + 1) * DAY - 1)
                low, high = max(whole[0], at - size + 1), at
                at = low - 1
            else:
                at = max(at, min(low for low, _ in left.values()) * DAY)
                low, high = at, min(whole[1], at + size - 1)
                at = high + 1
            some = [n for n, (a, z) in left.items() if a * DAY <= high and (z + 1) * DAY > low]
            if some:
                parts = list(Scan.of_resources(self._db, self._catalogue, some).found(low, high))
                if parts:
                    out.append(pick(joined(parts)))
                    for number in out[-1].resource.tolist():
                        del left[number]
            over = [n for n, (a, z) in left.items() if (a * DAY > at if newest_first else (z + 1) * DAY <= at)]
            for number in over:
                del left[number]
            size = min(2 * size, _LONGEST)
        return out
