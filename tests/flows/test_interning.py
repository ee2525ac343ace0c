"""Strings as numbers, series as slots: each its own, given back when forgotten, and the same after a dump."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.interning import Columns, Interner, Repeats, SeriesIndex, as_slice, numbers_of, repeats

words = st.lists(st.text(max_size=3), max_size=30)


def flags(size, *on):
    out = np.zeros(size, bool)
    out[list(on)] = True
    return out


@given(words)
def test_every_string_has_one_number_in_the_order_of_first_sight(given_):
    pool = Interner()
    numbers = pool.numbers_of(given_)

    assert [pool.values[n] for n in numbers] == given_
    assert list(dict.fromkeys(numbers.tolist())) == list(range(len(set(given_))))
    assert [pool.number(w) for w in given_] == numbers.tolist()
    assert pool.arrow().to_pylist() == pool.values
    assert len(pool) == len(set(given_))


@given(words, words, st.randoms())
def test_after_a_sweep_numbers_are_dealt_anew_but_none_twice(before, after, some):
    pool = Interner()
    numbers = dict(zip(before, pool.numbers_of(before).tolist(), strict=True))
    kept = {w for w in numbers if some.random() < 0.5}
    size = len(pool.values)
    pool.sweep(flags(size, *(numbers[w] for w in kept)))
    assert len(pool) == len(kept)

    dealt = dict(zip(after, pool.numbers_of(after).tolist(), strict=True))

    assert all(pool.number(w) == numbers[w] for w in kept)
    everything = {w: pool.number(w) for w in kept | set(after)}
    assert len(set(everything.values())) == len(everything)
    assert all(pool.values[n] == w for w, n in (dealt | everything).items())
    assert all(pool.arrow()[n].as_py() == w for w, n in everything.items())
    assert len(pool.values) <= max(size, len(everything)), "free numbers go first"


def test_a_swept_string_comes_back_as_a_new_one():
    pool = Interner(["a", "b", "c"])
    pool.sweep(flags(3, 1))

    assert len(pool) == 1
    assert pool.number("x") in (0, 2)
    assert pool.number("a") in (0, 2)
    assert pool.number("c") == 3
    assert pool.number("b") == 1


def test_sweeping_twice_frees_nothing_twice():
    pool = Interner(["a", "", "b"])
    for _ in range(3):
        pool.sweep(flags(3, 2))
    got = [pool.number(w) for w in ("p", "q", "r")]

    assert sorted(got) == [0, 1, 3]


@given(words, words, st.randoms())
def test_a_pool_is_packed_and_unpacked_with_its_holes(before, after, some):
    pool = Interner()
    pool.numbers_of(before)
    pool.pack()
    pool.sweep(np.array([some.random() < 0.5 for _ in pool.values], bool))
    copy = Interner.unpack(pool.pack())

    assert (copy.numbers, len(copy)) == (pool.numbers, len(pool))
    assert copy.numbers_of(after).tolist() == pool.numbers_of(after).tolist()
    assert Interner.unpack(copy.pack()).numbers == pool.numbers


keys = st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 20), max_size=30)


@given(st.lists(keys, max_size=6))
def test_every_key_has_a_slot_of_its_own_and_keeps_it(calls):
    index = SeriesIndex()
    known = {}
    for call in calls:
        for key, slot in zip(call, index.find(np.array(call, np.int64)).tolist(), strict=True):
            assert known.setdefault(key, slot) == slot

    assert sorted(known.values()) == list(range(len(known)))
    assert len(index) == index.size == len(known)
    assert index.keys.tolist() == sorted(known)


def test_new_keys_lie_in_the_order_of_first_sight():
    """So that what comes together is read and written as a slice."""
    index = SeriesIndex()
    assert index.find(np.array([30, 10, 20, 10])).tolist() == [0, 1, 2, 1]
    assert index.find(np.array([20, 5, 10])).tolist() == [2, 3, 1]


@given(st.lists(st.tuples(keys, st.integers(0, 3)), max_size=8))
def test_slots_are_given_back_and_used_again(calls):
    index = SeriesIndex()
    known = {}
    peak = 0
    for call, modulus in calls:
        known |= dict(zip(call, index.find(np.array(call, np.int64)).tolist(), strict=True))
        assert len(set(known.values())) == len(known)
        peak = max(peak, len(known))
        dead = np.zeros(index.size, bool)
        for key in [k for k in known if modulus and k % modulus == 0]:
            dead[known.pop(key)] = True
        index.release(dead)
        assert dict(zip(index.keys.tolist(), index.slots.tolist(), strict=True)) == known

    assert index.size == peak


@given(keys, keys, st.integers(1, 3))
def test_an_index_is_dumped_and_loaded(before, after, modulus):
    index = SeriesIndex()
    slots = index.find(np.array(before, np.int64))
    index.release(flags(index.size, *slots[np.array(before, np.int64) % modulus == 0].tolist()))
    dumped = index.dump()
    copy = SeriesIndex()
    copy.load(*dumped)
    index.find(np.array(after, np.int64))
    again = SeriesIndex()
    again.load(*dumped)

    assert copy.keys.tolist() == again.keys.tolist(), "what was dumped does not change"
    got = copy.find(np.array(after, np.int64))
    assert len(set(copy.slots.tolist())) == len(copy)
    assert copy.size == index.size
    assert [copy.find(np.array([k]))[0] for k in after] == got.tolist()


def test_slots_without_a_key_are_not_free_after_a_load():
    index = SeriesIndex()
    index.find(np.array([1, 2]))
    (own,) = index.allocate(1)
    copy = SeriesIndex()
    copy.load(*index.dump())
    copy.reserve([int(own)])

    assert int(own) not in copy.find(np.array([3, 4])).tolist()
    copy.give_back(int(own))
    assert copy.allocate(1).tolist() == [int(own)]


def test_columns_grow_with_their_fill_values_and_forget_on_request():
    columns = Columns({"time": (np.int64, -1), "volume": (np.float64, 0.5)})
    columns.ensure(3)
    columns["time"][:3] = [1, 2, 3]
    columns.ensure(1000)
    assert columns["time"][:4].tolist() == [1, 2, 3, -1]
    assert columns["volume"][999] == 0.5

    dumped = columns.dump(3)
    columns.clear([1])
    assert columns["time"][:3].tolist() == [1, -1, 3]
    assert dumped["time"].tolist() == [1, 2, 3], "a dump is a copy"

    columns.load(dumped, 3)
    columns.ensure(5)
    assert columns["time"][:5].tolist() == [1, 2, 3, -1, -1]


@pytest.mark.parametrize(
    "slots,sliced",
    [
        ([], False),
        ([5], True),
        ([3, 4, 5], True),
        ([2, 4, 6], True),
        ([3, 5, 4], False),
        ([3, 3, 5], False),
        ([3, 3], False),
        ([5, 4], False),
        ([0, 1, 3, 3], False),
    ],
)
def test_slots_at_a_constant_distance_are_a_slice(slots, sliced):
    array = np.array(slots, np.int32)
    got = as_slice(array)

    assert isinstance(got, slice) == sliced
    assert numbers_of(got).tolist() == np.arange(10)[got].tolist() == slots


@given(st.lists(st.integers(0, 5), max_size=20))
def test_repeats_tell_the_rows_of_a_slot_in_order(given_):
    slots = np.array(given_, np.int32)
    found = repeats(slots, 6)
    assert (found is None) == (len(set(given_)) == len(given_))
    if found is None:
        return

    assert isinstance(found, Repeats)
    assert [given_[i] for i in found.order] == sorted(given_)
    rounds = [r.tolist() for r in found.rounds]
    assert sorted(i for r in rounds for i in r) == list(range(len(given_)))
    for number, rows in enumerate(rounds):
        assert [given_[:i].count(given_[i]) for i in rows] == [number] * len(rows)
    assert dict(zip(found.slots.tolist(), found.lengths.tolist(), strict=True)) == {s: given_.count(s) for s in given_}
    assert [given_[found.order[i]] for i in found.tail] == found.slots.tolist()
    assert found.order[found.tail].tolist() == [
        max(i for i, s in enumerate(given_) if s == slot) for slot in found.slots
    ]


def test_what_precedes_each_row():
    slots = np.array([2, 0, 2, 2, 0])
    found = repeats(slots, 3)
    now = np.array([20.0, 1.0, 21.0, 22.0, 2.0])[found.order]

    assert found.before(np.array([100.0, 101.0, 102.0]), now).tolist() == [100.0, 1.0, 102.0, 20.0, 21.0]


def test_a_million_keys_take_a_few_bytes_each():
    index = SeriesIndex()
    some = np.array(random.Random(1).sample(range(2**60), 50_000))
    for part in np.array_split(some, 5):
        index.find(part)

    assert index.keys.nbytes + index.slots.nbytes == 12 * 50_000
