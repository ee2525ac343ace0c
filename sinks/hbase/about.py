"""What is true of the whole store: its layout, its buckets, its plan of lifetimes, and how far expiry has come."""

from __future__ import annotations

from typing import Final

from nephoscope.errors import StoreError, Unavailable
from nephoscope.lifetimes import Lifetimes, Plan
from sinks.hbase.layout import ABOUT, FACT, VERSION
from sinks.hbase.link import Link

_LAYOUT: Final = b"a:layout"
_BUCKETS: Final = b"a:buckets"
_PLAN: Final = b"a:plan"
_SWEPT: Final = b"a:swept"


class About:
    """The row that says it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def settle(self, buckets: int) -> int:
        """See that the store is ours, or make it so. Returns the buckets that it has."""
        self._link.swap(FACT, ABOUT, _LAYOUT, b"", VERSION)
        self._link.swap(FACT, ABOUT, _BUCKETS, b"", b"%d" % buckets)
        cells = self._cells()
        if cells.get(_LAYOUT) != VERSION:
            name = self._link.table(FACT).decode()
            there = cells.get(_LAYOUT, b"?").decode(errors="replace")
            raise StoreError(f"{name} has layout {there}; this Nephoscope knows {VERSION.decode()}")
        return int(cells[_BUCKETS])

    def plan(self) -> Plan:
        """The plan of lifetimes."""
        text = self._cells().get(_PLAN)
        return Plan() if text is None else Plan.from_json(text.decode())

    def revise(self, lifetimes: Lifetimes, now: int, *, empty: bool) -> Plan:
        """Keep the plan under these settings."""
        for _ in range(100):
            text = self._cells().get(_PLAN, b"")
            before = Plan.from_json(text.decode()) if text else Plan()
            after = before.revised(lifetimes, now, empty=empty)
            if after == before or self._link.swap(FACT, ABOUT, _PLAN, text, after.to_json().encode()):
                return after
        raise Unavailable("HBase: others change the lifetimes without end")

    def swept(self) -> int:
        """Samples stamped before this may be gone."""
        return int(self._cells().get(_SWEPT, b"0"))

    def sweep(self, before: int) -> None:
        """Samples stamped before this are about to go."""
        while True:
            text = self._cells().get(_SWEPT, b"")
            if int(text or b"0") >= before or self._link.swap(FACT, ABOUT, _SWEPT, text, b"%d" % before):
                return

    def _cells(self) -> dict[bytes, bytes]:
        for _, cells in self._link.rows(FACT, [ABOUT]):
            return {column: value for column, (value, _) in cells.items()}
        return {}
