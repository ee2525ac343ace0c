"""Hypothesis strategies: logs of one partition, pipelines, and ways to cut a log into calls.

Everything is small on purpose (five meters, three resources, minutes of time, volumes of few digits), so that rows meet:
the same series twice in a call, doubles, windows that close between two rows of a message, late parts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from hypothesis import strategies as st

from nephoscope import identity
from nephoscope.sample import CUMULATIVE, DELTA, GAUGE, Sample
from nephoscope.times import SECOND, TOO_LATE
from tests.reference import Message, Options

M = TypeVar("M")

START = 1_577_880_000 * SECOND
"""2020-01-01 12:00, a multiple of every interval used here."""

METERS = ("cpu", "mem", "io", "net.in", "net.out")
KINDS = {"cpu": CUMULATIVE, "mem": GAUGE, "io": DELTA, "net.in": CUMULATIVE, "net.out": GAUGE}
RESOURCES = ("r1", "r2", "r3")
METADATA = (
    '{"n":4}',
    '{"n":"2","flavor":{"vcpus":8}}',
    "{}",
    '{"n":0,"flavor":{"vcpus":"many"}}',
    '{"n":4,"display":"\\u00e9 \\"q\\""}',
)
POLLINGS = ((10, ("fast",)), (60, ("slow",)), (60, ("slow", "s0")), (600, ("s1",)), (60, ()))
"""(interval, polling sources) of polled messages. s0 and s1 are sources of the pipelines below."""

_PUSHED, _MARK = -1, -2
_PLAIN = ("",) * 90
_TWISTS = (
    *("double", "double", "double", "same_id", "gauge", "delta", "cumulative", "off_grid", "other_source"),
    *("nan", "inf", "huge", "minus_huge", "before_1970", "after_2200", "too_far", "far", "ahead", "no_name"),
    *("no_resource", "bad_type", "no_json", "no_object", "long_metadata", "late", "late", "uneven", "uneven"),
    *("measured", "measured", "measured", "measured", "measured_badly"),
)

_HARMLESS = ("double", "late", "uneven", "gauge", "delta", "cumulative", "")
_MEASURED = ("double", "late", "measured_badly", "measured")
"""Logs with few twists of these kinds, or with the last of them everywhere: steps get to work on long series."""


@dataclass(frozen=True)
class _Spec:
    """A row as drawn: indices and a twist; what it becomes depends on the message it lies in."""

    meter: int
    resource: int
    volume: int
    lag: int
    whose: int
    twist: str


_specs = st.builds(
    _Spec,
    meter=st.sampled_from((0, 0, 0, 1, 1, 1, 2, 3, 4)),
    resource=st.sampled_from((0, 0, 0, 1, 1, 2)),
    volume=st.integers(-20, 200),
    lag=st.sampled_from((0,) * 12 + (1, 5, 10, 20, 30, 59, 60, 61, 120, 180, 300, 900, 4000, 9000)),
    whose=st.sampled_from((0, 0, 0, 0, 1, 2, 3, 4, 5, 6)),
    twist=st.sampled_from(_PLAIN + _TWISTS),
)
_messages = st.tuples(
    st.sampled_from((_PUSHED, _PUSHED, _PUSHED, _MARK, 0, 1, 1, 2, 3, 4)),
    st.sampled_from((0, 0, 5, 10, 10, 30, 60, 60, 60, 61, 200) * 2 + (1300, 9000)),
    st.lists(_specs, max_size=4) | st.lists(_specs, min_size=4, max_size=9),
)


def options() -> st.SearchStrategy[Options]:
    """Settings small enough for everything to happen within minutes."""
    return st.builds(
        Options,
        lateness=st.sampled_from((60, 0, 30, 125)).map(lambda s: s * SECOND),
        max_future=st.just(3600 * SECOND),
        max_ahead=st.sampled_from((300, 0)).map(lambda s: s * SECOND),
        dedupe_horizon=st.sampled_from((3840, 240, 80)).map(lambda s: s * SECOND),
        series_ttl=st.sampled_from((4000, 250)).map(lambda s: s * SECOND),
        max_sample_bytes=st.just(200),
        sample_source=st.sampled_from(("openstack", "derived")),
    )


@st.composite
def logs(draw: st.DrawFn, max_messages: int = 14, *, clean: bool = False) -> list[Message]:
    """The log of one partition. Clean: only valid rows, each new, of integer volumes that add up exactly."""
    fewest = draw(st.sampled_from((0, max_messages // 2, max_messages)))
    drawn = draw(st.lists(_messages, min_size=fewest, max_size=max_messages))
    meters, resources = draw(st.sampled_from((5, 5, 3, 2, 2, 1))), draw(st.sampled_from((3, 3, 2, 1)))
    dated = draw(st.sampled_from((True, True, True, False)))
    kept = draw(st.sampled_from((None, _HARMLESS, _MEASURED)))
    now, number = START, 0
    before: list[Sample] = []
    out: list[Message] = []
    for kind, step, specs in drawn:
        now += step * SECOND
        append_time = now if dated else None
        if kind == _MARK:
            ahead = 400 * SECOND if specs and not clean and len(specs) > 5 else 0
            out.append(Message(append_time, mark=now + ahead))
            continue
        interval, polling = (0, ()) if clean or kind == _PUSHED else POLLINGS[kind]
        samples = []
        for spec in specs:
            number += 1
            some = replace(spec, meter=spec.meter % meters, resource=spec.resource % resources)
            if kept and spec.twist not in kept:
                some = replace(some, twist=kept[-1])
            sample = _sample(some, now, interval, number, before, clean=clean)
            before.append(sample)
            samples.append(sample)
        out.append(Message(append_time, tuple(samples), interval, polling))
    return out


def _sample(spec: _Spec, now: int, interval: int, number: int, before: Sequence[Sample], *, clean: bool) -> Sample:
    twist = "" if clean and spec.twist not in ("gauge", "delta", "cumulative", "measured") else spec.twist
    if before and twist == "double":
        return before[-1 - spec.volume % min(len(before), 12)]
    meter, resource = METERS[spec.meter], RESOURCES[spec.resource]
    timestamp = now - spec.lag * SECOND
    source = "elsewhere" if twist == "other_source" else "openstack"
    if interval:
        timestamp = timestamp // (interval * SECOND) * interval * SECOND
        if twist == "off_grid":
            timestamp += 7 * SECOND
    timestamp = {
        "before_1970": -1,
        "after_2200": TOO_LATE,
        "too_far": now + 3600 * SECOND + 1,
        "far": now + 3600 * SECOND,
        "ahead": now + (301 + spec.lag) * SECOND,
    }.get(twist, timestamp)
    sample = Sample(
        name=meter,
        type=twist if twist in (GAUGE, DELTA, CUMULATIVE) else KINDS[meter],
        unit=("u", "B", "")[spec.whose % 3],
        volume=float(spec.volume),
        user_id=("u1", "u1", "u2", "")[spec.whose % 4],
        project_id=("p1", "p2", "p1")[spec.whose % 3],
        resource_id=resource,
        timestamp=timestamp,
        metadata=METADATA[spec.whose % 5],
        source=source,
        id=identity.polled_id(source, meter, resource, timestamp) if interval else number.to_bytes(16, "little"),
    )
    return replace_fields(sample, _twisted(twist, sample, spec, before))


def _twisted(twist: str, sample: Sample, spec: _Spec, before: Sequence[Sample]) -> dict[str, Any]:
    """The fields that a twist changes."""
    if twist == "same_id":
        return {"id": before[-1].id} if before else {}
    changes: dict[str, dict[str, Any]] = {
        "nan": {"volume": math.nan},
        "inf": {"volume": math.inf},
        "huge": {"volume": 1.7e308},
        "minus_huge": {"volume": -1.7e308},
        "no_name": {"name": ""},
        "no_resource": {"resource_id": ""},
        "bad_type": {"type": "guage"},
        "no_json": {"metadata": "{"},
        "no_object": {"metadata": "[1]"},
        "long_metadata": {"metadata": json.dumps({"k": "x" * 300})},
        "measured": {"measured_at": sample.timestamp + (spec.volume % 9) * 10 * SECOND},
        "measured_badly": {"measured_at": sample.timestamp - spec.lag * SECOND * 3 if spec.lag else 5 * SECOND},
        "uneven": {"timestamp": sample.timestamp + 1},
        "late": {"late": True},
    }
    return changes.get(twist, {})


def replace_fields(sample: Sample, changes: dict[str, Any]) -> Sample:
    """The sample with some fields changed."""
    fields = {f: getattr(sample, f) for f in sample.__struct_fields__}
    return Sample(**(fields | changes))


# -- pipelines

_SCALES: tuple[Any, ...] = (
    *(None, None, None, 2, 0.5, 0, ""),
    *("volume * 2", "volume / (resource_metadata.n or 1)", "10 / volume", "resource_metadata.flavor.vcpus * volume"),
    *("volume if type == 'gauge' else -volume", "min(volume, resource_metadata.n)", "3", "volume - volume"),
    "100.0 / (10 * (resource_metadata.flavor.vcpus or 2))",
)
_EXPRESSIONS = (
    *("$(cpu) + $(mem)", "$(cpu) - $(mem)", "100.0 * $(mem) / ($(cpu) or 1)"),
    *(
        "$(cpu) + $(mem)",
        "$(cpu) / $(mem)",
        "100 * $(net.in) / ($(net.in) + $(net.out))",
        "$(mem) * 2",
        "$(x) - $(cpu)",
    ),
    *("$(cpu) * $(mem).resource_metadata.n", "$(io) + $(cpu) + $(mem)", "$(mem) + $(y)", "$(cpu) + $(cpu)"),
)
_NAMES = (None, None, "x", "y", "cpu", "mem")


def _target(draw: st.DrawFn, *fields: str) -> dict[str, Any]:
    choices: dict[str, tuple[Any, ...]] = {
        "name": _NAMES,
        "unit": (None, None, "w", "B"),
        "type": (None, None, None, GAUGE, DELTA, CUMULATIVE),
        "scale": _SCALES,
        "max": (None, None, None, None, 0, 50, -3),
    }
    drawn = {f: draw(st.sampled_from(choices[f])) for f in fields}
    return {f: v for f, v in drawn.items() if v is not None}


def _maps(draw: st.DrawFn, source: dict[str, Any], target: dict[str, Any]) -> None:
    which = draw(st.sampled_from((0, 0, 0, 1, 2, 3)))
    if which == 1:
        source["map_from"], target["map_to"] = {"name": r"net\.(in|out)"}, {"name": r"net.\1.rate"}
    elif which == 2:
        source["map_from"], target["map_to"] = {"name": "c(.*)", "unit": "(B)"}, {"name": r"\1", "unit": r"\1/s"}
    elif which == 3:
        source["map_from"], target["map_to"] = {"name": "(cpu|mem)", "unit": "u"}, {"name": "x", "unit": ""}


@st.composite
def steps(draw: st.DrawFn, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """One transformer with parameters."""
    name = draw(st.sampled_from(tuple(kinds) or TRANSFORMERS))
    parameters: dict[str, Any] = {}
    target: dict[str, Any] = {}
    source: dict[str, Any] = {}
    if name in ("rate_of_change", "unit_conversion"):
        target = _target(draw, "name", "unit", "type", "scale", "max")
        _maps(draw, source, target)
        if name == "unit_conversion" and draw(st.booleans()):
            source["unit"] = draw(st.sampled_from(("u", "B")))
    elif name == "delta":
        target = _target(draw, "name")
        _maps(draw, source, target)
        parameters["growth_only"] = draw(st.booleans())
    elif name == "arithmetic":
        target = _target(draw, "name", "unit", "type") | {"expr": draw(st.sampled_from(_EXPRESSIONS))}
        if draw(st.booleans()):
            parameters["interval"] = draw(st.sampled_from((60, 10, 300)))
        if draw(st.booleans()):
            parameters["hold"] = draw(st.sampled_from((30, 60, 120, 300, 4000)))
    elif name == "aggregator":
        target = _target(draw, "name", "unit", "type", "scale", "max")
        _maps(draw, source, target)
        parameters |= _aggregation(draw)
    else:
        parameters["size"] = draw(st.sampled_from((1, 2, 3, 5, 0, -1)))
        if draw(st.booleans()):
            parameters["max_hold"] = draw(st.sampled_from((5, 30, 120)))
    if target:
        parameters["target"] = target
    if source:
        parameters["source"] = source
    return {"name": name, "parameters": parameters}


def _aggregation(draw: st.DrawFn) -> dict[str, Any]:
    choices: dict[str, tuple[Any, ...]] = {
        "size": (None, 0, 1, 2, 3, 7),
        "retention_time": (None, 60, 60, 10, 300),
        "user_id": (None, None, "first", "last", "drop"),
        "project_id": (None, None, "first", "last"),
        "resource_metadata": (None, None, "first", "last", "drop"),
        "timestamp": (None, None, "first", "last"),
        "volume": (None, None, None, None, "sum", "mean", "last", "first", "min", "max"),
    }
    drawn = {k: draw(st.sampled_from(v)) for k, v in choices.items()}
    return {k: v for k, v in drawn.items() if v is not None}


TRANSFORMERS = ("rate_of_change", "delta", "unit_conversion", "arithmetic", "aggregator", "accumulator")
_METERS = (["*"], ["*"], ["*"], ["*", "!io"], ["cpu", "mem"], ["net.*"], ["!cpu"], ["c*", "mem", "io"], ["nothing"])


@st.composite
def pipelines(
    draw: st.DrawFn, kinds: Sequence[str] = (), max_steps: int = 3, chain: Sequence[str] = ()
) -> dict[str, Any]:
    """A pipeline.yaml as a mapping: one to three sinks, sources that overlap, some with an interval.

    Steps of these kinds, or, in every sink, a chain of these kinds in this order.
    """
    transformers: st.SearchStrategy[list[dict[str, Any]]]
    if chain:
        transformers = st.tuples(*(steps((kind,)) for kind in chain)).map(list)
    else:
        transformers = st.lists(steps(kinds), min_size=1 if kinds else 0, max_size=max_steps)
    sinks = [
        {"name": f"k{number}", "publishers": ["test://"], "transformers": draw(transformers) or None}
        for number in range(draw(st.integers(1, 3)))
    ]
    names = [str(k["name"]) for k in sinks]
    sources: list[dict[str, Any]] = [
        {"name": "s0", "meters": draw(st.sampled_from(_METERS)), "sinks": names},
    ]
    if draw(st.booleans()):
        chosen = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
        sources.append({"name": "s1", "meters": draw(st.sampled_from(_METERS)), "sinks": chosen})
    for source in sources:
        interval = draw(st.sampled_from((None, None, 60, 600, 10)))
        if interval:
            source["interval"] = interval
    return {"sources": sources, "sinks": sinks}


def pipeline_text(pipeline: dict[str, Any]) -> str:
    """The YAML (JSON is YAML) of a pipeline."""
    return json.dumps(pipeline, indent=1)


# -- ways to cut a log


def cuts(most: int = 14) -> st.SearchStrategy[list[int]]:
    """How many messages each call gets, in turn; begun anew when used up."""
    return st.lists(st.integers(1, most), min_size=1, max_size=5)


def cut(messages: Sequence[M], sizes: Sequence[int]) -> list[list[M]]:
    """The log in calls."""
    out: list[list[M]] = []
    position = turn = 0
    while position < len(messages):
        size = sizes[turn % len(sizes)]
        out.append(list(messages[position : position + size]))
        position, turn = position + size, turn + 1
    return out


def split_rows(messages: Sequence[Message], most: int) -> list[Message]:
    """The same rows in messages of at most `most` rows."""
    out = []
    for message in messages:
        parts = [message.samples[i : i + most] for i in range(0, len(message.samples), most)] or [()]
        out += [replace(message, samples=part) for part in parts]
    return out


def join_rows(messages: Sequence[Message]) -> list[Message]:
    """The same rows in as few messages as their headers and append times allow."""
    out: list[Message] = []
    for message in messages:
        last = out[-1] if out else None
        if (
            last
            and message.mark is None
            and last.mark is None
            and replace(last, samples=()) == replace(message, samples=())
        ):
            out[-1] = replace(last, samples=last.samples + message.samples)
        else:
            out.append(message)
    return out
