"""Snapshots: a state goes on after one as if nothing had been, under a changed plan as far as it can; nothing else is taken for one."""

from __future__ import annotations

import pickle
import random

import pytest

from flows.snapshot import Snapshot, SnapshotError, restore, take
from flows.stage import finish
from flows.state import State
from flows.transformers import BUILT_IN
from nephoscope.batch import Batch
from tests.flows.made import facts, feed, message, plan, polled, published, sample

CHAINS = {
    "none": [],
    "rate_of_change": [("rate_of_change", {"target": {"name": "rate", "scale": "2 / (resource_metadata.n or 1)"}})],
    "delta": [("delta", {"growth_only": True})],
    "unit_conversion": [("unit_conversion", {"target": {"unit": "kB", "scale": 0.001}})],
    "arithmetic": [("arithmetic", {"target": {"name": "sum", "expr": "$(a) + $(b)"}, "interval": 120, "hold": 300})],
    "arithmetic, attributes": [("arithmetic", {"target": {"name": "sum", "expr": "$(a) * $(b).resource_metadata.n"}})],
    "aggregator": [("aggregator", {"retention_time": 120})],
    "aggregator of a size": [("aggregator", {"size": 3, "user_id": "last", "project_id": "first"})],
    "aggregator of both": [("aggregator", {"size": 3, "retention_time": 300, "resource_metadata": "first"})],
    "accumulator": [("accumulator", {"size": 5})],
    "chain": [
        ("accumulator", {"size": 3}),
        ("aggregator", {"retention_time": 60}),
        ("rate_of_change", {"target": {"name": "r"}}),
        ("arithmetic", {"target": {"name": "x", "expr": "$(r) * 2"}}),
        ("delta", {}),
    ],
}


