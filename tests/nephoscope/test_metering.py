"""The quick way and the general way make the same sample of a message, or the quick one leaves it alone."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from nephoscope.errors import SampleError
from nephoscope.metering import sample_of
from nephoscope.sample import sample_from_dict

ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5), st.binary(max_size=3)
)
GOOD = {
    "counter_name": st.text(min_size=1, max_size=8),
    "counter_type": st.sampled_from(["gauge", "delta", "cumulative"]),
    "counter_unit": st.text(max_size=3),
    "counter_volume": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1),
    "resource_id": st.text(min_size=1, max_size=8),
    "timestamp": st.datetimes().map(lambda d: d.isoformat())
    | st.sampled_from(["2026-01-01T00:00:00", "2026-01-01T00:00:00Z", " 2026-01-01T00:00:00+05:30 ", "2026-01-01"]),
    "message_id": st.uuids().map(str)
    | st.uuids().map(lambda u: u.hex)
    | st.text(min_size=1, max_size=40)
    | st.text("0123456789abcdef-", min_size=36, max_size=36),
    "user_id": st.none() | st.text(max_size=4),
    "project_id": st.none() | st.text(max_size=4),
    "source": st.none() | st.text(max_size=4),
    "resource_metadata": st.none() | st.dictionaries(st.text(max_size=3), ANY | st.lists(ANY, max_size=3), max_size=3),
    "monotonic_time": st.none(),
    "message_signature": st.none() | st.text(max_size=5),
}


@given(st.fixed_dictionaries(GOOD), st.dictionaries(st.sampled_from([*GOOD, "late", "measured_at"]), ANY, max_size=2))
def test_both_ways_agree(good, changes):
    raw = msgspec.msgpack.encode(good | changes)
    quick = sample_of(raw)
    if quick is not None:
        assert quick == sample_from_dict(msgspec.msgpack.decode(raw))


@given(st.fixed_dictionaries(GOOD | {"message_id": st.uuids().map(str) | st.text(min_size=1, max_size=35)}))
def test_what_the_general_way_takes_of_ceilometers_messages_the_quick_way_takes(good):
    raw = msgspec.msgpack.encode(good)
    try:
        whole = sample_from_dict(msgspec.msgpack.decode(raw))
    except SampleError:
        assert sample_of(raw) is None
    else:
        assert sample_of(raw) == whole
