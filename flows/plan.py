"""The plan: a pipeline compiled, immutable, the same in every process that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nephoscope.matching import MeterFilter
from nephoscope.pipeline import Pipeline, Sink, Source, Step
from nephoscope.sample import DEFAULT_SOURCE
from nephoscope.times import SECOND

if TYPE_CHECKING:
    from flows.transformer import Transformer

DEFAULT_JOIN_INTERVAL = 60


@dataclass(frozen=True, slots=True)
class Options:
    """The settings that decide what a flow computes; times in seconds."""

    lateness: float = 120.0
    max_ahead: float = 300.0
    max_future: float = 86400.0
    dedupe_horizon: float = 3600.0
    series_ttl: float = 86400.0
    sample_source: str = DEFAULT_SOURCE
    max_sample_bytes: int = 262_144

    def micros(self, name: str) -> int:
        """One of the times in microseconds."""
        seconds: float = getattr(self, name)
        return round(seconds * SECOND)


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One transformer of one sink. `number` tells it from all others of the plan, `key` from those of other plans."""

    number: int
    sink: str
    position: int
    kind: str
    program: Any
    transformer: Transformer = field(repr=False, compare=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the program was compiled from; in each snapshot, so that a change is seen."""

    @property
    def key(self) -> str:
        """Sink, position, kind and, where the program says so, the shape of its state: what a state is filed under."""
        return json.dumps([self.sink, self.position, self.kind, *getattr(self.program, "shape", ())])


@dataclass(frozen=True, slots=True)
class PlanSink:
    """A sink: who may enter, what happens, where it goes."""

    index: int
    name: str
    sources: tuple[tuple[Source, MeterFilter], ...]
    steps: tuple[PlanStep, ...]
    publishers: tuple[str, ...]

    def takes(self, meter: str, polling: tuple[str, ...], polled: bool, own_polling: bool) -> bool:
        """Whether a sample of this meter enters; `polling`: the polling sources it was polled for."""
        return any(
            matches.matches(meter)
            for source, matches in self.sources
            if not (own_polling and polled and source.interval and source.name not in polling)
        )

    def interval(self, meter: str) -> int:
        """Seconds of the first of its sources that matches the meter and has an interval; 0: none."""
        return next((s.interval for s, matches in self.sources if s.interval and matches.matches(meter)), 0)


@dataclass(frozen=True)
class Plan:
    """What runs. `fingerprint` is that of everything that decides what is published."""

    sinks: tuple[PlanSink, ...]
    steps: tuple[PlanStep, ...]
    options: Options
    own_polling: bool
    fingerprint: str
    cache: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    sink_of: dict[int, PlanSink] = field(default_factory=dict, compare=False, repr=False)
    """The sink of each step, by the step's number."""

    @cached_property
    def width(self) -> int:
        """Positions that one event takes: see flows.rows.Watermarks."""
        return 1 + max((len(s.steps) for s in self.sinks), default=0)


def compile_plan(pipeline: Pipeline, options: Options | None = None) -> Plan:
    """The plan of a loaded pipeline. The loader has found what is wrong with it."""
    from flows.transformers import transformer

    options = options or Options()
    sinks: list[PlanSink] = []
    steps: list[PlanStep] = []
    for sink in pipeline.sinks:
        sources = tuple((s, MeterFilter(s.meters)) for s in pipeline.sources if sink.name in s.sinks)
        if not sources:
            continue  # No source feeds it; `check` says so.
        own: list[PlanStep] = []
        draft = PlanSink(len(sinks), sink.name, sources, (), tuple(sink.publishers))
        for position, step in enumerate(sink.steps):
            kind = transformer(step.name)
            program = kind.compile(step.parameters, options, draft)
            own.append(
                PlanStep(len(steps) + len(own) + 1, sink.name, position, step.name, program, kind, step.parameters)
            )
        steps += own
        sinks.append(PlanSink(draft.index, sink.name, sources, tuple(own), draft.publishers))
    plan = Plan(tuple(sinks), tuple(steps), options, pipeline.polling_from_pipeline, _fingerprint(pipeline, options))
    plan.sink_of.update({step.number: sink for sink in sinks for step in sink.steps})
    return plan


def _fingerprint(pipeline: Pipeline, options: Options) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, Source | Sink):
            return {
                n: plain(getattr(value, n))
                for n in ("name", "meters", "sinks", "interval", "steps")
                if hasattr(value, n)
            }
        if isinstance(value, Step):
            return [value.name, plain(value.parameters)]
        if isinstance(value, tuple | list):
            return [plain(v) for v in value]
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        return value

    text = json.dumps([plain(pipeline.sources), plain(pipeline.sinks), repr(options)], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
