"""docs/semantics.md, row by row: slow, obvious, with plain dicts and loops.

The stage in flows/ must publish what this publishes. Nothing here is shared with it but the ids
(nephoscope.identity), the expressions' scalar evaluator and the matching of meters.

    result = Reference(pipeline, Options()).run(messages, end=True)
    result.published   # [Published(sink, sample), ...] in the order of publication
    result.counts      # Counter of (place, reason); place is "" before the sinks, else "sink/step"
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from nephoscope import identity
from nephoscope.errors import ExpressionError
from nephoscope.expressions import compile_join, compile_scale
from nephoscope.matching import MeterFilter
from nephoscope.pipeline import Pipeline, Sink, Source
from nephoscope.sample import CUMULATIVE, DEFAULT_SOURCE, DELTA, GAUGE, TYPES, Sample
from nephoscope.times import MAX_TIME, MIN_TIME, NEVER, SECOND, TOO_LATE

MINUTE = 60 * SECOND


@dataclass(frozen=True)
class Options:
    """The settings that semantics.md names; times in microseconds. The defaults are those of conf/nephoscope.yaml."""

    lateness: int = 120 * SECOND
    max_ahead: int = 300 * SECOND
    max_future: int = 86400 * SECOND
    dedupe_horizon: int = 3600 * SECOND
    series_ttl: int = 86400 * SECOND
    max_sample_bytes: int = 262_144
    sample_source: str = DEFAULT_SOURCE


@dataclass(frozen=True)
class Message:
    """One message of a partition's log: samples with the polling they come from (interval 0: none), or a mark."""

    append_time: int | None = None
    samples: tuple[Sample, ...] = ()
    interval: int = 0
    polling: tuple[str, ...] = ()
    mark: int | None = None


class Published(NamedTuple):
    """What a sink's publishers get."""

    sink: str
    sample: Sample


@dataclass
class Result:
    """What a log gave."""

    published: list[Published] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True)
class Row:
    """A sample on its way through a sink; interval in seconds, 0 where it was not polled."""

    sample: Sample
    interval: int


class Reference:
    """One partition. Feed messages in order; `end` is the end of input, which the live flow never sees."""

    def __init__(self, pipeline: Pipeline, options: Options | None = None) -> None:
        self.options = options or Options()
        self.pipeline = pipeline
        self.result = Result()
        self.watermark = MIN_TIME
        self.dedupe = Dedupe(self.options)
        self.filters = [(source, MeterFilter(source.meters)) for source in pipeline.sources]
        self.chains = {
            sink.name: [_step(sink, number, pipeline, self) for number in range(len(sink.steps))]
            for sink in pipeline.sinks
        }
        self.marks = {sink.name: [MIN_TIME] * len(sink.steps) for sink in pipeline.sinks}

    def run(self, messages: Iterable[Message], *, end: bool) -> Result:
        """Feed all messages, and the end of input where asked."""
        for message in messages:
            self.feed(message)
        if end:
            self.end()
        return self.result

    def feed(self, message: Message) -> None:
        """One message."""
        if message.mark is not None:
            self._move(message.mark, message)
            self._position({})
        for sample in message.samples:
            reason = self._refusal(sample, message)
            if reason:
                self.count("", reason)
                continue
            self._move(sample.timestamp, message)
            if self.dedupe.is_double(sample, message, self.watermark):
                self.count("", "double")
                self._position({})
                continue
            row = Row(sample, message.interval)
            self._position({sink: [row] for sink in self._sinks(sample, message)})

    def end(self) -> None:
        """The watermark goes to plus infinity, as if by a last mark."""
        self.watermark = MAX_TIME
        self._position({})

    def count(self, place: str, reason: str) -> None:
        """Count one loss."""
        self.result.counts[place, reason] += 1

    def _refusal(self, sample: Sample, message: Message) -> str:
        limit = TOO_LATE
        if message.append_time is not None:
            limit = min(limit, message.append_time + self.options.max_future + 1)
        if not 0 <= sample.timestamp < limit:
            return "timestamp"
        if not math.isfinite(sample.volume):
            return "volume"
        if sample.type not in TYPES:
            return "type"
        if not sample.name:
            return "name"
        if not sample.resource_id:
            return "resource_id"
        if len(sample.metadata.encode()) > self.options.max_sample_bytes or not _is_object(sample.metadata):
            return "metadata"
        return ""

    def _move(self, moment: int, message: Message) -> None:
        if not _ahead(moment, message, self.options):
            self.watermark = max(self.watermark, moment - self.options.lateness)

    def _sinks(self, sample: Sample, message: Message) -> set[str]:
        out: set[str] = set()
        for source, matching in self.filters:
            if not matching.matches(sample.name):
                continue
            own = source.interval is not None and self.pipeline.polling_from_pipeline
            if own and message.interval and source.name not in message.polling:
                continue
            out.update(source.sinks)
        return out

    def _position(self, rows_of: Mapping[str, list[Row]]) -> None:
        """One position of the log: the steps of a sink hear the watermark one after the other; then comes the row itself."""
        for sink, steps in self.chains.items():
            watermark, marks = self.watermark, self.marks[sink]
            for number, step in enumerate(steps):
                marks[number] = watermark
                self._pass_on(sink, number + 1, step.advance(watermark))
                watermark = step.passed(watermark)
            self._pass_on(sink, 0, rows_of.get(sink, []))

    def _pass_on(self, sink: str, first: int, rows: list[Row]) -> None:
        """Take rows through the steps from `first` on, each under the watermark that it last heard of, and publish."""
        steps, marks = self.chains[sink], self.marks[sink]
        for step, mark in list(zip(steps, marks, strict=True))[first:]:
            rows = [out for row in rows for out in step.take(row, mark)]
        self._publish(sink, rows)

    def _publish(self, sink: str, rows: list[Row]) -> None:
        self.result.published += [Published(sink, row.sample) for row in rows]


