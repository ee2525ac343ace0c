"""A sample's two forms as JSON: both are read wherever one is, and whatever is neither is refused with a reason."""

import hashlib
import hmac
import json
import math
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope import identity
from nephoscope.errors import SampleError
from nephoscope.sample import (
    TYPES,
    Sample,
    metadata_text,
    sample_from_dict,
    sample_from_json,
    sample_to_ceilometer,
    sample_to_dict,
    sign,
    to_json,
    verify,
)
from nephoscope.times import NEVER, TOO_LATE

NOON = 1_433_160_000_000_000
OWN = {
    "id": "66ab5b0d-4a2f-4c3b-8b1e-1f7f0a2b9c3d",
    "name": "cpu",
    "type": "cumulative",
    "unit": "ns",
    "volume": 1.5e9,
    "user_id": "u1",
    "project_id": "p1",
    "resource_id": "r1",
    "timestamp": "2015-06-01T12:00:00",
    "measured_at": "2015-06-01T12:00:00.250000",
    "resource_metadata": {"flavor": {"vcpus": 2}, "display_name": "caf\u00e9"},
    "source": "openstack",
}
OLD = {
    "counter_name": "cpu",
    "counter_type": "cumulative",
    "counter_unit": "ns",
    "counter_volume": 1.5e9,
    "user_id": "u1",
    "project_id": "p1",
    "resource_id": "r1",
    "timestamp": "2015-06-01T12:00:00",
    "resource_metadata": {"flavor": {"vcpus": 2}, "display_name": "caf\u00e9"},
    "message_id": "66ab5b0d-4a2f-4c3b-8b1e-1f7f0a2b9c3d",
    "source": "openstack",
    "message_signature": None,
}
SAMPLE = Sample(
    name="cpu",
    type="cumulative",
    unit="ns",
    volume=1.5e9,
    user_id="u1",
    project_id="p1",
    resource_id="r1",
    timestamp=NOON,
    measured_at=NOON + 250_000,
    metadata='{"flavor":{"vcpus":2},"display_name":"caf\u00e9"}',
    source="openstack",
    id=uuid.UUID("66ab5b0d-4a2f-4c3b-8b1e-1f7f0a2b9c3d").bytes,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
samples = st.builds(
    Sample,
    name=texts,
    type=st.sampled_from(TYPES),
    unit=texts | st.just(""),
    volume=st.floats(allow_nan=False, allow_infinity=False),
    resource_id=texts,
    timestamp=st.integers(0, TOO_LATE - 1),
    user_id=texts | st.just(""),
    project_id=texts | st.just(""),
    metadata=st.dictionaries(texts, json_values, max_size=3).map(metadata_text),
    source=texts,
    measured_at=st.integers(0, TOO_LATE - 1) | st.just(NEVER),
    id=st.binary(min_size=16, max_size=16),
    late=st.booleans(),
)


def test_our_own_form():
    assert sample_from_dict(OWN) == SAMPLE
    assert sample_to_dict(SAMPLE) == OWN
    assert SAMPLE.resource_metadata == OWN["resource_metadata"]


def test_ceilometers_form():
    assert sample_from_dict(OLD) == sample_from_dict({**OWN, "measured_at": None})
    assert sample_to_ceilometer(SAMPLE) == {**OLD, "message_signature": ""}


@given(samples)
def test_what_is_written_is_read(sample):
    assert sample_from_json(to_json(sample_to_dict(sample))) == sample
    assert sample_from_json(to_json(sample_to_dict(sample)).decode()) == sample


@given(samples)
def test_so_it_is_in_ceilometers_form_which_knows_no_measured_at(sample):
    got = sample_from_json(to_json(sample_to_ceilometer(sample, "secret")))

    assert got == Sample(
        **{f: getattr(sample, f) for f in sample.__struct_fields__} | {"measured_at": NEVER, "late": False}
    )


def test_what_is_said_of_a_derived_sample():
    derived = Sample(
        **{f: getattr(SAMPLE, f) for f in SAMPLE.__struct_fields__}
        | {"late": True, "origin": '[["k",0]]', "user_id": ""}
    )

    said = sample_to_dict(derived)
    assert (said["late"], said["origin"], said["user_id"]) == (True, '[["k",0]]', None)
    assert sample_from_dict(said).origin == "", "an origin is what the flow made, not what a sender claims"


def changed(form=OWN, /, **more):
    return {k: v for k, v in (form | more).items() if v is not ...}


@pytest.mark.parametrize("form,prefix", [(OWN, ""), (OLD, "counter_")], ids=["own", "ceilometer"])
@pytest.mark.parametrize(
    "field,value,reason",
    [
        ("name", None, "name"),
        ("name", "", "name"),
        ("name", 7, "name"),
        ("type", ..., "type"),
        ("type", "histogram", "type"),
        ("type", "GAUGE", "type"),
        ("type", ["gauge"], "type"),
        ("unit", 1, "unit"),
        ("unit", {}, "unit"),
        ("volume", ..., "volume"),
        ("volume", None, "volume"),
        ("volume", "", "volume"),
        ("volume", "many", "volume"),
        ("volume", "0x10", "volume"),
        ("volume", [1], "volume"),
        ("volume", {"value": 1}, "volume"),
        ("volume", math.nan, "volume"),
        ("volume", math.inf, "volume"),
        ("volume", "nan", "volume"),
        ("volume", "-Infinity", "volume"),
        ("volume", "1e999", "volume"),
        ("volume", 10**400, "volume"),
        ("resource_id", ..., "resource_id"),
        ("resource_id", "", "resource_id"),
        ("resource_id", None, "resource_id"),
        ("resource_id", 17, "resource_id"),
        ("user_id", 17, "user_id"),
        ("project_id", ["p"], "project_id"),
        ("source", 1, "source"),
        ("timestamp", ..., "timestamp"),
        ("timestamp", None, "timestamp"),
        ("timestamp", "yesterday", "timestamp"),
        ("timestamp", 1_433_160_000, "timestamp"),
        ("timestamp", "1969-12-31T23:59:59", "timestamp"),
        ("timestamp", "1970-01-01T00:30:00+01:00", "timestamp"),
        ("timestamp", "2200-01-01T00:00:00", "timestamp"),
        ("timestamp", "9999-12-31T23:59:59", "timestamp"),
        ("timestamp", "0001-01-01T00:00:00+23:59", "timestamp"),
        ("timestamp", "9999-12-31T23:59:59-23:59", "timestamp"),
        ("measured_at", "soon", "timestamp"),
        ("measured_at", "9999-12-31", "timestamp"),
        ("measured_at", 5, "timestamp"),
        ("resource_metadata", [1], "metadata"),
        ("resource_metadata", "{}", "metadata"),
        ("resource_metadata", 1, "metadata"),
        ("resource_metadata", {"a": object()}, "metadata"),
        ("resource_metadata", {1.5: object()}, "metadata"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(form, prefix, field, value, reason):
    key = prefix + field if field in ("name", "type", "unit", "volume") else field
    with pytest.raises(SampleError) as caught:
        sample_from_dict(changed(form, **{key: value}))

    assert caught.value.reason == reason
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", ["id", "message_id"])
def test_an_id_that_is_no_text_is_refused(field):
    form = OWN if field == "id" else OLD
    with pytest.raises(SampleError) as caught:
        sample_from_dict(changed(form, **{field: 17}))

    assert caught.value.reason == field


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"7",
        b'"cpu"',
        b"\xff\xfe",
        b"{}{}",
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        "{'a': 1}",
    ],
    ids=lambda raw: str(raw[:8]),
)
def test_what_is_no_json_object_is_refused(raw):
    with pytest.raises(SampleError) as caught:
        sample_from_json(raw)

    assert caught.value.reason == "json"


def test_an_empty_object_lacks_a_type():
    with pytest.raises(SampleError, match="type is missing"):
        sample_from_json(b"{}")


@pytest.mark.parametrize(
    "value,volume", [(1, 1.0), ("2", 2.0), (" 3.5 ", 3.5), ("1e3", 1000.0), (True, 1.0), (-0.0, 0.0), (2**80, 2.0**80)]
)
def test_numbers_as_text_are_numbers(value, volume):
    assert sample_from_dict(changed(volume=value)).volume == volume


def test_what_may_be_absent():
    least = {k: OWN[k] for k in ("name", "type", "volume", "resource_id", "timestamp")}
    got = sample_from_dict(least)

    assert (got.unit, got.user_id, got.project_id, got.source, got.metadata) == ("", "", "", "openstack", "{}")
    assert (got.measured_at, got.late, got.origin) == (NEVER, False, "")
    assert (
        sample_from_dict({**least, "user_id": None, "resource_metadata": None, "late": "yes", "shiny": 1}).metadata
        == "{}"
    )


def test_a_sample_without_an_id_gets_a_fresh_one_and_a_clients_key_is_hashed():
    assert sample_from_dict(changed(id=None)).id != sample_from_dict(changed(id=None)).id
    assert (
        sample_from_dict(changed(id="k")).id
        == sample_from_dict(changed(OLD, message_id="k")).id
        == identity.parse_id("k")
    )


def test_monotonic_time_serves_as_measured_at():
    """Newton's and later messages carry it."""
    assert sample_from_dict(changed(OLD, monotonic_time=12.5)).measured_at == 12_500_000
    for odd in (None, -1, math.nan, 1e300, "12.5"):
        assert sample_from_dict(changed(OLD, monotonic_time=odd)).measured_at == NEVER
    assert sample_from_dict(changed(monotonic_time=12.5)).measured_at == NOON + 250_000


@pytest.mark.parametrize(
    "message,text",
    # Names and values in the order of the names, nested names joined by a colon; what is in a list as Python writes it, with
    # mappings in the order of their names, so that the way through JSON changes nothing.
    [
        ({"a": "A", "b": "B"}, "aAbB"),
        ({"b": "B", "a": "A", "message_signature": "whatever"}, "aAbB"),
        ({"b": {"y": 2, "x": "\u0438", "message_signature": 1}, "a": "v"}, "avb:message_signature1b:x\u0438b:y2"),
        (
            {"n": 1.0, "big": 10**20, "t": True, "none": None, "empty": ""},
            "big100000000000000000000emptyn1.0noneNonetTrue",
        ),
        ({"a": {"b": {"c": {"d": [1, "x"]}}}, "ab": "", "e": {}}, "a:b:c:d[1, 'x']ab"),
        ({"l": [{"z": 1, "a": [{"y": 1, "x": ()}]}, None]}, "l[{'a': [{'x': [], 'y': 1}], 'z': 1}, None]"),
    ],
)
def test_signatures_are_ceilometers(message, text):
    want = hmac.new(b"secret", text.encode(), hashlib.sha256).hexdigest()

    assert sign(message, "secret") == want
    assert verify({**message, "message_signature": want}, "secret")


def test_only_the_right_signature_is_right():
    message = sample_to_ceilometer(SAMPLE, "secret")

    assert len(message["message_signature"]) == 64
    assert verify(message, "secret")
    assert verify(json.loads(to_json(message)), "secret"), "the signature outlives the way through JSON"
    assert not verify(message, "other")
    for wrong in (
        {"counter_volume": 2},
        {"message_signature": None},
        {"message_signature": ""},
        {"message_signature": "\u00e9"},
        {"more": 1},
    ):
        assert not verify({**message, **wrong}, "secret")
    assert not verify({k: v for k, v in message.items() if k != "message_signature"}, "secret")
    assert verify(message | {"counter_volume": 2}, ""), "without a secret nothing is checked"
    assert sample_to_ceilometer(SAMPLE)["message_signature"] == ""
