"""Samples of the notifications that no JSONPath describes: Ironic's sensors, and samples that were published as notifications.

* ``hardware.ipmi.*`` (Ironic): a reading is text, `26 (+/- 0.500) degrees C`; a sensor that reads `Disabled` measures nothing.
* ``metering`` (payload: a list of samples) and ``telemetry.polling`` (payload.samples): what a Ceilometer agent or publisher sent, in
  Ceilometer's form. They keep their ids; where there is a secret their signatures are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nephoscope.errors import SampleError
from nephoscope.identity import notification_id
from nephoscope.sample import GAUGE, Sample, check_time, metadata_text, sample_from_dict, verify
from nephoscope.times import parse_time
from sources.notifications.envelope import Notification

SENSORS = ("Temperature", "Current", "Fan", "Voltage")
_UNITS = {"Watts": "W", "Volts": "V", "Amps": "A"}
_SILENT = ("Disabled", "No Reading", "na")

Refuse = Callable[[str, str, str], None]
"""Takes what could not be made, the reason and the detail."""


def samples_of(notification: Notification, source: str, secret: str, refuse: Refuse) -> Iterator[Sample]:
    """The samples of such a notification; of any other none."""
    if notification.event_type.startswith("hardware.ipmi."):
        yield from _sensors(notification, source, refuse)
    elif notification.event_type in ("metering", "telemetry.polling"):
        yield from _published(notification, secret, refuse)


def handles(event_type: str) -> bool:
    """Whether samples are made of such notifications here."""
    return event_type.startswith("hardware.ipmi.") or event_type in ("metering", "telemetry.polling")


def _sensors(notification: Notification, source: str, refuse: Refuse) -> Iterator[Sample]:
    payload = notification.payload
    groups = payload.get("payload") if isinstance(payload, dict) else None
    node = payload.get("node_uuid") if isinstance(payload, dict) else None
    if not isinstance(groups, dict) or not isinstance(node, str) or not node:
        refuse("hardware.ipmi", "payload", "payload must hold node_uuid and the sensors by kind")
        return
    for kind in SENSORS:
        meter = f"hardware.ipmi.{kind.lower()}"
        sensors = groups.get(kind, {})
        for position, name in enumerate(sorted(sensors) if isinstance(sensors, dict) else ()):
            try:
                sample = _sensor(notification, payload, sensors[name], meter, position, source)
            except SampleError as error:
                refuse(meter, error.reason, f"{name}: {error}")
            else:
                if sample is not None:
                    yield sample


def _sensor(
    notification: Notification, payload: Mapping[str, Any], sensor: Any, meter: str, position: int, source: str
) -> Sample | None:
    if not isinstance(sensor, dict):
        raise SampleError("payload", "a sensor must be an object")
    reading, ident = sensor.get("Sensor Reading"), sensor.get("Sensor ID")
    if not isinstance(reading, str):
        raise SampleError("volume", "there is no Sensor Reading")
    if not isinstance(ident, str) or not ident:
        raise SampleError("resource_id", "there is no Sensor ID")
    if reading in _SILENT:
        return None
    number, _, rest = reading.partition(" ")
    try:
        volume = float(number)
    except ValueError:
        raise SampleError("volume", f"{reading[:40]!r} is no reading") from None
    unit = rest.rpartition(" ")[2]
    node = payload["node_uuid"]
    given = payload.get("timestamp")
    try:
        timestamp = check_time(parse_time(given)) if isinstance(given, str) else notification.timestamp
    except (ValueError, OverflowError):
        raise SampleError("timestamp", f"timestamp must be an ISO 8601 time, not {str(given)[:40]!r}") from None
    said = payload.get("event_type")
    event_type = said if isinstance(said, str) else notification.event_type
    return Sample(
        name=meter,
        type=GAUGE,
        unit=_UNITS.get(unit, unit),
        volume=volume,
        user_id=_text(payload.get("user_id")),
        project_id=_text(payload.get("project_id")),
        resource_id=f"{node}-{ident.lower().replace(' ', '_')}",
        timestamp=timestamp,
        metadata=metadata_text({**sensor, "node": node, "event_type": event_type, "host": notification.publisher_id}),
        source=source,
        id=notification_id(notification.message_id, meter, position),
    )


def _published(notification: Notification, secret: str, refuse: Refuse) -> Iterator[Sample]:
    payload = notification.payload
    items = payload.get("samples") if isinstance(payload, dict) else payload
    if not isinstance(items, list):
        refuse(notification.event_type, "payload", "payload must be a list of samples")
        return
    for position, item in enumerate(items):
        name = str(item.get("counter_name", "")) if isinstance(item, dict) else notification.event_type
        try:
            sample = sample_from_dict(item)
            if not verify(item, secret):
                raise SampleError("signature", "the signature is missing or not of this secret")
        except SampleError as error:
            refuse(name, error.reason, str(error))
            continue
        if not item.get("message_id") and not item.get("id"):
            # One without an id is known by its place, so that it is not counted twice when the notification comes again.
            ident = notification_id(notification.message_id, sample.name, position)
            sample = Sample(**{f: getattr(sample, f) for f in Sample.__struct_fields__} | {"id": ident})
        yield sample


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
