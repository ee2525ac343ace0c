"""The same rule through the engine: aborts at every position, resumes, one to four workers, chains included.

What an abort repeats has the same ids: as a set, the output is that of the reference, nothing missing, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, cluster_main, run_main
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from flows.engine import build
from flows.placement import key_of
from flows.stage import Output
from nephoscope.sample import Sample
from tests.flows.bridge import by_publisher, pipeline_of, plan_of, record
from tests.reference import Message, Options, Reference
from tests.strategies import logs, options, pipeline_text, pipelines

AT_ONCE = timedelta(0)
"""An epoch for each item: a snapshot after each message."""
SELDOM = timedelta(hours=1)
"""One epoch: an abort goes back to the beginning."""
FEW = max(5, settings().max_examples // 15)
"""Examples: each runs the engine dozens of times."""

Published = set[tuple[str, Sample]]


@st.composite
def partitioned(draw: st.DrawFn) -> list[tuple[int, Message]]:
    """Messages of three partitions, shuffled together, each partition's in its order."""
    parts = [(p, m) for p in range(3) for m in draw(logs(max_messages=4))]
    queues = {p: [m for q, m in parts if q == p] for p in range(3)}
    order = draw(st.permutations([p for p, _ in parts]))
    return [(p, queues[p].pop(0)) for p in order]


def named(pipeline: dict[str, Any]) -> str:
    """The pipeline's text, with a publisher of its own for each sink."""
    for sink in pipeline["sinks"]:
        sink["publishers"] = [f"test://{sink['name']}"]
    return pipeline_text(pipeline)


def items(messages: Sequence[tuple[int, Message]]) -> list[Any]:
    """What the engine's input emits: (key, message)."""
    return [(key_of(p), record(m, offset, p)) for offset, (p, m) in enumerate(messages)]


def wanted(text: str, chosen: Options, messages: Sequence[tuple[int, Message]]) -> Published:
    """What the reference publishes, each partition by itself; the live flow has no end of input."""
    out: Published = set()
    for partition in {p for p, _ in messages}:
        part = [m for p, m in messages if p == partition]
        result = Reference(pipeline_of(text), chosen).run(part, end=False)
        out.update((f"test://{sink}", sample) for sink, sample in result.published)
    return out


def collected(outputs: Iterable[tuple[str, Output]]) -> Published:
    """What the publishers got, as a store would see it."""
    return {(url, sample) for _, output in outputs for url, sample in by_publisher(output)}


def store_in(folder: Path, name: str) -> RecoveryConfig:
    """A new recovery store."""
    path = folder / name
    path.mkdir()
    init_db_dir(path, 1)
    return RecoveryConfig(str(path), AT_ONCE)


@pytest.mark.parametrize("epoch", [AT_ONCE, SELDOM], ids=["an-epoch-a-message", "one-epoch"])
@settings(max_examples=FEW, phases=(Phase.generate,))
@given(messages=partitioned(), pipeline=pipelines(), chosen=options())
def test_an_abort_at_any_position_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    epoch: timedelta,
    messages: list[tuple[int, Message]],
    pipeline: dict[str, Any],
    chosen: Options,
) -> None:
    """Aborted before each message in turn and resumed, the flow publishes what it would have."""
    text = named(pipeline)
    want = wanted(text, chosen, messages)
    inputs = items(messages)
    folder = tmp_path_factory.mktemp("abort")

    for position in range(len(inputs) + 1):
        outputs: list[tuple[str, Output]] = []
        source = TestingSource([*inputs[:position], TestingSource.ABORT(), *inputs[position:]])
        recovery = store_in(folder, str(position))
        for _ in range(2):
            flow = build(plan_of(text, chosen), source, TestingSink(outputs))
            run_main(flow, epoch_interval=epoch, recovery_config=recovery)
        assert collected(outputs) == want, f"aborted at {position}"


@pytest.mark.parametrize("epoch", [AT_ONCE, SELDOM], ids=["an-epoch-a-message", "one-epoch"])
@settings(max_examples=FEW, phases=(Phase.generate,))
@given(messages=partitioned(), pipeline=pipelines(), chosen=options())
def test_an_abort_at_every_position_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    epoch: timedelta,
    messages: list[tuple[int, Message]],
    pipeline: dict[str, Any],
    chosen: Options,
) -> None:
    """One log aborted again and again, each execution one message further."""
    text = named(pipeline)
    inputs = items(messages)
    outputs: list[tuple[str, Output]] = []
    recovery = store_in(tmp_path_factory.mktemp("aborts"), "recovery")
    for position in range(len(inputs) + 1):
        # The source loses count where it skips an abort of an earlier execution: so each has only its own.
        source = TestingSource([*inputs[:position], TestingSource.ABORT(), *inputs[position:]])
        run_main(
            build(plan_of(text, chosen), source, TestingSink(outputs)), epoch_interval=epoch, recovery_config=recovery
        )
    run_main(
        build(plan_of(text, chosen), TestingSource(inputs), TestingSink(outputs)),
        epoch_interval=epoch,
        recovery_config=recovery,
    )

    assert collected(outputs) == wanted(text, chosen, messages)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@settings(max_examples=FEW, phases=(Phase.generate,))
@given(messages=partitioned(), pipeline=pipelines(), chosen=options())
def test_any_number_of_workers(
    workers: int, messages: list[tuple[int, Message]], pipeline: dict[str, Any], chosen: Options
) -> None:
    """Partitions go to workers, and to what they publish that is all the same."""
    text = named(pipeline)
    outputs: list[tuple[str, Output]] = []
    flow = build(plan_of(text, chosen), TestingSource(items(messages), batch_size=2), TestingSink(outputs))
    cluster_main(flow, [], 0, worker_count_per_proc=workers)

    assert collected(outputs) == wanted(text, chosen, messages)


@settings(max_examples=FEW, phases=(Phase.generate,))
@given(
    messages=partitioned(),
    pipeline=pipelines(),
    chosen=options(),
    workers=st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_stopped_and_resumed_with_other_workers(
    tmp_path_factory: pytest.TempPathFactory,
    messages: list[tuple[int, Message]],
    pipeline: dict[str, Any],
    chosen: Options,
    workers: list[int],
) -> None:
    """Three executions on a third of the log each, with as many workers as come: whole partitions move."""
    text = named(pipeline)
    inputs = items(messages)
    third = len(inputs) // 3
    inputs = [
        *inputs[:third],
        TestingSource.EOF(),
        *inputs[third : 2 * third],
        TestingSource.EOF(),
        *inputs[2 * third :],
    ]
    outputs: list[tuple[str, Output]] = []
    recovery = store_in(tmp_path_factory.mktemp("stops"), "recovery")
    for count in workers:
        flow = build(plan_of(text, chosen), TestingSource(inputs), TestingSink(outputs))
        cluster_main(flow, [], 0, worker_count_per_proc=count, epoch_interval=AT_ONCE, recovery_config=recovery)

    assert collected(outputs) == wanted(text, chosen, messages)