class Dedupe:
    """Which samples were accepted before."""

    @dataclass
    class Grid:
        """A polled series: its unit and source, the newest timestamp and those that were seen."""

        unit: int
        source: str
        newest: int
        seen: set[int]

    def __init__(self, options: Options) -> None:
        self.options = options
        self.bucket_length = options.dedupe_horizon // 8
        self.grids: dict[tuple[str, str], Dedupe.Grid] = {}
        self.buckets: dict[bytes, int] = {}

    def is_double(self, sample: Sample, message: Message, watermark: int) -> bool:
        """Whether it was seen; it is remembered if not."""
        if message.interval and not _ahead(sample.timestamp, message, self.options):
            series, unit, time = (sample.name, sample.resource_id), message.interval * SECOND, sample.timestamp
            grid = self.grids.get(series)
            if grid and _forgotten(watermark, grid.newest, self.options.series_ttl):
                grid = None
            if grid is None and time % unit == 0:
                self.grids[series] = self.Grid(unit, sample.source, time, {time})
                return False
            fits = grid and sample.source == grid.source and time % grid.unit == 0
            if grid and fits and grid.newest - time <= self.options.dedupe_horizon:
                if time in grid.seen:
                    return True
                grid.newest = max(grid.newest, time)
                grid.seen.add(time)
                return False
        bucket = (0 if watermark == MIN_TIME else watermark) // self.bucket_length
        if sample.id in self.buckets and bucket <= self.buckets[sample.id] + 8:
            return True
        self.buckets[sample.id] = bucket
        return False