def log(seed=1, messages=24):
    """Polled and pushed samples, late ones, doubles, gaps and marks."""
    some = random.Random(seed)
    out = []
    for number in range(messages):
        now = 40 * number
        if number % 7 == 6:
            out.append(message(mark=now, offset=number))
            continue
        interval = some.choice((0, 60))
        given = []
        for _ in range(some.randrange(1, 9)):
            at = now - some.choice((0, 0, 0, 60, 600))
            fields = {
                "name": some.choice("ab"),
                "volume": float(some.randrange(100)),
                "resource": f"r{some.randrange(3)}",
                "user_id": f"u{some.randrange(2)}",
                "metadata": f'{{"n":{some.randrange(1, 4)}}}',
                "type": some.choice(("gauge", "delta", "cumulative")),
            }
            given.append(polled(at=at // 60 * 60, **fields) if interval else sample(at=at, **fields))
        out.append(message(*given, offset=number, interval=interval))
    return out


def same_state(left, right, the_plan):
    """Whether two states hold the same: their snapshots do."""
    return take(the_plan, left).to_bytes() == take(the_plan, right).to_bytes()


def through(snapshot):
    """As an engine keeps it: pickled, on disk."""
    return pickle.loads(pickle.dumps(snapshot))


def test_all_transformers_are_here():
    assert {step for chain in CHAINS.values() for step, _ in chain} == set(BUILT_IN)


@pytest.mark.parametrize("chain", CHAINS)
def test_a_state_goes_on_after_a_snapshot_at_any_point_as_if_nothing_had_been(chain):
    the_plan = plan({"k": CHAINS[chain]}, lateness=60, dedupe_horizon=960, series_ttl=600)
    messages = log()
    state = State(the_plan)
    snapshots, outputs = [], []
    for one in messages:
        snapshots.append(take(the_plan, state))
        outputs.append(feed(the_plan, state, one))
    end = finish(the_plan, state)
    assert sum(len(published(o)) for o in [*outputs, end]) > 5

    for at in range(0, len(messages), 3):
        again = restore(the_plan, through(snapshots[at]))
        for one, want in zip(messages[at:], outputs[at:], strict=True):
            got = feed(the_plan, again, one)
            assert published(got) == published(want)
            assert {k: v for k, v in got.counts.items() if v} == {k: v for k, v in want.counts.items() if v}
        assert published(finish(the_plan, again)) == published(end)


@pytest.mark.parametrize("chain", CHAINS)
def test_what_is_restored_has_the_same_snapshot(chain):
    the_plan = plan({"k": CHAINS[chain]}, lateness=60, series_ttl=600)
    state = State(the_plan)
    for one in log():
        feed(the_plan, state, one)
        snapshot = through(take(the_plan, state))
        assert restore(the_plan, snapshot).watermark == state.watermark
        again = restore(the_plan, through(take(the_plan, restore(the_plan, snapshot))))
        assert same_state(restore(the_plan, snapshot), again, the_plan)


def test_a_snapshot_written_later_is_of_the_moment_when_it_was_taken():
    the_plan = plan({name: chain for name, chain in CHAINS.items() if chain}, lateness=60)
    state = State(the_plan)
    messages = log()
    for one in messages[:10]:
        feed(the_plan, state, one)
    at_once, later = take(the_plan, state), take(the_plan, state)
    raw = at_once.to_bytes()
    for one in messages[10:]:
        feed(the_plan, state, one)

    assert later.to_bytes() == raw


def test_an_empty_state_has_a_snapshot():
    the_plan = plan(CHAINS)
    again = restore(the_plan, through(take(the_plan, State(the_plan))))

    assert same_state(again, State(the_plan), the_plan)
    assert len(take(the_plan, again).to_bytes()) < 5000


RATE, DELTA = CHAINS["rate_of_change"], CHAINS["delta"]
WINDOW = CHAINS["aggregator"]


def by_sink(the_plan, state, one):
    """What each sink publishes."""
    out = {}
    for sink, rows in feed(the_plan, state, one, exact=True).sinks:
        out.setdefault(sink, []).extend(facts(Batch(rows).samples()))
    return out


def moved(before, after, **options):
    """The state of one plan, half way through a log, under another; and the state that the other plan has there by itself."""
    messages = log()
    old, new = (plan(sinks, lateness=60, **options) for sinks in (before, after))
    state, own = State(old), State(new)
    for one in messages[:12]:
        feed(old, state, one)
        feed(new, own, one)
    return new, restore(new, through(take(old, state))), own, messages[12:]


def test_under_a_changed_plan_the_steps_that_stayed_keep_their_state_whatever_their_number():
    before = {"gone": RATE, "d": DELTA, "r": RATE, "w": WINDOW, "also gone": WINDOW}
    after = {"new": DELTA, "w": WINDOW, "r": RATE, "d": DELTA}
    new, state, own, rest = moved(before, after)

    for one in rest:
        got, want = by_sink(new, state, one), by_sink(new, own, one)
        for kept in ("d", "r", "w"):
            assert got.get(kept) == want.get(kept)


def test_a_new_step_begins_anew_and_does_not_inherit():
    new, state, _, _ = moved({"a": RATE, "b": RATE}, {"b": RATE, "c": RATE})
    got = feed(new, state, message(*(sample(name, 2000, 50, f"r{r}") for name in "ab" for r in range(3))))

    assert got.counts["rate_of_change", "first"] == 6
    assert len(published(got)) == 6


@pytest.mark.parametrize(
    "before,after",
    [
        ([("delta", {}), *RATE], RATE),  # another position
        (DELTA, RATE),  # another kind
        (RATE, [("aggregator", {"retention_time": 60})]),
    ],
)
def test_a_step_of_another_place_or_kind_is_another(before, after):
    new, state, _, _ = moved({"k": before}, {"k": after})
    fresh = State(new)
    one = message(*(sample(name, 2000, 50, f"r{r}") for name in "ab" for r in range(3)))

    assert by_sink(new, state, one) == by_sink(new, fresh, one)


CHANGES = {
    "a longer window": (WINDOW, [("aggregator", {"retention_time": 300})]),
    "windows to sizes": (WINDOW, [("aggregator", {"size": 4})]),
    "sizes to windows": ([("aggregator", {"size": 50})], WINDOW),
    "users merged": (WINDOW, [("aggregator", {"retention_time": 120, "user_id": "last"})]),
    "more meters": (
        [("arithmetic", {"target": {"name": "s", "expr": "$(a) + $(zz)"}, "interval": 6000})],
        [("arithmetic", {"target": {"name": "s", "expr": "$(b) + $(a) * $(c)"}, "interval": 6000})],
    ),
    "fewer meters": (
        [("arithmetic", {"target": {"name": "s", "expr": "$(a) + $(zz)"}, "interval": 6000, "hold": 60})],
        [("arithmetic", {"target": {"name": "s", "expr": "$(b)"}})],
    ),
    "an attribute": (
        [("arithmetic", {"target": {"name": "s", "expr": "$(a) + $(zz)"}, "interval": 6000})],
        [("arithmetic", {"target": {"name": "s", "expr": "$(a).resource_metadata.n + $(zz)"}, "interval": 6000})],
    ),
    "a smaller group": ([("accumulator", {"size": 500})], [("accumulator", {"size": 2})]),
    "no group": ([("accumulator", {"size": 500})], [("accumulator", {"size": 1})]),
    "another scale": (RATE, [("rate_of_change", {"target": {"name": "other", "scale": 3}})]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_step_with_other_parameters_goes_on(change):
    """What its state means under the new parameters is nowhere said; but it runs, and after a while it does what a new one does."""
    before, after = CHANGES[change]
    new, state, own, rest = moved({"k": before}, {"k": after})
    for one in rest:
        feed(new, state, one)
        feed(new, own, one)
    restored = restore(new, through(take(new, state)))
    finish(new, restored)
    for number in range(4):
        one = message(*(sample(name, 10**6 + 9000 * number, 5.0 + number, "later") for name in "abc"))
        feed(new, state, one)
        feed(new, own, one)
    last = message(*(sample(name, 2 * 10**6, 7.0, "later") for name in "abc"))
    if "group" not in change and "size" not in change:
        assert by_sink(new, state, last) == by_sink(new, own, last)


def test_what_no_plan_knows_any_more_is_dropped_at_the_next_snapshot():
    new, state, _, _ = moved({"a": RATE, "b": WINDOW}, {"k": []})

    assert take(new, state).parts()["steps"] == []
    assert "rate_of_change" not in take(new, state).parts()["series"]


GOOD = take(plan({"k": RATE}), State(plan({"k": RATE}))).to_bytes()


@pytest.mark.parametrize(
    "raw,said",
    [
        (b"", "no snapshot"),
        (b"NP", "no snapshot"),
        (b"NPHS", "no snapshot"),
        (b"nonsense" * 10, "no snapshot"),
        (pickle.dumps({"watermark": 1}), "no snapshot"),
        (GOOD[:4] + b"\x02" + GOOD[5:], "version 2"),
        (GOOD[:4] + b"\x00" + GOOD[5:], "version 0"),
        (GOOD[:-5], "damaged"),
        (GOOD[:20], "damaged"),
        (GOOD[:13], "damaged"),
        (GOOD[:9], "damaged"),
        (GOOD[:13] + b"\xff" * 40, "damaged"),
        (GOOD[:5] + b"\xff" * 8 + GOOD[13:], "damaged"),
    ],
    ids=lambda v: str(v[:12]),
)
def test_foreign_bytes_and_other_versions_are_refused(raw, said):
    the_plan = plan({"k": RATE})
    with pytest.raises(SnapshotError, match=said):
        restore(the_plan, Snapshot(raw=raw))


def test_a_snapshot_begins_with_its_name_and_version():
    assert GOOD[:5] == b"NPHS\x01"
    assert pickle.loads(pickle.dumps(Snapshot(raw=GOOD))).to_bytes() == GOOD
