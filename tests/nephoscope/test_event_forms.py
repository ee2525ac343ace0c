"""The forms in which others get events."""

import json

import msgspec
import pytest

from nephoscope.event import Event, Trait
from nephoscope.event_forms import EVENT_STRUCTS, event_message, payload_message
from nephoscope.sample import verify

MOMENT = 1_500_000_000_250_000
EVENT = Event(
    message_id="m-é",
    event_type="compute.instance.create.end",
    generated=MOMENT,
    traits=(
        Trait("state", "text", "active"),
        Trait("memory_mb", "int", 512),
        Trait("load", "float", 0.5),
        Trait("launched_at", "datetime", MOMENT),
    ),
    raw='{"payload":{"state":"active"},"priority":"INFO"}',
)
WHEN = "2017-07-14T02:40:00.250000"


def test_the_own_form_has_traits_by_name():
    assert json.loads(event_message(EVENT)) == {
        "message_id": "m-é",
        "event_type": "compute.instance.create.end",
        "generated": WHEN,
        "traits": {"state": "active", "memory_mb": 512, "load": 0.5, "launched_at": WHEN},
        "raw": {"payload": {"state": "active"}, "priority": "INFO"},
    }


def test_a_cloud_event_carries_the_own_form():
    made = json.loads(event_message(EVENT, "cloudevents"))

    assert made.pop("data") == json.loads(event_message(EVENT))
    assert made == {
        "specversion": "1.0",
        "id": "m-é",
        "source": "/openstack",
        "type": "nephoscope.event.v1",
        "subject": "compute.instance.create.end",
        "time": WHEN + "Z",
        "datacontenttype": "application/json",
        "partitionkey": "m-é",
    }


def test_ceilometers_form_has_triples_and_is_signed_where_there_is_a_secret():
    made = json.loads(event_message(EVENT, "ceilometer", "s3cret"))

    assert made["traits"] == [
        ["state", 1, "active"],
        ["memory_mb", 2, 512],
        ["load", 3, 0.5],
        ["launched_at", 4, WHEN],
    ]
    assert verify(made, "s3cret")
    assert not verify(made | {"event_type": "x"}, "s3cret")
    assert json.loads(event_message(EVENT, "ceilometer"))["message_signature"] == ""


@pytest.mark.parametrize("form", EVENT_STRUCTS)
def test_each_form_is_what_its_struct_says(form):
    message = event_message(EVENT, form)

    assert json.loads(msgspec.json.encode(msgspec.json.decode(message, type=EVENT_STRUCTS[form]))) == json.loads(
        message
    )


def test_the_payload_alone_where_the_notification_is_kept():
    assert payload_message(EVENT) == b'{"state":"active"}'
    assert payload_message(Event(message_id="m", event_type="e", generated=1)) is None
