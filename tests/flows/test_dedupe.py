"""Dedupe: a sample whose id the partition has seen within the horizon goes no further; by period where it was polled, by id otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.dedupe import BUCKETS, Periods, SeenIds
from flows.state import State
from nephoscope.times import MIN_TIME, SECOND
from tests.flows.made import feed, message, plan, polled, sample, volumes

KEPT = plan({"k": []})


def counted(*messages, the_plan=KEPT, calls=True):
    """(volumes published, doubles), each message a call of its own, or all of them one."""
    state = State(the_plan)
    outputs = [feed(the_plan, state, m) for m in messages] if calls else [feed(the_plan, state, *messages)]
    return [v for o in outputs for v in volumes(o)], sum(o.counts["stage", "double"] for o in outputs)


@pytest.mark.parametrize("calls", [True, False])
def test_the_first_of_an_id_wins(calls):
    one = sample(volume=1)
    other = sample(volume=2, id=one.id)

    assert counted(message(one, one), message(other), message(sample(volume=3)), calls=calls) == ([1, 3], 2)


@pytest.mark.parametrize("calls", [True, False])
def test_an_id_is_the_same_whatever_else_the_sample_says(calls):
    one = sample(volume=1)
    other = sample("other", 500, 2, "elsewhere", id=one.id)

    assert counted(message(one), message(other), calls=calls) == ([1], 1)


@pytest.mark.parametrize("calls", [True, False])
def test_a_period_polled_twice_is_one(calls):
    once = [message(polled(at=60 * i, volume=i), interval=60) for i in range(5)]
    again = [message(polled(at=60 * i, volume=100 + i), interval=60) for i in (4, 0, 2)]

    assert counted(*once, *again, *once, calls=calls) == ([0, 1, 2, 3, 4], 8)


@pytest.mark.parametrize("calls", [True, False])
def test_gaps_are_filled_once(calls):
    order = [0, 5, 3, 5, 1, 4, 3, 2, 2, 1, 0, 6]
    log = [message(polled(at=60 * i, volume=i), interval=60) for i in order]

    assert counted(*log, calls=calls) == ([0, 5, 3, 1, 4, 2, 6], 5)


@pytest.mark.parametrize("calls", [True, False])
def test_older_than_the_first_is_no_double_once(calls):
    log = [message(polled(at=60 * i, volume=i), interval=60) for i in (10, 8, 9, 8, 5, 7, 6, 5, 9)]

    assert counted(*log, calls=calls) == ([10, 8, 9, 5, 7, 6], 3)


@pytest.mark.parametrize("calls", [True, False])
def test_polls_of_several_intervals_of_one_series_meet(calls):
    """Every tenth poll of 60 s is the one of 600 s: the same id, one sample."""
    log = [message(polled(at=60 * i, volume=i), interval=60) for i in range(11)]
    slow = [message(polled(at=600 * i, volume=100 + i), interval=600) for i in (0, 1)]

    assert counted(*log, *slow, calls=calls) == (list(range(11)), 2)
    assert counted(*slow, *log, calls=calls) == ([100, 101, *range(1, 10)], 2)


@pytest.mark.parametrize("calls", [True, False])
def test_sources_and_series_are_told_apart(calls):
    given_ = [
        polled(),
        polled("n"),
        polled(resource="s"),
        polled(source="elsewhere"),
        polled(at=7),
        polled(at=7, source="elsewhere"),
    ]

    assert counted(message(*given_, interval=60), calls=calls)[1] == 0
    assert counted(message(*given_, interval=60), message(*given_, interval=60), calls=calls)[1] == 6


def test_a_pushed_copy_of_a_polled_sample_is_not_recognised_but_only_once():
    """The series' periods stand for the ids of polled samples: docs/semantics.md. The stores know better."""
    one = polled(volume=1)

    assert counted(message(one, interval=60), message(one), message(one)) == ([1, 1], 1)


