"""The rule above all others: what is published is a function of the log alone, and it is what docs/semantics.md says."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.times import SECOND
from tests.flows.bridge import run_reference, run_stage
from tests.reference import Message, Options, Result
from tests.strategies import (
    TRANSFORMERS,
    cuts,
    join_rows,
    logs,
    options,
    pipeline_text,
    pipelines,
    split_rows,
)

COUNTED = (
    *("timestamp", "volume", "type", "name", "resource_id", "metadata", "double", "first", "zero_interval", "negative"),
    *("already_published", "incomplete", "expression", "not_finite"),
)
"""Reasons under which the stage and the reference must count the same."""

CHAINS = (
    ("aggregator", "aggregator"),
    ("aggregator", "arithmetic"),
    ("arithmetic", "aggregator"),
    ("accumulator", "aggregator", "rate_of_change"),
    ("accumulator", "arithmetic", "accumulator"),
    ("unit_conversion", "arithmetic", "arithmetic"),
    ("unit_conversion", "rate_of_change", "aggregator"),
    ("aggregator", "delta", "accumulator"),
)
"""Where one step's watermark decides what the next one does."""


def assert_same(want: Result, got: Result) -> None:
    """The same samples from the same sinks, each sink's in the same order, and the same losses."""
    wanted, given_ = Counter(want.published), Counter(got.published)
    assert not wanted - given_, "missing"
    assert not given_ - wanted, "not wanted"
    for sink in {p.sink for p in wanted}:
        assert [p for p in want.published if p.sink == sink] == [p for p in got.published if p.sink == sink], "order"
    assert losses(want) == losses(got)


def losses(result: Result) -> dict[str, int]:
    """How many for each reason, wherever."""
    out: Counter[str] = Counter()
    for (_, reason), count in result.counts.items():
        if reason in COUNTED and count:
            out[reason] += count
    return dict(out)


@given(logs(), pipelines(), options(), cuts())
def test_any_log_through_any_pipeline_in_any_calls(
    log: list[Message], pipeline: dict[str, Any], settings: Options, sizes: list[int]
) -> None:
    """The stage publishes what the reference does, however many messages each call gets."""
    text = pipeline_text(pipeline)

    assert_same(run_reference(text, settings, log), run_stage(text, settings, log, sizes))


@given(logs(), pipelines(), options(), cuts(), st.integers(1, 3))
def test_each_publisher_gets_what_its_sinks_publish(
    log: list[Message], pipeline: dict[str, Any], settings: Options, sizes: list[int], publishers: int
) -> None:
    """As the live flow calls the stage: by publisher. A sample that several sinks lead to a publisher may come to it once."""
    urls: dict[str, list[str]] = {}
    for number, sink in enumerate(pipeline["sinks"]):
        sink["publishers"] = [f"test://{number % publishers}", "test://all"]
        for url in sink["publishers"]:
            urls.setdefault(url, []).append(sink["name"])
    text = pipeline_text(pipeline)
    want = run_reference(text, settings, log).published
    got = run_stage(text, settings, log, sizes, exact=False).published

    for url, sinks in urls.items():
        wanted = Counter(sample for sink, sample in want if sink in sinks)
        found = Counter(sample for publisher, sample in got if publisher == url)
        assert wanted.keys() == found.keys()
        assert len(sinks) > 1 or wanted == found


@pytest.mark.parametrize("kind", TRANSFORMERS)
@given(data=st.data())
def test_each_transformer(kind: str, data: st.DataObject) -> None:
    """The same for chains of one transformer, where its own cases are met more often."""
    text = pipeline_text(data.draw(pipelines(kinds=(kind,), max_steps=2)))
    log, settings, sizes = data.draw(logs()), data.draw(options()), data.draw(cuts())

    assert_same(run_reference(text, settings, log), run_stage(text, settings, log, sizes))


@pytest.mark.parametrize("chain", CHAINS, ids="-".join)
@given(data=st.data())
def test_chains(chain: tuple[str, ...], data: st.DataObject) -> None:
    """Steps that hold samples back, behind one another: each hears the watermark that the one before it passes on."""
    text = pipeline_text(data.draw(pipelines(chain=chain)))
    log, settings, sizes = data.draw(logs()), data.draw(options()), data.draw(cuts())

    assert_same(run_reference(text, settings, log), run_stage(text, settings, log, sizes))


@given(logs(), pipelines(), options(), st.integers(1, 4))
def test_rows_may_be_spread_over_messages(
    log: list[Message], pipeline: dict[str, Any], settings: Options, most: int
) -> None:
    """Many small messages give what one large one of the same rows gives."""
    text = pipeline_text(pipeline)
    want = run_stage(text, settings, log)

    assert_same(want, run_stage(text, settings, split_rows(log, most), [3]))
    assert_same(want, run_stage(text, settings, join_rows(log), [100]))


@given(logs(), pipelines(), options(), cuts(4))
def test_a_snapshot_anywhere_changes_nothing(
    log: list[Message], pipeline: dict[str, Any], settings: Options, sizes: list[int]
) -> None:
    """A call made again, from a snapshot taken before it, gives what it gave: nothing of the first time is in the snapshot."""
    text = pipeline_text(pipeline)

    assert_same(run_stage(text, settings, log, sizes), run_stage(text, settings, log, sizes, snapshots=True))


@given(
    logs(clean=True),
    options(),
    cuts(),
    st.fixed_dictionaries(
        {},
        optional={
            "size": st.sampled_from((0, 1, 2, 5)),
            "retention_time": st.sampled_from((10, 60, 300)),
            "user_id": st.just("first"),
            "project_id": st.just("last"),
        },
    ),
    st.integers(1, 2),
)
def test_the_sum_out_is_the_sum_in(
    log: list[Message], settings: Options, sizes: list[int], parameters: dict[str, Any], depth: int
) -> None:
    """What an aggregator publishes for deltas adds up to what came in, late samples included, in chains too."""
    step = {"name": "aggregator", "parameters": parameters | {"volume": "sum"}}
    sink = {"name": "k", "publishers": ["test://"], "transformers": [step] * depth}
    text = pipeline_text({"sources": [{"name": "s", "meters": ["*"], "sinks": ["k"]}], "sinks": [sink]})
    came_in: Counter[tuple[str, str]] = Counter()
    for message in log:
        for sample in message.samples:
            came_in[sample.name, sample.resource_id] += int(sample.volume)

    went_out: Counter[tuple[str, str]] = Counter()
    for _, sample in run_stage(text, settings, log, sizes).published:
        went_out[sample.name, sample.resource_id] += int(sample.volume)

    assert {k: v for k, v in came_in.items() if v} == {k: v for k, v in went_out.items() if v}


@given(logs(), pipelines(), st.data())
def test_repeating_a_part_of_the_log_publishes_nothing_new(
    log: list[Message], pipeline: dict[str, Any], data: st.DataObject
) -> None:
    """Within dedupe_horizon, what comes again is a double; its messages may come again whole, in any place after the first."""
    settings = Options(lateness=60 * SECOND, dedupe_horizon=10**7 * SECOND, series_ttl=10**7 * SECOND)
    first = data.draw(st.integers(0, max(0, len(log) - 1)))
    last = data.draw(st.integers(first, len(log)))
    where = data.draw(st.integers(last, len(log)))
    again = log[:where] + log[first:last] + log[where:]
    text = pipeline_text(pipeline)

    want, got = run_stage(text, settings, log, [4]), run_stage(text, settings, again, [4])

    assert Counter(want.published) == Counter(got.published)