class Step:
    """One step of a sink. `advance` tells it the watermark and gives what closes; `take` gives what a row causes."""

    def __init__(self, sink: Sink, number: int, pipeline: Pipeline, whole: Reference) -> None:
        self.sink = sink.name
        self.number = number
        self.options = whole.options
        self.whole = whole
        self.parameters: dict[str, Any] = dict(sink.steps[number].parameters or {})
        self.target: dict[str, Any] = dict(self.parameters.get("target") or {})
        self.source: dict[str, Any] = dict(self.parameters.get("source") or {})
        scale = self.target.get("scale")
        self.scale: Any = compile_scale(scale) if isinstance(scale, str) and scale else scale

    def advance(self, watermark: int) -> list[Row]:
        """What closes once the watermark is there."""
        return []

    def take(self, row: Row, watermark: int) -> list[Row]:
        """What a row gives."""
        raise NotImplementedError

    def passed(self, watermark: int) -> int:
        """The watermark that the next step gets."""
        return watermark

    def count(self, reason: str) -> None:
        """Count one loss at this step."""
        self.whole.count(f"{self.sink}/{self.number}", reason)

    def mapped(self, own: str, attribute: str) -> str:
        """A derived name or unit."""
        given = (self.source.get("map_from") or {}).get(attribute)
        wanted = (self.target.get("map_to") or {}).get(attribute)
        if given and wanted:
            return re.sub(given, wanted, own) or self.target.get(attribute) or own
        return self.target.get(attribute) or own

    def derived(self, row: Row, **changes: Any) -> Row:
        """What a step makes of one sample."""
        before = row.sample
        hi, lo = (int.from_bytes(lane, "little") for lane in (before.id[:8], before.id[8:]))
        origin = before.origin or identity.raw_origin(before.source, before.name)
        changes = {
            "id": _mixed(hi, lo, *identity.step_key(self.sink, self.number)),
            "origin": identity.step_origin(origin, self.sink, self.number),
            "source": self.options.sample_source,
            "measured_at": NEVER,
            **changes,
        }
        return Row(replace(before, **changes), row.interval)

    def scaled(self, sample: Sample, rate: float | None = None) -> float | None:
        """The volume after scale and max; None, counted, where that fails. With a rate, as rate_of_change does it."""
        volume = sample.volume if rate is None else rate
        try:
            if not self.scale:
                pass
            elif isinstance(self.scale, int | float):
                volume = volume * self.scale
            else:
                value = self.scale.evaluate_one(attributes(sample))
                volume = value if rate is None else value * rate
        except ExpressionError:
            self.count("expression")
            return None
        return self.finite(volume)

    def finite(self, volume: float) -> float | None:
        """The volume, clamped; None, counted, where it is not finite."""
        most = self.target.get("max")
        if most and volume > most:  # NaN stays NaN.
            volume = float(most)
        if not math.isfinite(volume):
            self.count("not_finite")
            return None
        return volume


class Difference(Step):
    """What rate_of_change and delta share: the predecessor of each series."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.last: dict[tuple[str, str], Sample] = {}

    def predecessor(self, sample: Sample, watermark: int) -> Sample | None:
        """The series' last accepted sample, where it has one that is not forgotten."""
        before = self.last.get((sample.name, sample.resource_id))
        if before is None or _forgotten(watermark, before.timestamp, self.options.series_ttl):
            return None
        return before

    def accept(self, sample: Sample) -> None:
        """Make it the predecessor."""
        self.last[sample.name, sample.resource_id] = sample


class RateOfChange(Difference):
    """rate_of_change."""

    def take(self, row: Row, watermark: int) -> list[Row]:
        sample = row.sample
        before = self.predecessor(sample, watermark)
        if before is None:
            self.accept(sample)
            self.count("first")
            return []
        if sample.timestamp <= before.timestamp:
            self.count("late" if sample.timestamp < before.timestamp else "zero_interval")
            return []
        self.accept(sample)
        between = sample.timestamp - before.timestamp
        if NEVER not in (sample.measured_at, before.measured_at):
            measured = sample.measured_at - before.measured_at
            if 0 < measured <= 2 * between:
                between = measured
        growth = sample.volume - before.volume
        if growth < 0 and sample.type == CUMULATIVE:
            growth = sample.volume
        volume = self.scaled(sample, growth / (between / 1e6))
        if volume is None:
            return []
        return [
            self.derived(
                row,
                volume=volume,
                type=self.target.get("type") or GAUGE,
                unit=self.mapped(sample.unit, "unit"),
                name=self.mapped(sample.name, "name"),
            )
        ]


class Delta(Difference):
    """delta."""

    def take(self, row: Row, watermark: int) -> list[Row]:
        sample = row.sample
        before = self.predecessor(sample, watermark)
        if before is None:
            self.accept(sample)
            self.count("first")
            return []
        if sample.timestamp < before.timestamp:
            self.count("late")
            return []
        self.accept(sample)
        volume = sample.volume - before.volume
        if volume < 0 and self.parameters.get("growth_only"):
            self.count("negative")
            return []
        if not math.isfinite(volume):
            self.count("not_finite")
            return []
        return [self.derived(row, volume=volume, type=DELTA, name=self.mapped(sample.name, "name"))]


