"""Writing: what comes back is what went in, once, whatever the batches and their order."""

import random
from contextlib import suppress

import pytest
from hypothesis import strategies as st

from nephoscope.errors import StoreError
from nephoscope.filters import Compare
from nephoscope.sample import metadata_text
from nephoscope.store import ListQuery, SampleQuery, Written
from nephoscope.times import NEVER
from tests.sinks.made import START, by_id, polled, rows
from tests.sinks.oracle import Oracle
from tests.sinks.strategies import holds_for, written


@holds_for(written())
def test_any_split_order_and_repetition_gives_the_first_of_each_id(fresh_store, writes):
    oracle = Oracle()
    with fresh_store() as store:
        for batches in writes:
            given_rows = [s for batch in batches for s in batch]
            new = oracle.write(given_rows)

            counted = store.write([rows(*batch) for batch in batches])

            assert counted == Written(len(given_rows), new, len(given_rows) - new)
        assert by_id(store.each_sample()) == by_id(oracle.samples())
        assert list(store.resources(ListQuery(limit=None)).resources) == oracle.resources()
        assert list(store.meters(ListQuery(limit=None)).meters) == oracle.meters()
        for resource in {s.resource_id for s in oracle.samples()}:
            assert store.history(resource) == oracle.history(resource)


def test_samples_of_one_resource_and_time_that_come_one_by_one_are_all_kept(store):
    samples = [polled(f"m{n}", volume=float(n), project_id=f"p{n % 3}") for n in range(40)]
    random.Random(4).shuffle(samples)
    for sample in samples:
        assert store.write(rows(sample)) == Written(1, 1, 0)

    assert by_id(store.each_sample()) == by_id(samples)


def test_the_first_values_of_an_id_stay(store):
    first = polled(volume=1.0, metadata='{"a":1}')
    store.write(rows(first))

    again = polled(volume=2.0, type="cumulative", unit="B", metadata='{"a":2}', user_id="u", late=True)
    assert store.write(rows(again)) == Written(1, 0, 1)

    assert list(store.each_sample()) == [first]
    assert [m.type for m in store.meters(ListQuery()).meters] == ["gauge"]
    assert [s.metadata for s in store.history("r1")] == ['{"a":1}']


def test_a_pushed_id_is_known_under_another_resource_and_time(store):
    """A client that sends its idempotency key again, but stamps the sample anew."""
    first = polled(id=b"k" * 16)
    store.write(rows(first))

    assert store.write(rows(polled("mem", "r2", 90, id=b"k" * 16))).stored == 0

    assert list(store.each_sample()) == [first]
    assert [r.resource_id for r in store.resources(ListQuery()).resources] == ["r1"]


def test_pushed_samples_with_the_same_meter_resource_and_time_are_all_kept(store):
    samples = [polled(volume=float(n), id=bytes([n]) * 16) for n in range(5)] + [polled()]
    store.write(rows(*samples))

    assert by_id(store.each_sample()) == by_id(samples)


def test_an_origin_that_nobody_can_read_is_kept(store):
    samples = [
        polled(id=bytes([n]) * 16, origin=text) for n, text in enumerate(("{", "[]", "7", "[[1]]", '["a"]', "[" * 5000))
    ]
    store.write(rows(*samples))

    assert by_id(store.each_sample()) == by_id(samples)


HOSTILE = (
    "nul\x00end",
    "'; DROP TABLE record; --",
    '"',
    "\u202ecba",
    "Case",
    "case",
    " ",
    "a ",
    "%_",
    "\U0001f329",
    "a.b",
    "$set",
    "x" * 100_000,
)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_come_back_as_they_went_in_or_are_refused_with_a_reason(store, text):
    sample = polled(text, text, unit=text, user_id=text, project_id=text, source=text, id=b"h" * 16)
    store.write(rows(polled()))
    if len(text) > 1024:
        with suppress(StoreError):
            store.write(rows(sample))
            assert sample in store.each_sample()
        assert "cpu" in {s.name for s in store.each_sample()}
        return
    store.write(rows(sample))
    for field in ("name", "resource_id", "user_id", "project_id", "source", "unit"):
        assert store.samples(SampleQuery(filter=Compare(field, "=", text))).samples == (sample,)
    assert text in {r.resource_id for r in store.resources(ListQuery()).resources}


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(HOSTILE[:-1])
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@holds_for(
    st.lists(
        st.tuples(WORDS, WORDS, WORDS, WORDS, WORDS, st.dictionaries(WORDS, TREES, max_size=4)), min_size=1, max_size=4
    )
)
def test_any_text_and_any_metadata_comes_back_as_it_went_in(fresh_store, some):
    samples = [
        polled(name or "n", resource or "r", n, unit=unit, user_id=user, source=source, metadata=metadata_text(metadata), id=bytes([n]) * 16)
        for n, (name, resource, unit, user, source, metadata) in enumerate(some)
    ]  # fmt: skip
    with fresh_store() as store:
        store.write(rows(*samples))

        assert by_id(store.each_sample()) == by_id(samples)
        for sample in samples:
            for key in sample.resource_metadata:
                if (
                    key
                    and (value := sample.resource_metadata[key]) is not None
                    and isinstance(value, str | int | float)
                ):
                    found = store.each_sample(Compare(f"metadata.{key}", "=", value))
                    assert sample.id in {s.id for s in found}


def test_metadata_of_a_megabyte_and_odd_keys_comes_back_as_it_went_in(store):
    deep = '{"a":' * 200 + "1" + "}" * 200
    texts = [
        '{"k":"' + "x" * 1_000_000 + '"}',
        deep,
        '{"a.b":1,"$k":2,"":3,"A":4,"a":5}',
        '{"n" : 1e400}',
        '{"\\u0000":"\\ud83c\\udf29"}',
    ]
    samples = [polled(at=n, metadata=text) for n, text in enumerate(texts)]
    store.write(rows(*samples))

    assert by_id(store.each_sample()) == by_id(samples)


@pytest.mark.parametrize("together", [True, False])
def test_odd_numbers_come_back_bit_for_bit(store, together):
    """In one record, whose form must have room for all of them, and in one each."""
    volumes = [0.0, -0.0, 5e-324, 1.7976931348623157e308, 0.1, 2**53 + 1.0, 1.0, 1.0]
    near = 2**31
    measured = [NEVER, NEVER + 1, 2**63 - 1, 0, START + near - 1, START + near, START - near, START - near + 1]
    samples = [
        polled(f"m{n}", "r" if together else f"r{n}", volume=v, measured_at=m)
        for n, (v, m) in enumerate(zip(volumes, measured, strict=True))
    ]
    store.write(rows(*samples))

    got = by_id(store.each_sample())

    assert got == by_id(samples)
    assert [str(s.volume) for s in got] == [str(s.volume) for s in by_id(samples)]


def test_only_what_a_row_uses_is_stored_of_a_dictionary(store):
    """A slice carries the dictionaries of the whole batch."""
    whole = rows(*(polled(resource=f"r{n}", user_id=f"u{n}") for n in range(50)))

    store.write(whole.slice(7, 1))

    assert [r.resource_id for r in store.resources(ListQuery()).resources] == ["r7"]
    assert [(s.resource_id, s.user_id) for s in store.each_sample()] == [("r7", "u7")]


def test_writing_nothing_is_nothing(store):
    assert store.write(rows()) == Written()
    assert store.write([]) == Written()
