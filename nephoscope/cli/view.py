"""The live view of `run`: what is stored, as it comes in. A table with spark lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from fnmatch import fnmatchcase

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nephoscope.cli.output import number, spark
from nephoscope.filters import Compare
from nephoscope.sample import CUMULATIVE, Sample
from nephoscope.store import SampleQuery, Store
from nephoscope.times import SECOND, format_time

INTEREST = (
    "*cpu*util*",
    "hardware.cpu.load.1min",
    "hardware.memory.used",
    "hardware.memory.swap.avail",
    "hardware.network.*.bytes.rate",
    "hardware.disk.*.bytes.rate",
    "*.rate",
    "hardware.disk.size.used",
    "*",
)
"""Which meters come first."""
PLAIN = 6
"""So many of these patterns are of interest where there is no table."""

_REACH = 60 * SECOND
"""Samples may reach the store out of order; later than this they are not shown."""
_KEPT = 64
_READ_AT_ONCE = 2000


def rank(name: str) -> int:
    """How interesting a meter is: the least is the most."""
    return next(i for i, pattern in enumerate(INTEREST) if fnmatchcase(name, pattern))


class View:
    """Reads what the store got, and remembers the latest values of each series that is worth a look."""

    def __init__(self, store: Store, since: int) -> None:
        self._store = store
        self._newest = since
        self._seen: dict[bytes, int] = {}
        self._series: dict[tuple[int, str, str], deque[float]] = {}
        self._latest: dict[tuple[int, str, str], Sample] = {}
        # Series that had another value than 0: an idle interface is worth no line.
        self._alive: set[tuple[int, str, str]] = set()
        self.total = 0
        # What an earlier run stored is no news, but it is where the spark lines begin.
        self.read()
        self.total = 0

    def read(self) -> list[Sample]:
        """The samples that came since the last time, most interesting first. Raises what the store raises."""
        wanted = Compare("timestamp", ">", format_time(max(0, self._newest - _REACH)))
        page = self._store.samples(SampleQuery(wanted, (("timestamp", "asc"),), _READ_AT_ONCE))
        fresh = [s for s in page.samples if s.id not in self._seen]
        for made in fresh:
            self._seen[made.id] = made.timestamp
            self._newest = max(self._newest, made.timestamp)
            if made.type != CUMULATIVE:
                key = rank(made.name), made.name, made.resource_id
                self._series.setdefault(key, deque(maxlen=_KEPT)).append(made.volume)
                self._latest[key] = made
                if made.volume:
                    self._alive.add(key)
        self.total += len(fresh)
        self._seen = {i: t for i, t in self._seen.items() if t >= self._newest - _REACH}
        return sorted(fresh, key=lambda s: (s.timestamp, rank(s.name), s.name, s.resource_id))

    def plain_lines(self, fresh: Iterable[Sample]) -> list[str]:
        """A line for each sample of interest: time, meter, volume, unit, resource."""
        return [
            f"{format_time(s.timestamp)}  {s.name:<36} {number(s.volume):>12} {s.unit:<8} {s.resource_id}"
            for s in fresh
            if s.type != CUMULATIVE and rank(s.name) < PLAIN and (rank(s.name), s.name, s.resource_id) in self._alive
        ]

    def table(self, headline: str, width: int, height: int) -> RenderableType:
        """What fits a terminal of this size."""
        bars = max(8, min(_KEPT, width - 84))
        table = Table(box=None, pad_edge=False, expand=False, header_style="bold")
        table.add_column("meter", no_wrap=True, overflow="ellipsis", max_width=36)
        table.add_column("resource", no_wrap=True, overflow="ellipsis", max_width=24)
        table.add_column("volume", justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        table.add_column("", no_wrap=True, style="green")
        keys = sorted(self._latest, key=lambda k: (k not in self._alive, k))
        room = max(1, height - 4)
        for key in keys[:room]:
            made = self._latest[key]
            table.add_row(
                Text(made.name),
                Text(made.resource_id),
                number(made.volume),
                Text(made.unit),
                spark(self._series[key], bars),
            )
        rest = f"… and {len(keys) - room} more; " if len(keys) > room else ""
        foot = Text(f"{rest}{self.total} samples stored since the start", style="dim")
        return Group(Text(headline, style="bold"), table, foot)
