"""rate_of_change: how fast a meter grows, per second, over each series (docs/semantics.md).

The formula is Ceilometer's (ceilometer/transformer/conversions.py, Ocata), with event time and the moment of measuring.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.interning import Columns, numbers_of
from flows.one_to_one import one_step
from flows.rows import GAUGE, Bools, F64, I32, I64
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


def rate_of_change(
    columns: Columns,
    slot: I32 | slice,
    volume: F64,
    time: I64,
    measured: I64,
    cumulative: Bools,
    watermark: Any,
    ttl: int,
    _growth_only: Bools | bool,
    counts: dict[str, int],
) -> tuple[F64, Bools | None]:
    """Growth per second since each series' predecessor, and which rows have one (None: all). No slot occurs twice."""
    times, moments, volumes = columns["time"], columns["measured"], columns["volume"]
    before = times[slot]
    # An absent predecessor is the least int64, so the difference wraps to below 0: neither newer nor forgotten.
    gap = time - before
    known = gap > 0
    forgotten = watermark - before > ttl
    growth = volume - volumes[slot]
    reset = cumulative & (growth < 0)
    if reset.any():
        growth = np.where(reset, volume, growth)
    was = moments[slot]
    span = measured - was
    usable = (span > 0) & (span <= 2 * gap) & (was != NEVER) & (measured != NEVER)
    if usable.any():
        gap = np.where(usable, span, gap)
    if known.all() and not forgotten.any():
        times[slot], moments[slot], volumes[slot] = time, measured, volume
        return growth / (gap / 1e6), None
    first = (before == NEVER) | forgotten
    accepted = known | first
    publish = known & ~forgotten
    late = ~accepted & (time < before)
    rate = np.zeros(len(volume))
    np.divide(growth, gap / 1e6, out=rate, where=publish)
    for reason, mask in (("first", first), ("late", late), ("zero_interval", ~accepted & ~late)):
        count = int(np.count_nonzero(mask))
        if count:
            counts[reason] = counts.get(reason, 0) + count
    kept = numbers_of(slot)[accepted]
    times[kept], moments[kept], volumes[kept] = time[accepted], measured[accepted], volume[accepted]
    return rate, publish


TRANSFORMER = Transformer(compile=compile_step, run=one_step, shared=COLUMNS, function=rate_of_change)
