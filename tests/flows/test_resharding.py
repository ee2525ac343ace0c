"""States dealt anew to more partitions: what comes out afterwards is what an undisturbed run gives."""

from __future__ import annotations

import pickle
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.resharding import reshard
from flows.snapshot import restore, take
from flows.stage import finish
from flows.state import State
from nephoscope.errors import NephoscopeError
from nephoscope.partition import partition
from tests.flows.made import feed, message, plan, polled, published, sample
from tests.flows.test_snapshot import CHAINS

PLANS = {
    name: plan({"k": chain}, lateness=60, dedupe_horizon=960, series_ttl=600)
    for name, chain in CHAINS.items()
    if name != "chain"
}
RESOURCES = [f"instance-{n}" for n in range(12)]


def rounds(seed, count):
    """(now, polled samples, pushed samples) of each round: late ones, doubles and gaps among them."""
    some, out, old = random.Random(seed), [], []
    for number in range(count):
        now = 40 * number
        both = [], []
        for _ in range(some.randrange(1, 14)):
            fields = {
                "name": some.choice("ab"),
                "volume": float(some.randrange(100)),
                "resource": some.choice(RESOURCES),
                "user_id": f"u{some.randrange(2)}",
                "metadata": f'{{"n":{some.randrange(1, 4)}}}',
                "type": some.choice(("gauge", "delta", "cumulative")),
            }
            at = now - some.choice((0, 0, 0, 60, 600))
            if some.random() < 0.5:
                both[0].append(polled(at=at // 60 * 60, **fields))
            else:
                both[1].append(sample(at=at, **fields) if not old or some.random() < 0.8 else some.choice(old))
                old.append(both[1][-1])
        out.append((now, *both))
    return out


def run(the_plan, states, number, one, count):
    """One round: a mark for each partition, as agents send it, and each resource's samples to its own."""
    now, *both = one
    out = []
    for p in range(count):
        state = states.setdefault(p, State(the_plan))
        given = [message(mark=now, offset=3 * number)]
        for k, (samples, interval) in enumerate(zip(both, (60, 0), strict=True)):
            own = [s for s in samples if partition(s.resource_id, count) == p]
            given += [message(*own, offset=3 * number + k + 1, interval=interval)] if own else []
        out += published(feed(the_plan, state, *(replace_partition(m, p) for m in given)))
    return out


def replace_partition(one, number):
    return one._replace(partition=number)


def bare(samples):
    return sorted((s.id, s.name, s.resource_id, s.volume, s.timestamp, s.user_id, s.metadata, s.late, s.unit, s.type) for s in samples)  # fmt: skip


@pytest.mark.parametrize("chain", PLANS)
@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), at=st.integers(1, 11), counts=st.sampled_from([(1, 2), (2, 4), (4, 8), (3, 5)]))
def test_rates_and_windows_go_on_without_a_gap(chain, seed, at, counts):
    the_plan = PLANS[chain]
    made = rounds(seed, 12)
    before, after = counts
    states, wanted, got = {}, [], []
    for number, one in enumerate(made):
        wanted += run(the_plan, states, number, one, before)
    for p in range(before):
        wanted += published(finish(the_plan, states[p]))

    states = {}
    for number, one in enumerate(made):
        if number == at:
            kept = {p: pickle.loads(pickle.dumps(take(the_plan, s))) for p, s in states.items()}
            states = reshard(the_plan, {p: restore(the_plan, s) for p, s in kept.items()}, after)
            # As the recovery store has it.
            states = {p: restore(the_plan, pickle.loads(pickle.dumps(take(the_plan, s)))) for p, s in states.items()}
        got += run(the_plan, states, number, one, before if number < at else after)
    for p in range(after):
        got += published(finish(the_plan, states[p]))
    assert bare(got) == bare(wanted)


def test_a_state_that_cannot_be_divided_is_refused():
    the_plan = plan({"k": [("aggregator", {"size": 3})]})
    step = the_plan.steps[0]
    opaque = replace(step, transformer=replace(step.transformer, move=None))
    with pytest.raises(NephoscopeError, match="k\\[0\\]: the state of aggregator cannot be divided"):
        reshard(replace(the_plan, steps=(opaque,)), {}, 2)
