"""Notifications as services send them, and what is made of them with the definitions that ship."""

import json
from pathlib import Path

import msgspec

from nephoscope.sample import sample_to_dict
from nephoscope.settings import shipped
from sources.notifications.definitions import load_meters
from sources.notifications.envelope import unwrap
from sources.notifications.event_definitions import load_events
from sources.notifications.events import Events
from sources.notifications.meters import Meters

_FILE = Path(__file__).parents[2] / "recorded/notifications.jsonl"
RECORDED = [json.loads(line) for line in _FILE.read_text().splitlines()]
"""One of each kind that Keystone, Glance, Neutron, Cinder and Nova sent."""


def enveloped(message, form="v2"):
    """The message on the wire."""
    if form == "v1":
        return json.dumps(message).encode()
    if form == "kafka":
        inner = {k: v for k, v in message.items() if not k.startswith("_context_")}
        inner["_context"] = {k[9:]: v for k, v in message.items() if k.startswith("_context_")}
        message = inner
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def notification(event_type="e", payload=None, **more):
    """A message of one's own."""
    return {
        "message_id": "m-1",
        "publisher_id": "compute.host-1",
        "event_type": event_type,
        "priority": "INFO",
        "timestamp": "2026-01-01 00:00:00.000000",
        "payload": {} if payload is None else payload,
    } | more


def shipped_meters():
    return Meters(load_meters([shipped("meters.yaml")]), "openstack")


def shipped_events(**options):
    return Events(load_events([shipped("event_definitions.yaml")]), **options)


def outcome(message, meters, events):
    """What becomes of a message, as JSON."""
    opened = unwrap(enveloped(message))
    made = meters.samples(opened)
    event, wrong = events.event(opened)
    return {
        "samples": [
            {k: v for k, v in sample_to_dict(s).items() if k not in ("source", "timestamp")} for s in made.samples
        ],
        "refused": [list(r) for r in made.refused],
        "without_volume": made.empty,
        "traits": {t.name: [t.type, t.value] for t in event.traits} if event else None,
        "wrong": [list(w) for w in wrong],
    }


def meters_of(tmp_path, text):
    """The definitions of a text."""
    file = tmp_path / "meters.yaml"
    file.write_text(text)
    return Meters(load_meters([file]), "openstack")


def samples_of(meters, message):
    made = meters.samples(unwrap(enveloped(message)))
    return [(s.name, s.volume, s.resource_id) for s in made.samples], [(r[0], r[1]) for r in made.refused]


def plain(event):
    return msgspec.to_builtins(event)
