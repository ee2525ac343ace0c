"""Expiry: what is older goes, what is not stays, and with a resource's last sample all that is known of it."""

import threading
import time

import msgspec
import pytest
from hypothesis import strategies as st

from nephoscope.batch import batch_of
from nephoscope.filters import EVERYTHING
from nephoscope.lifetimes import LifetimeClass, Lifetimes
from nephoscope.store import ListQuery
from nephoscope.times import SECOND, now
from tests.sinks.made import START, by_id, polled, rows
from tests.sinks.oracle import Oracle
from tests.sinks.strategies import TIMES, holds_for, written


def older(store, before, progress=None):
    """Expire what is stamped before a time, events not."""
    return store.expire(Lifetimes(samples=0), before, progress)


@pytest.mark.usefixtures("small_steps")
@holds_for(written(), written(), st.sampled_from(TIMES), st.sampled_from((0, 1, 30 * SECOND)))
def test_what_is_left_is_what_is_not_older(fresh_store, early, late, seconds, more):
    """Also where the same ids are written again afterwards: they are new then."""
    before = START + seconds * SECOND + more
    with fresh_store() as store:
        oracle = Oracle()
        for batches in early:
            oracle.write([s for batch in batches for s in batch])
            store.write([batch_of(batch).rows for batch in batches])
        all_samples, old_resources = len(oracle.by_id), {s.resource_id for s in oracle.samples()}

        done = older(store, before)
        oracle.expire(Lifetimes(samples=0), before)

        assert done.samples == all_samples - len(oracle.by_id)
        assert done.resources == len(old_resources - {s.resource_id for s in oracle.samples()})
        assert done.share == 1.0
        check(store, oracle)
        for batches in late:
            oracle.write([s for batch in batches for s in batch])
            store.write([batch_of(batch).rows for batch in batches])
        check(store, oracle)


@pytest.mark.usefixtures("small_steps")
@holds_for(
    written(),
    written(),
    st.sampled_from(TIMES),
    st.sampled_from((-1, 0, 60, 7200)),
    st.lists(st.sampled_from((-1, 0, 61, 299, 40_000)), min_size=2, max_size=2),
)
def test_each_class_lives_for_its_own_time(fresh_store, early, late, seconds, default, others):
    """Also where a later write brings what is due already: it goes with the next one.

    Ids that follow from other meters than the sample's own: those of one origin have one name here, as in life.
    """
    moment = START + seconds * SECOND + 1
    classes = (LifetimeClass("a", ("cpu",), others[0]), LifetimeClass("b", ("*.delta", "CPU"), others[1]))
    with fresh_store(Lifetimes(classes=tuple(c._replace(seconds=-1) for c in classes))) as store:
        lifetimes = Lifetimes(default, -1, classes)
        oracle = Oracle()
        for writes in (early, late):
            for batches in ([[_one_name_an_origin(s) for s in batch] for batch in batches] for batches in writes):
                oracle.write([s for batch in batches for s in batch])
                store.write([batch_of(batch).rows for batch in batches])
            check(store, oracle)
            there = len(oracle.by_id)
            oracle.expire(lifetimes, moment)

            assert store.expire(lifetimes, moment).samples == there - len(oracle.by_id)
            check(store, oracle)


def _one_name_an_origin(sample):
    return msgspec.structs.replace(sample, name="joined") if sample.origin.startswith("[[") else sample


def test_the_same_sample_under_other_classes_is_the_same_sample(store, make_store):
    """A changed list of meters holds for what is stamped a day later: a replay finds what is there."""
    sample = polled("cpu")
    store.write(rows(sample))
    other = make_store(Lifetimes(classes=(LifetimeClass("short", ("cpu",), 60),)))

    assert other.write(rows(sample)).stored == 0
    assert store.write(rows(sample)).stored == 0
    assert list(store.each_sample()) == [sample]


