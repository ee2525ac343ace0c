"""rate_of_change: how fast a meter grows, per second, over each series (docs/semantics.md).

The formula is Ceilometer's (ceilometer/transformer/conversions.py, Ocata), with event time and the moment of measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.one_to_one import About, Judged, Values, one_step
from flows.rows import GAUGE
from flows.target import Target, compile_target
from flows.transformer import Transformer
from nephoscope.times import NEVER

COLUMNS = {"time": (np.int64, NEVER), "measured": (np.int64, NEVER), "volume": (np.float64, 0.0)}


@dataclass(frozen=True, slots=True)
class RateOfChange:
    """A compiled rate_of_change. `kind` is the type of what it publishes."""

    target: Target
    kind: int


def compile_step(parameters: Mapping[str, Any], _options: Any, _sink: Any) -> RateOfChange:
    """Compile checked parameters."""
    target = compile_target(parameters)
    return RateOfChange(target, GAUGE if target.kind < 0 else target.kind)


def rate_of_change(before: Values, now: Values, about: About, counts: dict[str, int]) -> Judged:
    """Growth per second since each row's predecessor."""
    time, volume = now["time"], now["volume"]
    # An absent predecessor is the least int64, so the difference wraps to below 0: neither newer nor forgotten.
    gap = time - before["time"]
    known = gap > 0
    forgotten = about.watermark - before["time"] > about.ttl
    growth = volume - before["volume"]
    reset = about.cumulative & (growth < 0)
    if reset.any():
        growth = np.where(reset, volume, growth)
    span = now["measured"] - before["measured"]
    usable = (span > 0) & (span <= 2 * gap) & (before["measured"] != NEVER) & (now["measured"] != NEVER)
    if usable.any():
        gap = np.where(usable, span, gap)
    if known.all() and not forgotten.any():
        return Judged(growth / (gap / 1e6))
    first = (before["time"] == NEVER) | forgotten
    accepted = known | first
    publish = known & ~forgotten
    late = ~accepted & (time < before["time"])
    for reason, mask in (("first", first), ("late", late), ("zero_interval", ~accepted & ~late)):
        count = int(np.count_nonzero(mask))
        if count:
            counts[reason] = counts.get(reason, 0) + count
    rate = np.zeros(len(volume))
    np.divide(growth, gap / 1e6, out=rate, where=publish)
    return Judged(rate, publish, accepted)


TRANSFORMER = Transformer(compile=compile_step, run=one_step, shared=COLUMNS, function=rate_of_change)