class UnitConversion(Step):
    """unit_conversion."""

    def take(self, row: Row, watermark: int) -> list[Row]:
        sample = row.sample
        unit = self.source.get("unit")
        if unit and unit != sample.unit:
            return [row]
        volume = self.scaled(sample)
        if volume is None:
            return []
        return [
            self.derived(
                row,
                volume=volume,
                type=self.target.get("type") or sample.type,
                unit=self.mapped(sample.unit, "unit"),
                name=self.mapped(sample.name, "name"),
            )
        ]


class Arithmetic(Step):
    """arithmetic."""

    @dataclass
    class Set:
        """The rows of one resource in a pane, by meter."""

        rows: dict[str, Row] = field(default_factory=dict)
        last: Row | None = None
        published: bool = False

    @dataclass
    class Pane:
        """The sets of a period that expire together: the period's end, when they expire, and they by resource in the order of arrival."""

        period: int
        end: int
        expires: int
        sets: dict[str, Arithmetic.Set] = field(default_factory=dict)

    def __init__(self, sink: Sink, number: int, pipeline: Pipeline, whole: Reference) -> None:
        super().__init__(sink, number, pipeline, whole)
        self.expression = compile_join(self.target["expr"])
        self.meters: tuple[str, ...] = tuple(self.expression.meters)
        self.hold = _micros(self.parameters.get("hold") or 0)
        self.own_interval = _micros(self.parameters.get("interval") or 60)
        self.sources: list[tuple[Source, MeterFilter]] = [
            (s, MeterFilter(s.meters)) for s in pipeline.sources if sink.name in s.sinks and s.interval
        ]
        self.panes: dict[tuple[int, int, int], Arithmetic.Pane] = {}
        self.arrived: list[Row] = []

    def interval(self, meter: str) -> int:
        """Length of the period of rows of this meter that were not polled."""
        if self.parameters.get("interval"):
            return _micros(self.parameters["interval"])
        for source, matching in self.sources:
            if matching.matches(meter):
                return _micros(source.interval or 0)
        return MINUTE

    def advance(self, watermark: int) -> list[Row]:
        out: list[Row] = []
        for key in sorted(key for key, p in self.panes.items() if p.expires <= watermark):
            pane = self.panes.pop(key)
            for resource, waiting in pane.sets.items():
                if waiting.published:
                    continue
                if self.hold:
                    for meter in self.meters:
                        held = self._held(resource, meter, pane)
                        if meter not in waiting.rows and held is not None:
                            waiting.rows[meter] = held
                if len(waiting.rows) == len(self.meters):
                    out += self._joined(waiting, pane.period)
                else:
                    self.count("incomplete")
        return out

    def take(self, row: Row, watermark: int) -> list[Row]:
        sample = row.sample
        if sample.name not in self.meters:
            return []
        if self.hold:
            self.arrived.append(row)
        if row.interval:
            period, end = sample.timestamp, sample.timestamp + 1
        else:
            length = self.interval(sample.name)
            period = sample.timestamp // length * length
            end = period + length
        waiting = next(
            (
                p.sets[sample.resource_id]
                for p in self.panes.values()
                if p.period == period and sample.resource_id in p.sets
            ),
            None,
        )
        if waiting is None:
            expires = self._expires(end, watermark)
            pane = self.panes.setdefault((period, end, expires), self.Pane(period, end, expires))
            waiting = pane.sets[sample.resource_id] = self.Set()
        if waiting.published:
            self.count("already_published")
            return []
        waiting.rows[sample.name] = waiting.last = row
        if len(waiting.rows) < len(self.meters):
            return []
        return self._joined(waiting, period)

    def _expires(self, end: int, watermark: int) -> int:
        """When a set that opens at this watermark expires: at its period's end, or so many whole quarters of lateness later."""
        expires, quarter = end, max(self.options.lateness // 4, 1)
        if watermark != MIN_TIME:
            # At least a microsecond: no set expires where it opens.
            late = watermark + max(self.options.lateness, 1) - end
            expires += max(-(-late // quarter), 0) * quarter
        return expires

    def passed(self, watermark: int) -> int:
        if watermark in (MIN_TIME, MAX_TIME):
            return watermark
        return (watermark - self.options.lateness) // self.own_interval * self.own_interval

    def _held(self, resource: str, meter: str, pane: Arithmetic.Pane) -> Row | None:
        best: Row | None = None
        oldest = pane.expires - self.hold - self.options.lateness - self.own_interval
        for row in self.arrived:
            sample = row.sample
            if (sample.resource_id, sample.name) != (resource, meter):
                continue
            if not pane.period - self.hold < sample.timestamp < pane.end or sample.timestamp < oldest:
                continue
            if best is None or sample.timestamp >= best.sample.timestamp:
                best = row
        return best

    def _joined(self, waiting: Arithmetic.Set, period: int) -> list[Row]:
        waiting.published = True
        first, last = waiting.rows[self.meters[0]].sample, waiting.last
        assert last is not None
        try:
            value = self.expression.evaluate_one({m: attributes(r.sample) for m, r in waiting.rows.items()})
        except ExpressionError:
            self.count("expression")
            return []
        if not math.isfinite(value):
            self.count("not_finite")
            return []
        hi, lo = identity.resource_key(first.resource_id)
        raw = _mixed(hi ^ period, lo, *identity.base_key(("join", self.sink, self.number)))
        sample = Sample(
            name=self.target.get("name") or first.name,
            type=self.target.get("type") or first.type,
            unit=self.target.get("unit") or first.unit,
            volume=float(value),
            user_id=first.user_id,
            project_id=first.project_id,
            resource_id=first.resource_id,
            timestamp=last.sample.timestamp,
            metadata=first.metadata,
            source=self.options.sample_source,
            id=raw,
            origin=identity.join_origin(self.sink, self.number),
            late=any(row.sample.late for row in waiting.rows.values()),
        )
        return [Row(sample, last.interval)]


class Aggregator(Step):
    """aggregator."""

    @dataclass
    class Group:
        """The samples (scaled) of one key on their way to one published sample."""

        window: int
        closing: int
        order: int
        late: bool = False
        samples: list[Sample] = field(default_factory=list)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.span = max(0, _micros(self.parameters.get("retention_time") or 0))
        self.size = max(0, int(self.parameters.get("size") or 0))
        if not self.span and not self.size:
            self.size = 1
        self.groups: dict[tuple[Any, ...], Aggregator.Group] = {}
        self.published: Counter[tuple[Any, ...]] = Counter()
        self.opened = 0

    def advance(self, watermark: int) -> list[Row]:
        closing = [(g.window, g.closing, g.order, k) for k, g in self.groups.items() if g.closing <= watermark]
        if not self.span:  # No windows: in the order of their opening.
            closing = [(0, 0, order, key) for _, _, order, key in closing]
        out = [row for *_, key in sorted(closing) for row in self._leave(key)]
        if self.span:
            # A part that has closed never opens again: its next late sample finds another closing time.
            self.published = Counter({k: n for k, n in self.published.items() if k[2] > watermark})
        return out

    def take(self, row: Row, watermark: int) -> list[Row]:
        volume = self.scaled(row.sample)
        if volume is None:
            return []
        sample = replace(row.sample, volume=volume)
        merged = self.parameters
        user = "" if merged.get("user_id") else sample.user_id
        project = "" if merged.get("project_id") else sample.project_id
        window, closing, late = 0, watermark + self.options.series_ttl, False
        if self.span:
            window = sample.timestamp // self.span * self.span
            closing = window + self.span
            late = watermark >= closing
            if late:
                closing = (watermark // self.span + 1) * self.span
        key = (sample.name, sample.resource_id, user, project), window, closing if self.span else 0
        if key not in self.groups:
            self.opened += 1
            self.groups[key] = self.Group(window, closing, self.opened, late)
        self.groups[key].samples.append(sample)
        if self.size and len(self.groups[key].samples) >= self.size:
            return self._leave(key)
        return []

    def passed(self, watermark: int) -> int:
        if watermark in (MIN_TIME, MAX_TIME):
            return watermark
        if self.span:
            return watermark // self.span * self.span - self.span
        return watermark - self.options.series_ttl

    def _leave(self, key: tuple[Any, ...]) -> list[Row]:
        group = self.groups.pop(key)
        number = self.published[key]
        first, last = group.samples[0], group.samples[-1]
        if self.span:
            self.published[key] += 1
            hi, lo = identity.digest("aggregate", self.sink, self.number, *key[0])
            raw = _mixed(hi ^ group.window, lo ^ group.closing, number, 0)
        else:
            raw = self.derived(Row(first, 0)).sample.id
        volume = self._volume([s.volume for s in group.samples], first.type)
        if not math.isfinite(volume):
            self.count("not_finite")
            return []
        metadata = {"first": first.metadata, "drop": "{}"}.get(self._policy("resource_metadata"), last.metadata)
        sample = Sample(
            name=self.mapped(first.name, "name"),
            type=self.target.get("type") or first.type,
            unit=self.mapped(first.unit, "unit"),
            volume=volume,
            user_id=(first if self._policy("user_id") in ("", "first") else last).user_id,
            project_id=(first if self._policy("project_id") in ("", "first") else last).project_id,
            resource_id=first.resource_id,
            timestamp=(last if self._policy("timestamp") == "last" else first).timestamp,
            metadata=metadata,
            source=self.options.sample_source,
            id=raw,
            origin=identity.join_origin(self.sink, self.number),
            late=group.late or any(s.late for s in group.samples),
        )
        return [Row(sample, 0)]

    def _policy(self, name: str) -> str:
        return str(self.parameters.get(name) or "")

    def _volume(self, volumes: list[float], kind: str) -> float:
        how = self._policy("volume") or {GAUGE: "mean", DELTA: "sum", CUMULATIVE: "last"}[kind]
        if how == "first":
            return volumes[0]
        if how == "last":
            return volumes[-1]
        if how in ("min", "max"):
            return min(volumes) if how == "min" else max(volumes)
        total = 0.0
        for volume in volumes:
            total += volume
        return total / len(volumes) if how == "mean" else total


class Accumulator(Step):
    """accumulator."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        size = self.parameters.get("size", 1)
        self.size = 1 if size is None else int(size)
        hold = self.parameters.get("max_hold")
        self.hold = _micros(600 if hold is None else hold)
        self.waiting: list[Row] = []
        self.leaves = 0

    def advance(self, watermark: int) -> list[Row]:
        if self.waiting and watermark >= self.leaves:
            return self._leave()
        return []

    def take(self, row: Row, watermark: int) -> list[Row]:
        if not self.waiting:
            self.leaves = watermark + self.hold
        self.waiting.append(row)
        return self._leave() if len(self.waiting) >= self.size else []

    def passed(self, watermark: int) -> int:
        return watermark if watermark in (MIN_TIME, MAX_TIME) else watermark - self.hold

    def _leave(self) -> list[Row]:
        out, self.waiting = self.waiting, []
        return out


STEPS: dict[str, type[Step]] = {
    "rate_of_change": RateOfChange,
    "delta": Delta,
    "unit_conversion": UnitConversion,
    "arithmetic": Arithmetic,
    "aggregator": Aggregator,
    "accumulator": Accumulator,
}


def attributes(sample: Sample) -> dict[str, Any]:
    """What an expression may read of a sample."""
    return {
        "name": sample.name,
        "type": sample.type,
        "unit": sample.unit,
        "volume": sample.volume,
        "user_id": sample.user_id,
        "project_id": sample.project_id,
        "resource_id": sample.resource_id,
        "timestamp": sample.timestamp / 1e6,
        "resource_metadata": json.loads(sample.metadata),
        "source": sample.source,
        "id": identity.format_id(sample.id),
    }


def _step(sink: Sink, number: int, pipeline: Pipeline, whole: Reference) -> Step:
    return STEPS[sink.steps[number].name](sink, number, pipeline, whole)


def _ahead(moment: int, message: Message, options: Options) -> bool:
    """Whether it lies too far past its message's append time to move the watermark."""
    return message.append_time is not None and moment > message.append_time + options.max_ahead


def _forgotten(watermark: int, newest: int, series_ttl: int) -> bool:
    return watermark != MIN_TIME and watermark - newest > series_ttl


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _micros(seconds: float) -> int:
    return round(seconds * SECOND)


def _mixed(hi: int, lo: int, key_hi: Any, key_lo: Any) -> bytes:
    lanes = np.array([hi], np.uint64), np.array([lo], np.uint64)
    return identity.pack(*identity.mix(*lanes, np.uint64(key_hi), np.uint64(key_lo))).tobytes()
