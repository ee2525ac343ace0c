"""The AsyncAPI 3.0 document: the topics, what lies on them, and where publishers put samples.

Schemas are made from the structs and the Arrow schema that the code itself uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import msgspec
import pyarrow as pa

from nephoscope.batch import SCHEMA, Header
from nephoscope.dead_letters import Written
from nephoscope.event_forms import EVENT_STRUCTS
from nephoscope.event_messages import EventMessage
from nephoscope.forms import STRUCTS
from nephoscope.publishers import Channel
from nephoscope.settings import Settings
from nephoscope.topics import DEAD_LETTERS, EVENTS, SAMPLES

VERSION = "3.0.0"
_BINDING = "0.5.0"
_BATCH = "application/vnd.nephoscope.batch"
_FORMS = {
    "json": "A sample in Nephoscope's own form.",
    "cloudevents": "A sample as a CloudEvent 1.0, structured mode.",
    "ceilometer": "A sample as Ceilometer's metering message.",
}


_EVENT_FORMS = {
    "json": "An event in Nephoscope's own form.",
    "cloudevents": "An event as a CloudEvent 1.0, structured mode.",
    "ceilometer": "An event as Ceilometer serialises it.",
}


def document(
    settings: Settings,
    channels: Iterable[tuple[str, Channel]] = (),
    event_channels: Iterable[tuple[str, Channel]] = (),
) -> dict[str, Any]:
    """The document of an installation.

    `channels`: where the pipeline's publishers write, each with the sink that it belongs to; `event_channels`: where the event pipeline's do.
    """
    out: dict[str, Any] = {
        "asyncapi": VERSION,
        "info": {
            "title": "Nephoscope",
            "version": version("nephoscope"),
            "description": "Samples of a cloud's telemetry. A sample's id is derived: who reads one again knows it by its id.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {},
        "channels": {},
        "operations": {},
        "components": {"messages": _messages(), "schemas": _schemas()},
    }
    _own(out, settings)
    used = {"batch", "events", "deadLetter"}
    for what, some in (("sample", channels), ("event", event_channels)):
        for sink, channel in some:
            used.add(_add(out, sink, channel, what))
    messages = out["components"]["messages"]
    for name in messages.keys() - used:
        del messages[name]
    _prune(out)
    return out


def _own(out: dict[str, Any], settings: Settings) -> None:
    """The topics of the log."""
    prefix = ""
    scheme, _, hosts = settings.log.url.partition("://")
    if scheme == "kafka":
        prefix = settings.log.kafka.topic_prefix
        servers = [_server(out, "kafka", host) for host in hosts.rstrip("/").split(",")]
    else:
        # A channel that names no server would be one of all servers.
        servers = ["embedded"]
        out["servers"]["embedded"] = {
            "host": "localhost",
            "protocol": "sqlite",
            "description": "The embedded log: a file that only Nephoscope reads.",
        }
    topics = (
        ("samples", SAMPLES, "batch", "Batches of samples; the partition is a hash of the resource."),
        ("events", EVENTS, "events", "Events; the partition is a hash of the message_id."),
        ("deadLetters", DEAD_LETTERS, "deadLetter", "What could not be read, decoded or stored, with the reason."),
    )
    for name, topic, message, text in topics:
        channel: dict[str, Any] = {"address": prefix + topic, "description": text}
        channel["messages"] = {message: {"$ref": f"#/components/messages/{message}"}}
        channel["servers"] = [{"$ref": f"#/servers/{s}"} for s in servers]
        if scheme == "kafka":
            channel["bindings"] = {
                "kafka": {"topic": prefix + topic, "partitions": settings.partitions, "bindingVersion": _BINDING}
            }
        out["channels"][name] = channel
        for action in ("send", "receive"):
            out["operations"][f"{action}{name[0].upper()}{name[1:]}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
            }


def _add(out: dict[str, Any], sink: str, channel: Channel, what: str) -> str:
    """A publisher's channel; the name of its message. `what`: sample or event."""
    name = _unique(out["channels"], f"{sink}-{channel.address}")
    message = f"{what}-{channel.form}"
    servers = [_server(out, channel.protocol, host) for host in channel.servers]
    out["channels"][name] = {
        "address": channel.address,
        "description": f"What the sink {sink} publishes. The key is {channel.key or 'absent'}.",
        "messages": {message: {"$ref": f"#/components/messages/{message}"}},
        "servers": [{"$ref": f"#/servers/{s}"} for s in servers],
        "bindings": {channel.protocol: {"topic": channel.address, "bindingVersion": _BINDING}},
    }
    out["operations"][f"publish-{name}"] = {
        "action": "send",
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": [{"$ref": f"#/channels/{name}/messages/{message}"}],
    }
    return message


