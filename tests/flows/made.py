"""Samples, messages and plans in few words, for tests of one thing each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import yaml

from flows.plan import Options, Plan, compile_plan
from flows.stage import Output, process
from flows.state import State
from nephoscope import identity
from nephoscope.batch import EMPTY, Batch, Header, batch_of, encode
from nephoscope.pipeline import parse_pipeline
from nephoscope.sample import Sample
from nephoscope.times import NEVER, SECOND
from nephoscope.topics import Message

START = 1_577_880_000
"""2020-01-01 12:00, a multiple of every interval used here; `at` counts seconds from here."""

_numbers = itertools.count(1)


def sample(name: str = "m", at: float = 0, volume: float = 1.0, resource: str = "r", **more: Any) -> Sample:
    """A pushed sample with an id of its own."""
    fields = {"type": "gauge", "unit": "u", "id": next(_numbers).to_bytes(16, "little")} | more
    timestamp = fields.pop("timestamp", round((START + at) * SECOND))
    return Sample(name=name, volume=volume, resource_id=resource, timestamp=timestamp, **fields)


def polled(name: str = "m", at: float = 0, volume: float = 1.0, resource: str = "r", **more: Any) -> Sample:
    """A sample with the id that polling gives it."""
    made = sample(name, at, volume, resource, **more)
    return sample(
        name, at, volume, resource, **more | {"id": identity.polled_id(made.source, name, resource, made.timestamp)}
    )


def message(
    *samples: Sample, offset: int = 0, appended: float | None = None, mark: float | None = None, **header: Any
) -> Message:
    """A message as it lies on partition 3 of a topic; without `appended` (seconds, as `at`) its time is unknown."""
    moment = NEVER if mark is None else round((START + mark) * SECOND)
    batch = Batch(batch_of(samples).rows if samples else EMPTY, Header(mark=moment, **header))
    return Message(3, offset, 0 if appended is None else round((START + appended) * SECOND), encode(batch))


def plan(sinks: dict[str, Any], sources: Sequence[dict[str, Any]] = (), **options: Any) -> Plan:
    """A plan of sinks: name to a list of (transformer, parameters), or to a whole sink. Without `sources` one takes everything."""
    document = {
        "sources": list(sources) or [{"name": "all", "meters": ["*"], "sinks": list(sinks)}],
        "sinks": [
            {"name": name, "publishers": ["test://"]}
            | (sink if isinstance(sink, dict) else {"transformers": [{"name": n, "parameters": p} for n, p in sink]})
            for name, sink in sinks.items()
        ],
    }
    return compile_plan(
        parse_pipeline(yaml.safe_dump(document), publisher_schemes=("test", "file", "udp")), Options(**options)
    )


def feed(the_plan: Plan, state: State, *messages: Message, exact: bool = False) -> Output:
    """What one call gives."""
    return process(the_plan, state, messages, exact=exact)


def published(output: Output, url: str = "test://") -> list[Sample]:
    """All samples that a publisher got, in order."""
    return [s for rows in output.published.get(url, []) for s in Batch(rows).samples()]


def facts(samples: Sequence[Sample]) -> list[tuple[str, str, float]]:
    """(name, resource, volume) of each."""
    return [(s.name, s.resource_id, s.volume) for s in samples]


def volumes(output: Output, url: str = "test://") -> list[float]:
    """The volumes that a publisher got, in order."""
    return [s.volume for s in published(output, url)]
