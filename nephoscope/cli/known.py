"""The meters that are known here: polled, made of notifications, computed by the pipeline. Of the code and its definitions, so that it cannot lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from nephoscope.pipeline import Pipeline
from nephoscope.sample import CUMULATIVE, GAUGE, Sample, sample_from_dict
from nephoscope.settings import Settings

if TYPE_CHECKING:  # A room: it is imported by the command, so that help answers at once.
    from sources.notifications.definitions import MeterDefinition

_TIMES = ("2026-01-01T00:00:00", "2026-01-01T00:01:00", "2026-01-01T00:02:00")
_BUILT_IN = (("temperature", "C"), ("current", "W or A"), ("fan", "RPM"), ("voltage", "V"))
"""Ironic's sensors: sources/notifications/builtin.py."""
_PREFIXED = re.compile(r"([\w.]+)\.`sub\(/\^/, ([^)]*)\)`")


class KnownMeter(NamedTuple):
    """A meter. `source`: how it comes here; `namespace`: whose agents poll it, '' where none does."""

    name: str
    type: str
    unit: str
    resource: str
    source: str
    namespace: str
    description: str


def known_meters(settings: Settings, pipeline: Pipeline) -> list[KnownMeter]:
    """Every meter, by name and source. Raises ConfigError where definitions are wrong."""
    found = [*_polled(settings), *_notified(settings)]
    return sorted({*found, *_computed(settings, pipeline, found)})


def _polled(settings: Settings) -> Iterator[KnownMeter]:
    from sources.systems import systems_of

    with systems_of(settings) as systems:
        for pollster in systems.pollsters.values():
            for m in pollster.meters:
                yield KnownMeter(
                    m.name, m.type, m.unit, m.resource, f"polled by {pollster.name}", pollster.namespace, m.description
                )


def _notified(settings: Settings) -> Iterator[KnownMeter]:
    from sources.notifications.service import definitions

    for definition in definitions(settings)[0]:
        unit = "of the notification" if definition.unit.paths else str(definition.unit.constant)
        resource = " or ".join(dict.fromkeys(p.text.rpartition(".")[2] for p in definition.resource_id.paths))
        for name, events in _names(definition):
            yield KnownMeter(name, str(definition.type.constant), unit, resource, "notified", "", f"made of {events}")
    for kind, unit in _BUILT_IN:
        yield KnownMeter(
            f"hardware.ipmi.{kind}", GAUGE, unit, "sensor of a node", "notified", "", "made of hardware.ipmi.* (Ironic)"
        )


def _names(definition: MeterDefinition) -> Iterator[tuple[str, str]]:
    """The names of its meters, each with the event types of which it is made; in braces what a notification says."""
    events = definition.event_types.patterns
    if not definition.name.paths:
        yield definition.text, ", ".join(events)
    elif definition.text.startswith("$.event_type") and not any(set(e) & set("*?[(") for e in events):
        yield from ((str(definition.name.first({"event_type": event})), event) for event in events)
    else:
        way = definition.text.removeprefix("$.")
        prefixed = _PREFIXED.fullmatch(way)
        yield f"{prefixed[2]}{{{prefixed[1]}}}" if prefixed else f"{{{way}}}", ", ".join(events)


def _computed(settings: Settings, pipeline: Pipeline, inputs: list[KnownMeter]) -> Iterator[KnownMeter]:
    """What the pipeline publishes under another name, type or unit, found out by letting it run over samples of every input."""
    from flows.dryrun import dry_run
    from flows.plan import Options, compile_plan

    plan = compile_plan(pipeline, Options(**{name: getattr(settings, name) for name in Options.__dataclass_fields__}))
    by_resource: dict[str, KnownMeter] = {}
    for meter in inputs:
        if "{" not in meter.name:
            by_resource.setdefault(f"{meter.name} {meter.type} {meter.unit}", meter)
    samples = [_sample(m, resource, i) for resource, m in by_resource.items() for i in range(len(_TIMES))]
    steps = {sink.name: ", ".join(step.name for step in sink.steps) for sink in pipeline.sinks}
    for sink, _, made in dry_run(plan, samples):
        source = by_resource[made.resource_id]
        if steps[sink] and (made.name, made.type, made.unit) != source[:3]:
            yield KnownMeter(
                made.name, made.type, made.unit, source.resource, "computed", "", f"{steps[sink]} of {source.name}"
            )


def _sample(meter: KnownMeter, resource: str, number: int) -> Sample:
    return sample_from_dict(
        {
            "name": meter.name,
            "type": meter.type or CUMULATIVE,
            "unit": meter.unit,
            "volume": 1000.0 * (number + 1),
            "resource_id": resource,
            "timestamp": _TIMES[number],
            "resource_metadata": {"cpu_number": 1},
        }
    )
