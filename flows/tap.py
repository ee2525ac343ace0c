"""Samples as they pass a step, seen by a second reader that runs the same plan inline from where it begins.

It takes nothing from the flow and writes nothing: the flow does not know of it. What it cannot know is what happened before it began: a
rate comes with the second sample of a series, a window that was open then is not whole.

Guarantee: none; it shows, it does not deliver.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import translate
from re import compile as pattern
from typing import Any

import numpy as np
import pyarrow as pa

from flows.plan import Options, Plan, compile_plan
from flows.stage import process
from flows.state import State
from nephoscope.batch import decode
from nephoscope.errors import BatchError, ConfigError, Problem, nearest
from nephoscope.pipeline import Pipeline
from nephoscope.topics import Message


def plan_until(pipeline: Pipeline, where: str, options: Options) -> Plan:
    """The plan of one sink up to one step: `SINK`, `SINK[POSITION]`, or a transformer's name where one step alone is of that kind.

    ConfigError with the nearest where there is none.
    """
    if "]:" in where:  # As the counters name a step: SINK[POSITION]:KIND.
        where = where.rpartition(":")[0]
    points = {sink.name: (sink, len(sink.steps)) for sink in pipeline.sinks}
    kinds: dict[str, list[str]] = {}
    for sink in pipeline.sinks:
        for position, step in enumerate(sink.steps):
            name = f"{sink.name}[{position}]"
            points[name] = sink, position + 1
            kinds.setdefault(step.name, []).append(name)
    if where not in points and len(kinds.get(where, ())) == 1:
        where = kinds[where][0]
    if where not in points:
        if where in kinds:
            raise ConfigError([Problem(f"there are several steps {where!r}: {', '.join(kinds[where])}")])
        raise ConfigError([Problem(f"there is no step and no sink {where!r}", hint=nearest(where, [*points, *kinds]))])
    sink, count = points[where]
    cut = replace(pipeline, sinks=(replace(sink, steps=sink.steps[:count]),))
    return compile_plan(cut, options)


class Tap:
    """Runs messages through a plan, or only decodes them, and gives what passes a filter.

    Args:
        plan: up to the step to look at; None: samples as they come in.
        meter, resource: shell wildcards.

    """

    def __init__(self, plan: Plan | None, meter: str = "*", resource: str = "*") -> None:
        self._plan = plan
        self._states: dict[int, State] = {}
        self._filters = [
            (c, pattern(translate(g))) for c, g in (("name", meter), ("resource_id", resource)) if g != "*"
        ]
        self.undecodable = 0

    def batches(self, messages: Sequence[Message]) -> Iterator[pa.RecordBatch]:
        """What comes of messages, in the order of each partition."""
        groups: dict[int, list[Message]] = {}
        for message in messages:
            groups.setdefault(message.partition, []).append(message)
        for partition, group in groups.items():
            for batch in self._run(partition, group):
                kept = self._kept(batch)
                if kept.num_rows:
                    yield kept

    def _run(self, partition: int, group: list[Message]) -> Iterator[pa.RecordBatch]:
        if self._plan is None:
            for message in group:
                try:
                    yield decode(message.value).rows
                except BatchError:
                    self.undecodable += 1
            return
        state = self._states.get(partition)
        if state is None:
            state = self._states[partition] = State(self._plan)
        out = process(self._plan, state, group, exact=True)
        self.undecodable += out.counts["stage", "undecodable"]
        yield from (batch for _, batch in out.sinks)

    def _kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for column, wanted in self._filters:
            coded: Any = batch.column(column)
            fits = np.array([wanted.match(word) is not None for word in coded.dictionary.to_pylist()], bool)
            codes = coded.indices.to_numpy(zero_copy_only=False)
            if not len(codes) or not (mask := fits[codes]).any():
                return batch.slice(0, 0)
            if not mask.all():
                batch = batch.filter(pa.array(mask))
        return batch


__all__ = ["Tap", "plan_until"]
