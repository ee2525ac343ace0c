"""delta: the difference to the series' previous sample, as late Ceilometer (docs/semantics.md)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.one_to_one import About, Judged, Values, one_step
from flows.rows import DELTA
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


def delta(before: Values, now: Values, about: About, counts: dict[str, int]) -> Judged:
    """Difference to each row's predecessor."""
    absent = before["time"] == NEVER
    forgotten = ~absent & (about.watermark - before["time"] > about.ttl)
    difference = now["volume"] - before["volume"]
    publish = ~absent & (now["time"] >= before["time"]) & ~forgotten
    accepted = None
    if not publish.all():
        first = absent | forgotten
        accepted = publish | first
        for reason, mask in (("first", first), ("late", ~accepted)):
            count = int(np.count_nonzero(mask))
            if count:
                counts[reason] = counts.get(reason, 0) + count
    if about.growth_only is not False:
        negative = publish & (difference < 0) & about.growth_only
        count = int(np.count_nonzero(negative))
        if count:
            counts["negative"] = counts.get("negative", 0) + count
            return Judged(difference, publish & ~negative, accepted)
    return Judged(difference, None if accepted is None else publish, accepted)


TRANSFORMER = Transformer(compile=compile_step, run=one_step, shared=COLUMNS, function=delta)
