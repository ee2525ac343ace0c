"""All that one partition remembers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flows import dedupe
from flows.one_to_one import MAX_NAMES, SeriesState
from flows.plan import Plan
from flows.rows import Strings, Watermarks
from flows.tickets import Ticket
from nephoscope.times import MIN_TIME

if TYPE_CHECKING:
    from flows.stage import Output


class State:
    """One partition's state: plain data and numpy columns; no locks, no clocks, no engine."""

    __slots__ = (
        "caches",
        "forgotten",
        "ids",
        "layouts",
        "owed",
        "periods",
        "plan_steps",
        "series",
        "steps",
        "strings",
        "swept",
        "totals",
        "waiting",
        "watermark",
    )

    def __init__(self, plan: Plan) -> None:
        self.watermark = MIN_TIME
        self.strings = Strings()
        self.ids = dedupe.SeenIds(plan.options.micros("dedupe_horizon"))
        self.periods = dedupe.Periods()
        self.series: dict[str, SeriesState] = {"dedupe": self.periods}
        self.steps: dict[int, Any] = {}
        for step in plan.steps:
            if step.transformer.shared is not None:
                self.steps[step.number] = self.series.setdefault(step.kind, SeriesState(step.transformer.shared))
            elif step.transformer.state is not None:
                self.steps[step.number] = step.transformer.state()
        self.plan_steps = plan.steps
        self.totals: dict[str, int] = {}
        """Counts since the first message, by name: part of the state, so a restart does not forget them."""
        self.forgotten = MIN_TIME
        self.swept = 1024
        self.layouts: dict[bytes, Any] = {}
        self.caches: dict[Any, Any] = {}
        self.waiting: list[Ticket] = []
        """What publishers with a queue have not acknowledged yet."""
        self.owed: Output | None = None
        """What a change of the pipeline has closed: to go out before anything else."""

    def full(self) -> bool:
        """Whether no further meter can be numbered."""
        return len(self.strings.names) >= MAX_NAMES - 1

    def size(self) -> int:
        """Series that are remembered, those of a step counting by themselves. Cheap, and safe to ask from another thread."""
        return sum(len(series.index) for series in list(self.series.values()))

    def forget(self, plan: Plan) -> int:
        """Drop what has had no sample for `series_ttl`, now and then; changes no result. How many series went."""
        ttl = plan.options.micros("series_ttl")
        self.ids.expire(self.watermark)
        self.sweep()
        if self.watermark - self.forgotten < max(ttl // 8, 1):
            return 0
        self.forgotten = self.watermark
        # A step late in a chain lives at an older watermark.
        before = np.full(len(plan.steps) + 1, self.watermark - ttl)
        for sink in plan.sinks:
            marks = Watermarks.constant(self.watermark)
            for step in sink.steps:
                before[step.number] = marks.last - ttl
                step.transformer.forget(step, self.steps.get(step.number), marks.last, ttl)
                marks = step.transformer.handed_on(step, marks)
        gone = sum(series.forget(before) for series in self.series.values())
        self.layouts.clear()
        return gone

    def sweep(self) -> None:
        """Give the numbers of strings that nothing refers to back, once there are twice as many as after the last sweep."""
        strings = self.strings
        pools = {n: getattr(strings, n) for n in ("names", "units", "sources", "resources", "texts")}
        size = sum(len(p) for p in pools.values())
        if size < 2 * self.swept:
            return
        marks = {name: np.zeros(len(pool.values), bool) for name, pool in pools.items()}
        for pool, numbers in self._used():
            marks[pool][numbers] = True
        marks["texts"][0] = True
        # Names, units and sources are few, and derived ones have no other owner than the tables that made them.
        for name in ("resources", "texts"):
            pools[name].sweep(marks[name])
        strings.forget_seen()
        self.layouts.clear()
        self.swept = max(1024, sum(len(p) for p in pools.values()))

    def _used(self) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        for series in self.series.values():
            yield "resources", series.resources()
        for step in self.plan_steps:
            yield from step.transformer.used(self.steps.get(step.number))
