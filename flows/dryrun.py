"""A plan over samples from anywhere, without a log, an engine or a network: the same stage, inline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from flows.plan import Plan
from flows.stage import Arrival, Output, feed, finish
from flows.state import State
from nephoscope.batch import PUSHED, Batch, batch_of
from nephoscope.partition import PARTITIONS, partition
from nephoscope.sample import Sample
from nephoscope.topics import Message

_CHUNK = 10_000


def dry_run(
    plan: Plan, samples: Iterable[Sample], counts: Counter[tuple[str, str]] | None = None
) -> Iterator[tuple[str, str, Sample]]:
    """(sink, publisher, sample) of everything that is published, windows closed at the end of the input.

    The samples count as pushed, in their order. `counts` gathers what the flow counts, by (where, reason).
    """
    states: dict[int, State] = {}
    waiting: dict[int, list[Sample]] = {}
    held = 0
    for sample in samples:
        waiting.setdefault(partition(sample.resource_id, PARTITIONS), []).append(sample)
        held += 1
        if held >= _CHUNK:
            yield from _feed(plan, states, waiting, counts)
            held = 0
    yield from _feed(plan, states, waiting, counts)
    for state in states.values():
        yield from _published(plan, finish(plan, state, exact=True), counts)


def _feed(
    plan: Plan, states: dict[int, State], waiting: dict[int, list[Sample]], counts: Counter[tuple[str, str]] | None
) -> Iterator[tuple[str, str, Sample]]:
    for number, samples in waiting.items():
        if number not in states:
            states[number] = State(plan)
        out = Output()
        arrival = Arrival(Message(number, 0, 0, b""), Batch(batch_of(samples).rows, PUSHED))
        feed(plan, states[number], [arrival], out, exact=True)
        yield from _published(plan, out, counts)
    waiting.clear()


def _published(plan: Plan, out: Output, counts: Counter[tuple[str, str]] | None) -> Iterator[tuple[str, str, Sample]]:
    if counts is not None:
        counts.update(out.counts)
    publishers = {s.name: s.publishers for s in plan.sinks}
    for sink, batch in out.sinks:
        for sample in Batch(batch).samples():
            for publisher in publishers[sink]:
                yield sink, publisher, sample
