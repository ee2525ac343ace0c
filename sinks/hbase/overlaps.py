"""Packs that have the same samples: only the first one's count.

That is seldom: two processes wrote the same at once, or one died before its pack came to count (see sinks.hbase.journal).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinks.hbase import journal, layout, pack
from sinks.hbase.facts import Catalogue
from sinks.hbase.layout import COMMIT, JOURNAL
from sinks.hbase.pack import Head


@dataclass(slots=True)
class Packed:
    """A pack that was read. `gone`: positions of rows that an earlier pack has."""

    bucket: int
    minute: int
    token: bytes
    head: Head
    cell: bytes
    gone: list[int] | None = None

    @property
    def tied(self) -> bool:
        """Whether its samples have ids of their own."""
        return bool(self.head.flags & pack.TIED)


class Overlaps:
    """Finds what several packs have, and says which counts."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        # By rosters: whether two of them have one resource. The same ones come each period.
        self._shared: dict[tuple[bytes, ...], bool] = {}

    def settle(self, packs: Sequence[Packed]) -> None:
        """Say what is `gone` of the packs of one row."""
        by_minute: dict[int, list[Packed]] = defaultdict(list)
        for one in packs:
            by_minute[one.minute].append(one)
        for minute, some in by_minute.items():
            if len(some) > 1 and self._overlap(some):
                row = layout.commit_row(some[0].bucket, minute)
                value = next((c[JOURNAL][0] for _, c in self._catalogue.link.rows(COMMIT, [row], [JOURNAL])), b"")
                place = journal.tokens(value)
                some.sort(key=lambda p: (place.get(p.head.kind + p.token, 2**62), p.token, p.head.kind))
                seen: set[object] = set()
                for one in some:
                    names = self._names(one)
                    one.gone = [i for i, name in enumerate(names) if name in seen]
                    seen.update(names)

    def _overlap(self, packs: Sequence[Packed]) -> bool:
        ids = [name for p in packs if p.tied for name in self._names(p)]
        rosters: dict[int, list[bytes]] = defaultdict(list)
        for one in packs:
            if not one.tied:
                rosters[one.head.time].append(one.head.roster)
        return len(set(ids)) < len(ids) or any(self._share(some) for some in rosters.values() if len(some) > 1)

    def _share(self, rosters: list[bytes]) -> bool:
        """Whether a resource is in two of the rosters."""
        key = tuple(sorted(rosters))
        known = self._shared.get(key)
        if known is None:
            found = self._catalogue.rosters(key)
            everybody = np.concatenate([found[one].resources for one in key])
            known = self._shared[key] = len(np.unique(everybody)) < len(everybody)
        return known

    def _names(self, one: Packed) -> list[object]:
        """What tells the samples of a pack from others in its row."""
        head = one.head
        if one.tied:
            return [raw.tobytes() for raw in pack.unpack([one.cell], head.flags, head.count).ids]
        resources = self._catalogue.rosters([head.roster])[head.roster].resources
        return [(head.time, r) for r in resources.tolist()]
