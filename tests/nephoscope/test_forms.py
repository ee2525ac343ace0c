"""The forms of samples: what is written by columns is what the structs, which others are told of, say."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nephoscope.batch import Batch, batch_of, compact
from nephoscope.forms import CEILOMETER, CLOUDEVENTS, FORMS, STRUCTS, form_of, ids, lines
from nephoscope.identity import format_id
from nephoscope.sample import Sample, sample_from_json, sample_to_dict, verify
from nephoscope.times import NEVER, SECOND, TOO_LATE

TIMES = st.integers(0, TOO_LATE - 1) | st.integers(0, TOO_LATE // SECOND - 1).map(lambda s: s * SECOND)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SAMPLES = st.builds(
    Sample,
    name=WORDS.filter(bool),
    type=st.sampled_from(["gauge", "delta", "cumulative"]),
    unit=WORDS,
    volume=st.floats(allow_nan=False, allow_infinity=False),
    resource_id=WORDS.filter(bool),
    timestamp=TIMES,
    user_id=WORDS,
    project_id=WORDS,
    metadata=st.dictionaries(WORDS, st.integers() | WORDS, max_size=2).map(json.dumps),
    source=WORDS,
    measured_at=TIMES | st.just(NEVER),
    id=st.binary(min_size=16, max_size=16),
    origin=st.sampled_from(["", '["openstack","cpu"]']),
    late=st.booleans(),
)


STRICT = {
    form: msgspec.defstruct("Strict", [], bases=(struct,), forbid_unknown_fields=True)
    for form, struct in STRUCTS.items()
}


@settings(max_examples=25)
@pytest.mark.parametrize("form", FORMS)
@given(samples=st.lists(SAMPLES, max_size=6), start=st.integers(0, 3))
def test_columns_write_what_the_structs_would(form, samples, start):
    rows = batch_of(samples).rows.slice(start)
    expected = [msgspec.json.encode(form_of(s, form)) for s in samples[start:]]

    assert lines(rows, form) == lines(compact(rows), form) == expected
    for line in expected:
        # What the schema says is there, and nothing else.
        msgspec.json.decode(line, type=STRICT[form])


@settings(max_examples=25)
@given(st.lists(SAMPLES, max_size=4))
def test_the_own_form_is_what_nephoscope_reads(samples):
    rows = batch_of(samples).rows

    assert [sample_to_dict(s) for s in samples] == [json.loads(line) for line in lines(rows, end=b"\n")]
    for line, sample in zip(lines(rows), samples, strict=True):
        assert sample_from_json(line).id == sample.id
    assert ids(rows) == [format_id(s.id).encode() for s in samples]


@settings(max_examples=25)
@given(st.lists(SAMPLES, min_size=1, max_size=4))
def test_ceilometers_form_is_signed_where_there_is_a_secret(samples):
    rows = batch_of(samples).rows
    for line, sample in zip(lines(rows, CEILOMETER, secret="s3cret"), samples, strict=True):
        message = json.loads(line)
        assert verify(message, "s3cret")
        assert message["message_id"] == format_id(sample.id)
        assert message.keys() == json.loads(lines(rows, CEILOMETER)[0]).keys()


def test_a_cloud_event_has_all_that_the_specification_wants():
    sample = Sample(
        name="cpu", type="gauge", unit="%", volume=1, resource_id="vm", timestamp=0, id=bytes(16), source="a b"
    )
    (line,) = lines(batch_of([sample]).rows, CLOUDEVENTS)
    event = json.loads(line)

    assert {k: v for k, v in event.items() if k != "data"} == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000000",
        "source": "/a%20b",
        "type": "nephoscope.sample.v1",
        "subject": "vm",
        "time": "1970-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "partitionkey": "vm",
    }
    assert event["data"] == sample_to_dict(sample)


def test_a_batch_without_rows_gives_nothing():
    assert [lines(Batch(batch_of([]).rows).rows, form) for form in FORMS] == [[], [], []]