def _server(out: dict[str, Any], protocol: str, host: str) -> str:
    for name, server in out["servers"].items():
        if (server["host"], server["protocol"]) == (host, protocol):
            return str(name)
    name = _unique(out["servers"], host)
    out["servers"][name] = {"host": host, "protocol": protocol}
    return name


def _unique(taken: dict[str, Any], text: str) -> str:
    """A name of the characters that the specification allows."""
    name = base = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "x"
    number = 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def _messages() -> dict[str, Any]:
    out: dict[str, Any] = {
        "batch": {
            "title": "Batch",
            "summary": "Samples of one partition, as columns.",
            "contentType": _BATCH,
            "payload": {
                "type": "string",
                "format": "binary",
                "description": (
                    "The bytes NEPH, a version byte (1), three zero bytes, the number of rows and the length of the header (uint32), "
                    "xxh64 of all that follows (uint64; all little endian), the header (JSON, padded with blanks to a multiple of 8), "
                    "one Arrow IPC stream. With no rows the stream is absent, and the header's mark is all that is said."
                ),
                "x-header": {"$ref": "#/components/schemas/Header"},
                "x-arrow-schema": _columns(),
            },
        },
        "events": {
            "title": "Events",
            "summary": "Events of one partition. Times are microseconds UTC; raw is the notification as JSON text, where it is kept.",
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{EventMessage.__name__}"},
        },
        "deadLetter": {
            "title": "DeadLetter",
            "summary": "What could not be used.",
            "contentType": "application/json",
            "payload": {"$ref": f"#/components/schemas/{Written.__name__}"},
        },
        "sample-arrow": {
            "title": "Samples",
            "summary": "Many samples: one Arrow IPC stream.",
            "contentType": "application/vnd.apache.arrow.stream",
            "headers": _headers("rows", "How many samples there are, in digits."),
            "payload": {"type": "string", "format": "binary", "x-arrow-schema": _columns()},
        },
    }
    for form, struct in STRUCTS.items():
        out[f"sample-{form}"] = {
            "title": struct.__name__,
            "summary": _FORMS[form],
            "contentType": "application/cloudevents+json" if form == "cloudevents" else "application/json",
            "headers": _headers("id", "The sample's id."),
            "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
        }
    for form, struct in EVENT_STRUCTS.items():
        out[f"event-{form}"] = {
            "title": struct.__name__,
            "summary": _EVENT_FORMS[form],
            "contentType": "application/cloudevents+json" if form == "cloudevents" else "application/json",
            "headers": _headers("id", "The message_id."),
            "payload": {"$ref": f"#/components/schemas/{struct.__name__}"},
        }
    return out


def _headers(name: str, text: str) -> dict[str, Any]:
    fields = {name: {"type": "string", "description": text}, "content-type": {"type": "string"}}
    return {"type": "object", "properties": fields, "required": list(fields)}


def _columns() -> list[dict[str, str]]:
    def words(kind: pa.DataType) -> str:
        if pa.types.is_dictionary(kind):
            return f"dictionary<{kind.index_type}, {kind.value_type}>"
        return str(kind)

    return [{"name": field.name, "type": words(field.type)} for field in SCHEMA]


def _schemas() -> dict[str, Any]:
    kinds = (Header, Written, EventMessage, *STRUCTS.values(), *EVENT_STRUCTS.values())
    _, found = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    # Defaults that are tuples become what JSON knows.
    out: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(sorted(found.items()))))
    return out


def _prune(out: dict[str, Any]) -> None:
    """Leave out the schemas that nothing here refers to."""
    schemas = out["components"]["schemas"]
    while True:
        rest = {name: {n: s for n, s in schemas.items() if n != name} for name in schemas}
        unused = [
            name
            for name, others in rest.items()
            if f'"#/components/schemas/{name}"'
            not in msgspec.json.encode([out["components"]["messages"], others]).decode()
        ]
        if not unused:
            return
        for name in unused:
            del schemas[name]
