"""The forms in which others get events: a message of JSON each.

`json`         Nephoscope's own: traits by name, times ISO 8601 (UTC)
`cloudevents`  CloudEvents 1.0, JSON event format, the own form as data
`ceilometer`   what Ceilometer's publishers send: traits as [name, number of the type, value], signed where there is a secret
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from nephoscope.event import DATETIME, FLOAT, INT, TEXT, Event, Trait
from nephoscope.forms import CEILOMETER, CLOUDEVENTS, JSON
from nephoscope.sample import sign
from nephoscope.times import format_time

EVENT_TYPE = "nephoscope.event.v1"
_SOURCE = "/openstack"
_NUMBERS = {TEXT: 1, INT: 2, FLOAT: 3, DATETIME: 4}
"""Of the types, as ceilometer.event.models.Trait has them."""
_encode = msgspec.json.Encoder().encode


class EventForm(msgspec.Struct, kw_only=True):
    """An event. Times are UTC, ISO 8601 without a zone; raw is the notification, where it is kept."""

    message_id: str
    event_type: str
    generated: str
    traits: dict[str, str | int | float]
    raw: dict[str, Any]


class EventCloudEventForm(msgspec.Struct, kw_only=True):
    """An event as a CloudEvent. (source, id) is unique: the id is the message_id; subject is the event type."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    source: str = _SOURCE
    type: Literal["nephoscope.event.v1"] = EVENT_TYPE  # type: ignore[assignment]
    subject: str
    time: str
    datacontenttype: Literal["application/json"] = "application/json"
    partitionkey: str
    data: EventForm


class EventCeilometerForm(msgspec.Struct, kw_only=True):
    """An event as Ceilometer serialises it. traits: [name, 1 text, 2 int, 3 float, 4 datetime; value].

    message_signature: HMAC-SHA256 with telemetry_secret, '' without one.
    """

    message_id: str
    event_type: str
    generated: str
    traits: list[tuple[str, int, str | int | float]]
    raw: dict[str, Any]
    message_signature: str = ""


EVENT_STRUCTS: dict[str, type[msgspec.Struct]] = {
    JSON: EventForm,
    CLOUDEVENTS: EventCloudEventForm,
    CEILOMETER: EventCeilometerForm,
}


def event_message(event: Event, form: str = JSON, secret: str = "") -> bytes:
    """One event in a form."""
    generated, raw = format_time(event.generated), _raw(event)
    if form == CEILOMETER:
        traits = [(t.name, _NUMBERS[t.type], _value(t)) for t in event.traits]
        made = EventCeilometerForm(
            message_id=event.message_id, event_type=event.event_type, generated=generated, traits=traits, raw=raw
        )
        if secret:
            made.message_signature = sign(msgspec.json.decode(_encode(made)), secret)
        return _encode(made)
    own = EventForm(
        message_id=event.message_id,
        event_type=event.event_type,
        generated=generated,
        traits={t.name: _value(t) for t in event.traits},
        raw=raw,
    )
    if form == JSON:
        return _encode(own)
    return _encode(
        EventCloudEventForm(
            id=event.message_id,
            subject=event.event_type,
            time=generated + "Z",
            partitionkey=event.message_id,
            data=own,
        )
    )


def payload_message(event: Event) -> bytes | None:
    """The payload of the notification alone, as JSON; None where it is not kept."""
    payload = msgspec.json.decode(event.raw).get("payload")
    return _encode(payload) if payload else None


def _raw(event: Event) -> Any:
    return msgspec.Raw(event.raw.encode())


def _value(trait: Trait) -> str | int | float:
    return format_time(int(trait.value)) if trait.type == DATETIME else trait.value
