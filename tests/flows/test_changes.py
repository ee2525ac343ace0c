"""A changed pipeline takes over a state: what is published in all is what came in, and steps that did not change notice nothing."""

from __future__ import annotations

import pickle
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.snapshot import restore, take
from flows.stage import finish
from flows.state import State
from tests.flows.made import facts, feed, message, plan, published, sample

BEFORE_AND_AFTER = [
    {"retention_time": 60},
    {"retention_time": 120},
    {"retention_time": 60, "target": {"name": "renamed"}},
    {"retention_time": 120, "size": 3},
    {"size": 4},
    {"size": 2, "user_id": "last"},
    {"retention_time": 60, "resource_metadata": "drop", "timestamp": "last"},
]
OTHER = {"publishers": ["test://other"], "transformers": [{"name": "aggregator", "parameters": {"retention_time": 60}}]}
SIZES = {"lateness": 60, "series_ttl": 600}


def of(parameters):
    return plan({"sums": [("aggregator", parameters)], "other": OTHER}, **SIZES)


def log(seed, messages=16):
    """Deltas, some late; volumes are powers of two, so that a sum tells what it is made of as long as each comes once."""
    some = random.Random(seed)
    out, volumes = [], []
    for number in range(messages):
        samples = []
        for _ in range(some.randrange(5)):
            at = 25 * number - some.choice((0, 0, 0, 70, 400))
            volume = float(2 ** len(volumes) % (1 << 50)) if len(volumes) < 50 else 1.0
            volumes.append(volume)
            fields = {"type": "delta", "user_id": some.choice("uv"), "metadata": '{"a":1}'}
            samples.append(sample(at=at, volume=volume, resource=some.choice("rs"), **fields))
        out.append(message(*samples, offset=number, mark=None if samples else 25 * number))
    return out, sum(volumes)


def changed(snapshot, to):
    """The state under another plan, as a worker gets it from the recovery store."""
    return restore(to, pickle.loads(pickle.dumps(snapshot)))


@given(
    st.integers(0, 10_000),
    st.integers(0, 16),
    st.integers(0, 16),
    st.tuples(*(st.sampled_from(BEFORE_AND_AFTER) for _ in range(3))),
)
@example(0, 0, 16, (BEFORE_AND_AFTER[0], BEFORE_AND_AFTER[0], BEFORE_AND_AFTER[1]))
def test_the_sum_of_what_is_published_is_the_sum_of_what_came_in(seed, first, second, parameters):
    messages, total = log(seed)
    cuts = [0, *sorted((first, second)), len(messages)]
    plans = [of(p) for p in parameters]
    state, outputs, snapshot = State(plans[0]), [], None
    for number, one in enumerate(plans):
        if number:
            # While something is owed nothing has happened, and the engine keeps the snapshot that it resumed from.
            snapshot = take(plans[number - 1], state) if state.owed is None else snapshot
            state = changed(snapshot, one)
        outputs += [feed(one, state, m) for m in messages[cuts[number] : cuts[number + 1]]]
    outputs.append(finish(plans[-1], state))
    found = [s for o in outputs for s in published(o)]
    assert len({s.id for s in found}) == len(found), "an id twice: a store would keep one of them"
    assert sum(s.volume for s in found) == total

    undisturbed = State(plans[0])
    wanted = [s for m in messages for s in published(feed(plans[0], undisturbed, m), "test://other")]
    wanted += published(finish(plans[0], undisturbed), "test://other")
    got = [s for o in outputs for s in published(o, "test://other")]
    assert got == wanted


def test_what_was_open_goes_out_at_once_as_the_old_parameters_say():
    before, after = (
        of({"retention_time": 60, "target": {"name": "old"}}),
        of({"retention_time": 60, "target": {"name": "new"}}),
    )
    state = State(before)
    feed(before, state, message(sample(at=10, volume=1.0, type="delta"), sample(at=100, volume=2.0, type="delta")))
    snapshot = take(before, state)
    once, twice = changed(snapshot, after), changed(snapshot, after)
    assert facts(published(once.owed)) == [("old", "r", 1.0), ("old", "r", 2.0)]
    assert [s.id for s in published(once.owed)] == [s.id for s in published(twice.owed)], "a crash right after"
    more = feed(after, once, message(sample(at=110, volume=4.0, type="delta")))
    assert facts(published(more)) == [("old", "r", 1.0), ("old", "r", 2.0)], "with the first message, if not before"
    assert once.owed is None
    assert facts(published(finish(after, once))) == [("new", "r", 4.0)]


def test_an_unchanged_plan_owes_nothing():
    same = of({"retention_time": 60})
    state = State(same)
    feed(same, state, message(sample(at=10)))
    assert changed(take(same, state), of({"retention_time": 60})).owed is None


def test_steps_after_a_changed_one_get_what_it_closes():
    def chain(size):
        return plan({"k": [("aggregator", {"retention_time": size}), ("delta", {})]}, **SIZES)

    before, after = chain(60), chain(120)
    state = State(before)
    feed(before, state, message(sample(at=10, volume=1.0), sample(at=130, volume=5.0)))
    assert [s.volume for s in published(changed(take(before, state), after).owed)] == [4.0]


@pytest.mark.parametrize(
    "step, held",
    [
        (("aggregator", {"retention_time": 600}), 3),
        (("accumulator", {"size": 10}), 3),
        (("arithmetic", {"target": {"name": "x", "expr": "$(m) + $(n)"}}), 1),
        (("delta", {}), 0),
    ],
)
def test_what_a_step_that_is_gone_had_not_handed_on_is_counted(step, held, caplog):
    before, after = plan({"k": [step]}), plan({"k": []})
    state = State(before)
    feed(before, state, message(*(sample(at=t) for t in (10, 20, 30))))
    owed = changed(take(before, state), after).owed
    assert {k: v for k, v in owed.counts.items() if v} == ({(f"k[0]:{step[0]}", "step_gone"): held} if held else {})
    assert ("not in the pipeline any more" in caplog.text) == bool(held)