def test_a_new_number_of_seconds_holds_at_once(make_store):
    ages = {"cpu": 3600, "mem": 3600, "disk": 90 * 86_400}
    stamp = now() // SECOND * SECOND
    classes = (LifetimeClass("short", ("cpu",), -1),)
    store = make_store(Lifetimes(classes=classes))
    for name, age in ages.items():
        store.write(rows(polled(name, at=(stamp - START) // SECOND - age)))
    shorter = Lifetimes(86_400 * 30, -1, (LifetimeClass("short", ("cpu",), 60),))

    again = make_store(shorter)
    again.expire(shorter, now())

    assert [s.name for s in again.each_sample()] == ["mem"]
    assert again.check() == []


def check(store, oracle):
    assert by_id(store.each_sample()) == by_id(oracle.samples())
    assert list(store.resources(ListQuery(limit=None)).resources) == oracle.resources()
    assert list(store.meters(ListQuery(limit=None)).meters) == oracle.meters()
    for resource in {s.resource_id for s in oracle.samples()}:
        assert store.history(resource) == oracle.history(resource)


def test_a_meter_without_samples_is_gone_though_its_resource_lives(store):
    store.write(rows(polled("old"), polled("cpu", at=600)))
    older(store, START + 1 * SECOND)

    assert [m.name for m in store.meters(ListQuery()).meters] == ["cpu"]


def test_a_second_time_does_nothing(store):
    store.write(rows(*(polled(at=n) for n in range(0, 1000, 60))))
    before = START + 500 * SECOND

    assert older(store, before).samples == 9
    assert older(store, before).samples == 0
    assert older(store, START - 10**9).samples == 0


@pytest.mark.usefixtures("small_steps")
def test_progress_is_told_after_each_step(store):
    store.write(rows(*(polled(resource=f"r{n}", at=100 * (n % 30)) for n in range(90))))
    told = []

    older(store, START + 2000 * SECOND, told.append)

    assert len(told) > 3
    assert [t.samples for t in told] == sorted(t.samples for t in told)
    assert [t.share for t in told] == sorted(t.share for t in told)
    assert told[-1].samples == 60
    assert told[-1].share == 1.0


def test_two_at_once_and_a_writer_lose_nothing_and_leave_nothing(store, make_store):
    """What is young stays; what is old goes, except what the writer brings meanwhile."""
    for t in range(0, 12_000, 60):
        store.write(rows(*(polled(resource=f"r{n}", at=t) for n in range(50))))
    before = START + 9000 * SECOND
    other = make_store()
    done = []
    expirers = [threading.Thread(target=lambda s=s: done.append(older(s, before))) for s in (store, other)]
    for thread in expirers:
        thread.start()
    young = []
    while any(t.is_alive() for t in expirers):
        young.append(polled(resource=f"new{len(young) % 7}", at=10_000 + len(young)))
        assert store.write(rows(young[-1])).stored == 1
    for thread in expirers:
        thread.join()

    assert sum(d.samples for d in done) == 150 * 50
    left = list(store.each_sample(EVERYTHING))
    assert len(left) == 50 * 50 + len(young)
    assert by_id(s for s in left if s.resource_id.startswith("new")) == by_id(young)


def test_another_writer_forgets_the_numbers_that_were_removed(store, make_store):
    """Its memory names a resource, a state and metadata that are no more."""
    other = make_store()
    other.write(rows(polled(metadata='{"a":1}', user_id="u")))
    older(store, START + 1 * SECOND)
    store.write(rows(polled(resource="usurper", at=900, metadata='{"b":1}')))

    again = polled(at=1200, metadata='{"a":1}', user_id="u")
    other.write(rows(again))

    assert next(s for s in store.each_sample() if s.resource_id == "r1") == again


def test_writers_get_their_turn(kind, store, make_store):
    """While an expiry of many steps runs, a write waits for a step or two, not for the whole."""
    for t in range(0, 3000, 60):
        store.write(rows(*(polled(resource=f"r{n}", at=t) for n in range(60))))
    other = make_store()
    thread = threading.Thread(target=lambda: older(other, START + 3000 * SECOND))
    with kind.small_steps(20, pauses=True):
        begin = time.monotonic()
        thread.start()
        took = []
        while thread.is_alive():
            since = time.monotonic()
            store.write(rows(polled(at=4000 + len(took))))
            took.append(time.monotonic() - since)
        thread.join()

    assert len(took) > 10
    assert max(took) < (time.monotonic() - begin) / 2
