"""From the tests' logs and pipelines to the stage, and back: the only file of the property tests that knows how the stage is called."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from functools import lru_cache

from flows import stage
from flows.plan import Options as StageOptions
from flows.plan import Plan, compile_plan
from flows.snapshot import restore, take
from flows.state import State
from nephoscope.batch import EMPTY, Batch, Header, batch_of, encode
from nephoscope.partition import partition
from nephoscope.pipeline import Pipeline, parse_pipeline
from nephoscope.sample import Sample
from nephoscope.times import NEVER, SECOND
from nephoscope.topics import Message as Record
from tests.reference import Message, Options, Published, Reference, Result
from tests.strategies import cut

SCHEMES = ("test", "new", "file")


@lru_cache(maxsize=512)
def pipeline_of(text: str) -> Pipeline:
    """A pipeline's text, loaded as it is in earnest."""
    return parse_pipeline(text, publisher_schemes=SCHEMES)


@lru_cache(maxsize=512)
def plan_of(text: str, options: Options) -> Plan:
    """The plan of a pipeline's text under the reference's options."""
    return compile_plan(pipeline_of(text), stage_options(options))


def stage_options(options: Options) -> StageOptions:
    """The reference's options as the stage's."""
    return StageOptions(
        lateness=options.lateness / SECOND,
        max_ahead=options.max_ahead / SECOND,
        max_future=options.max_future / SECOND,
        dedupe_horizon=options.dedupe_horizon / SECOND,
        series_ttl=options.series_ttl / SECOND,
        sample_source=options.sample_source,
        max_sample_bytes=options.max_sample_bytes,
    )


def record(message: Message, offset: int, partition: int = 0) -> Record:
    """A message as it lies on a topic."""
    header = Header(message.interval, message.polling, NEVER if message.mark is None else message.mark)
    rows = batch_of(message.samples).rows if message.samples else EMPTY
    return Record(partition, offset, message.append_time or 0, encode(Batch(rows, header)))


def published(output: stage.Output) -> list[Published]:
    """What an exact call published, sink by sink."""
    return [Published(sink, sample) for sink, rows in output.sinks for sample in Batch(rows).samples()]


def by_publisher(output: stage.Output) -> list[Published]:
    """What a call published, publisher by publisher: all that the live flow knows."""
    return [
        Published(url, sample)
        for url, batches in output.published.items()
        for rows in batches
        for sample in Batch(rows).samples()
    ]


def run_reference(text: str, options: Options, messages: Sequence[Message], *, end: bool = True) -> Result:
    """What must come out."""
    return Reference(pipeline_of(text), options).run(messages, end=end)


def run_partitioned(pipeline: Pipeline, options: Options, samples: Iterable[Sample]) -> Result:
    """What the reference publishes of pushed samples, each in the partition of its resource, to the end of the input."""
    parts: dict[int, list[Sample]] = {}
    for sample in samples:
        parts.setdefault(partition(sample.resource_id), []).append(sample)
    whole = Result()
    for part in parts.values():
        result = Reference(pipeline, options).run([Message(samples=tuple(part))], end=True)
        whole.published += result.published
        whole.counts += result.counts
    return whole


def run_stage(
    text: str,
    options: Options,
    messages: Sequence[Message],
    sizes: Sequence[int] = (1,),
    *,
    end: bool = True,
    snapshots: bool = False,
    exact: bool = True,
) -> Result:
    """What comes out of the stage, fed in calls of so many messages.

    `snapshots`: each call is made twice, the second time from a snapshot taken before the first and written down after it, as the
    engine does after a crash; not `exact`: as the live flow calls it, with publishers in the place of sinks.
    """
    plan = plan_of(text, options)
    state = State(plan)
    result = Result()
    collect = published if exact else by_publisher
    outputs: list[stage.Output] = []
    for call in cut([record(m, i) for i, m in enumerate(messages)], sizes):
        if snapshots:
            snapshot = take(plan, state)
            stage.process(plan, state, call, exact=exact)
            state = restore(plan, pickle.loads(pickle.dumps(snapshot)))
        outputs.append(stage.process(plan, state, call, exact=exact))
    if end:
        outputs.append(stage.finish(plan, state, exact=exact))
    for output in outputs:
        result.published += collect(output)
        result.counts += output.counts
    return result
