"""Natural ids: those that follow from what a store keeps anyway."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope import identity, natural
from nephoscope.batch import batch_of, compact
from nephoscope.natural import Kind
from nephoscope.sample import Sample
from tests.sinks.made import START
from tests.sinks.strategies import derived_id, samples


def sample(origin="", **rest):
    values = {"name": "cpu", "type": "gauge", "unit": "%", "volume": 1.0, "resource_id": "r", "timestamp": START}
    values |= {"id": b"\0" * 16} | rest
    return Sample(origin=origin, **values)


@settings(max_examples=50, deadline=None)
@given(st.lists(samples(), min_size=1, max_size=20))
def test_a_row_is_natural_where_its_own_id_is_the_one_that_its_key_gives(some):
    ids, mask = natural.natural_ids(batch_of(some).rows)

    for row, one in enumerate(some):
        key = derived_id(one.origin or identity.raw_origin(one.source, one.name), one.resource_id, one.timestamp)
        assert ids[row].tobytes() == key
        assert mask[row] == (one.id == key)


def test_a_polled_sample_is_natural():
    own = identity.polled_id("openstack", "cpu", "r", START)

    assert natural.natural_ids(batch_of([sample(id=own)]).rows)[1].tolist() == [True]
    assert natural.natural_ids(batch_of([sample(id=own, source="other")]).rows)[1].tolist() == [False]


def test_a_slice_and_shared_dictionaries_make_no_difference():
    some = [sample(resource_id=f"r{n}", name=f"m{n % 3}", timestamp=START + n) for n in range(40)]
    rows = batch_of(some).rows
    whole, _ = natural.natural_ids(rows)

    part, _ = natural.natural_ids(rows.slice(11, 9))
    small, _ = natural.natural_ids(compact(rows.slice(11, 9)))

    assert (part == whole[11:20]).all()
    assert (small == whole[11:20]).all()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[[]]", "[[1,2,3]]", '["a"]', "null", "[" * 3000, '{"0":1}', "[[null,null]]"]
)
def test_an_origin_that_means_nothing_gives_no_natural_row_and_no_error(text):
    rows = batch_of([sample(text, id=b"x" * 16), sample(id=b"y" * 16)]).rows

    assert natural.natural_ids(rows)[1].tolist() == [False, False]


def test_kinds_are_told_apart_by_every_part():
    some = [
        sample(),
        sample(name="mem"),
        sample(type="delta"),
        sample(unit="B"),
        sample(source="s"),
        sample("[1]"),
        sample(),
    ]
    which, kinds = natural.kinds_of(batch_of(some).rows)

    assert len(kinds) == 6
    assert which[0] == which[6]
    assert [kinds[w] for w in which] == [Kind(s.name, s.type, s.unit, s.source, s.origin) for s in some]


def test_dictionaries_of_hostile_size_do_not_overflow():
    n = 3000
    some = [sample(f"[{i}]", name=f"n{i}", unit=f"u{i}", source=f"s{i}") for i in range(n)]
    columns = [(np.arange(n), 2**20)] * 5

    which, kinds = natural.kinds_of(batch_of(some).rows)
    numbers, _ = natural.combined(columns)

    assert len({kinds[w] for w in which}) == n
    assert len(set(numbers.tolist())) == n


def test_distinct_numbers_with_and_without_a_bound():
    numbers = np.array([7, 3, 7, 7, 0, 3])

    for which, values in (natural.distinct(numbers), natural.distinct(numbers, 8)):
        assert [values[w] for w in which] == numbers.tolist()
        assert sorted(values.tolist()) == [0, 3, 7]


def test_content_is_that_of_the_values_alone():
    whole = pa.array(["x", "a", "bc", ""])
    assert natural.content(whole.slice(1, 2)) != natural.content(pa.array(["ab", "c"]))
    assert natural.content(pa.array(["a", "bc"])) == natural.content(pa.array(["a", "bc"]))
    assert natural.content(pa.array([], pa.utf8())) != natural.content(pa.array([""]))
