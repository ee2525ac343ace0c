"""Cutting columns gives what making a batch for each partition gives: the same rows, and no word that they do not use."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.batch import PUSHED, batch_of, decode, encode
from nephoscope.grouping import grouped
from nephoscope.partition import partition
from nephoscope.sample import Sample

WORDS = st.sampled_from(["", "a", "b", "ü", "c" * 9])
SAMPLES = st.builds(
    Sample,
    name=WORDS,
    type=st.sampled_from(["gauge", "delta"]),
    unit=WORDS,
    volume=st.floats(allow_nan=False),
    resource_id=st.integers(0, 30).map(str),
    timestamp=st.integers(0, 10**15),
    user_id=WORDS,
    metadata=st.integers(0, 9).map(str),
    source=st.just("openstack"),
    id=st.binary(min_size=16, max_size=16),
    late=st.booleans(),
)


@given(st.lists(SAMPLES, max_size=60), st.integers(1, 64))
def test_as_a_batch_for_each_partition(samples, partitions):
    apart = {}
    for sample in samples:
        apart.setdefault(partition(sample.resource_id, partitions), []).append(sample)
    found = dict(grouped(samples, PUSHED, partitions))
    assert {number: list(batch.samples()) for number, batch in found.items()} == apart
    for number, batch in found.items():
        alone = batch_of(apart[number])
        for column, expected in zip(batch.rows.columns, alone.rows.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                assert sorted(column.dictionary.to_pylist()) == sorted(expected.dictionary.to_pylist())
        assert decode(encode(batch)).rows == batch.rows
