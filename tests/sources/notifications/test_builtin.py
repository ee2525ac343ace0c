"""Samples of notifications that no JSONPath describes: Ironic's sensors, and samples that were published as notifications."""

import pytest

from nephoscope.identity import parse_id
from nephoscope.metrics import Counts
from nephoscope.sample import sample_from_dict, sample_to_ceilometer
from sources.notifications.listener import Delivery, Maker
from sources.notifications.meters import Meters
from tests.sources.notifications.made import enveloped, notification

SENSORS = {
    "Temperature": {
        "Inlet": {"Sensor Reading": "26 (+/- 0.500) degrees C", "Sensor ID": "Inlet Temp (0x5)", "Status": "ok"},
        "Off": {"Sensor Reading": "Disabled", "Sensor ID": "Off (0x6)"},
        "Broken": {"Sensor Reading": "hot", "Sensor ID": "Broken (0x7)"},
    },
    "Current": {"Pwr": {"Sensor Reading": "130 (+/- 1) Watts", "Sensor ID": "Pwr (0x9)"}},
    "Voltage": {"Nameless": {"Sensor Reading": "12 Volts"}},
}
SAMPLE = {
    "name": "cpu",
    "type": "gauge",
    "unit": "%",
    "volume": 1,
    "resource_id": "r",
    "timestamp": "2026-01-01T00:00:00",
}


def made_of(message, form="v2", secret=""):
    counts = Counts("test_builtin")
    return Maker(Meters([], "openstack", secret), None, counts).make([Delivery(enveloped(message, form), "here", None)])


@pytest.mark.parametrize("form", ["v1", "v2", "kafka"])
def test_the_sensors_of_a_node(form):
    payload = {"node_uuid": "node-1", "payload": SENSORS, "timestamp": "2026-01-01T00:00:07", "event_type": "x.update"}
    made = made_of(notification("hardware.ipmi.metrics", payload), form)
    assert [(s.name, s.resource_id, s.volume, s.unit) for s in made.samples] == [
        ("hardware.ipmi.temperature", "node-1-inlet_temp_(0x5)", 26.0, "C"),
        ("hardware.ipmi.current", "node-1-pwr_(0x9)", 130.0, "W"),
    ]
    assert made.samples[0].resource_metadata["Status"] == "ok"
    assert [letter.reason for letter in made.letters] == ["volume", "resource_id"]


def test_a_payload_that_holds_no_sensors_is_a_dead_letter():
    assert [letter.reason for letter in made_of(notification("hardware.ipmi.metrics", [1])).letters] == ["payload"]


@pytest.mark.parametrize("event_type", ["metering", "telemetry.polling"])
def test_samples_that_come_as_a_notification_keep_their_ids(event_type):
    one = sample_to_ceilometer(sample_from_dict(SAMPLE | {"id": "k"}), "s3cret")
    signed = sample_to_ceilometer(sample_from_dict(SAMPLE), "s3cret")
    items = [one, SAMPLE, {"name": "bad"}]
    payload = items if event_type == "metering" else {"samples": items}
    message = notification(event_type, payload)

    first, again = made_of(message), made_of(message)
    assert [s.name for s in first.samples] == ["cpu", "cpu"]
    assert first.samples[0].id == parse_id(one["message_id"])
    assert first.samples == again.samples
    assert [letter.reason for letter in first.letters] == ["type"]

    checked = made_of(notification(event_type, [one, signed, signed | {"counter_volume": 2}]), secret="s3cret")
    assert (len(checked.samples), [letter.reason for letter in checked.letters]) == (2, ["signature"])