def test_what_lies_beyond_the_horizon_is_let_through():
    short = plan({"k": []}, dedupe_horizon=480, lateness=0)
    one = sample(volume=1)

    within = [message(one), message(mark=480), message(one)]
    beyond = [message(one), message(mark=9 * 60 + 1), message(one)]

    assert counted(*within, the_plan=short) == ([1], 1)
    assert counted(*beyond, the_plan=short) == ([1, 1], 0)


def test_a_mark_that_lies_ahead_forgets_nothing():
    short = plan({"k": []}, dedupe_horizon=480, lateness=0)
    one = sample(volume=1)

    assert counted(
        message(one, appended=0), message(mark=5000, appended=10), message(one, appended=11), the_plan=short
    ) == (
        [1],
        1,
    )


def test_the_memory_of_ids_is_given_back():
    short = plan({"k": []}, dedupe_horizon=480, lateness=0)
    state = State(short)
    for i in range(300):
        feed(short, state, message(*(sample(at=60 * i) for _ in range(5))))

    assert len(state.ids.of) <= 5 * (BUCKETS + 2)
    assert len(state.ids.buckets) <= BUCKETS + 1


def test_the_usual_case_takes_no_memory_for_gaps_or_ids():
    state = State(KEPT)
    for i in range(200):
        feed(KEPT, state, message(*(polled(at=60 * i, resource=f"r{r}") for r in range(5)), interval=60))

    assert (state.periods.gaps, state.ids.of) == ({}, {})
    assert len(state.periods.index) == 5


def test_gaps_older_than_the_horizon_are_given_back():
    state = State(KEPT)
    for i in range(0, 400, 2):
        feed(KEPT, state, message(polled(at=60 * i), interval=60))
    ((gaps),) = state.periods.gaps.values()

    assert len(gaps) <= 3600 / 120 + 2


times = st.lists(st.integers(0, 40), min_size=1, max_size=30)


@given(times)
def test_periods_are_a_set_of_what_was_seen(order):
    """Against the obvious: a set."""
    periods = Periods()
    slot = int(periods.find(*(np.array([0], np.int32) for _ in range(2)), 0)[0])
    first, seen = order[0], {order[0]}
    periods.columns["time"][slot] = periods.columns["first"][slot] = first * 60
    for time in order[1:]:
        assert periods.seen(slot, time * 60, 60, 10**9) == (time in seen)
        seen.add(time)
    missing = {t for a, b in periods.gaps.get(slot, []) for t in range(a // 60, b // 60 + 1)}
    assert missing == set(range(min(seen), max(seen) + 1)) - seen


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 900)), max_size=40))
def test_ids_are_known_for_eight_buckets(steps):
    """Against the obvious: the bucket in which each id was last accepted."""
    ids = SeenIds(480 * SECOND)
    known, watermark = {}, 0
    for number, step in steps:
        watermark += step * SECOND
        bucket, raw = ids.bucket(watermark), bytes([number]) * 16
        double = raw in known and bucket - known[raw] <= BUCKETS
        assert ids.double(raw, bucket) == double
        if not double:
            known[raw] = bucket
        ids.expire(watermark)
        copy = SeenIds(480 * SECOND)
        copy.load(ids.dump())
        assert (copy.of, {k: v for k, v in copy.buckets.items() if v}) == (
            ids.of,
            {k: v for k, v in ids.buckets.items() if v},
        )


def test_the_bucket_before_any_watermark_is_that_of_zero():
    ids = SeenIds(480 * SECOND)

    assert ids.bucket(MIN_TIME) == ids.bucket(-5) == ids.bucket(0) == 0
    assert ids.bucket(60 * SECOND) == 1


def test_a_dump_of_ids_does_not_change_afterwards():
    ids = SeenIds(480 * SECOND)
    ids.double(b"a" * 16, 0)
    dumped = ids.dump()
    ids.double(b"b" * 16, 0)

    assert dumped == {0: b"a" * 16}
    assert ids.dump() == {0: b"a" * 16 + b"b" * 16}
