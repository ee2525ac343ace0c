"""delta: the difference to the series' previous sample, as late Ceilometer (docs/semantics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.interning import Columns, numbers_of
from flows.one_to_one import one_step
from flows.rows import DELTA, Bools, F64, I32, I64
from flows.target import Target, compile_target
from flows.transformer import Transformer
from nephoscope.times import NEVER

COLUMNS = {"time": (np.int64, NEVER), "volume": (np.float64, 0.0)}


@dataclass(frozen=True, slots=True)
class Delta:
    """A compiled delta."""

    target: Target
    growth_only: bool
    kind: int = DELTA


def compile_step(parameters: Mapping[str, Any], _options: Any, _sink: Any) -> Delta:
    """Compile checked parameters: of `target` only the name counts."""
    target = parameters.get("target") or {}
    kept = {k: v for k, v in target.items() if k in ("name", "map_to")}
    if "map_to" in kept:
        kept["map_to"] = {"name": kept["map_to"].get("name")}
    return Delta(compile_target({**parameters, "target": kept}), bool(parameters.get("growth_only")))


def delta(
    columns: Columns,
    slot: I32 | slice,
    volume: F64,
    time: I64,
    _measured: I64,
    _cumulative: Bools,
    watermark: Any,
    ttl: int,
    growth_only: Bools | bool,
    counts: dict[str, int],
) -> tuple[F64, Bools | None]:
    """Difference to each series' predecessor, and which rows are published (None: all). No slot occurs twice."""
    times, volumes = columns["time"], columns["volume"]
    before = times[slot]
    absent = before == NEVER
    forgotten = ~absent & (watermark - before > ttl)
    difference = volume - volumes[slot]
    publish = ~absent & (time >= before) & ~forgotten
    negative: Any = False
    if growth_only is not False:
        negative = publish & (difference < 0) & growth_only
    if publish.all():
        times[slot], volumes[slot] = time, volume
        if negative is False or not negative.any():
            return difference, None
    else:
        first = absent | forgotten
        accepted = publish | first
        kept = numbers_of(slot)[accepted]
        times[kept], volumes[kept] = time[accepted], volume[accepted]
        for reason, mask in (("first", first), ("late", ~accepted)):
            count = int(np.count_nonzero(mask))
            if count:
                counts[reason] = counts.get(reason, 0) + count
    if negative is not False:
        count = int(np.count_nonzero(negative))
        if count:
            counts["negative"] = counts.get("negative", 0) + count
        publish = publish & ~negative
    return difference, publish


TRANSFORMER = Transformer(compile=compile_step, run=one_step, shared=COLUMNS, function=delta)
