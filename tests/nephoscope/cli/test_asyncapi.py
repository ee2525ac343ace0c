"""`asyncapi`: the document keeps the rules of AsyncAPI 3.0, and says what is on the topics."""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import yaml

from nephoscope.asyncapi import document
from nephoscope.batch import SCHEMA
from nephoscope.dead_letters import DeadLetter, Origin, record_of
from nephoscope.settings import load_settings

DOCS = Path(__file__).resolve().parents[3] / "docs" / "asyncapi.yaml"
PIPELINE = """
sources: [{name: a, meters: ["*"], sinks: [raw, "rates of it"]}]
sinks:
  - {name: raw, publishers: ["store://", "kafka://h1:9092,h2/metering?format=cloudevents&policy=wait&sasl_password=${env:NOT_SET}"]}
  - {name: rates of it, publishers: ["kafka://h1:9092/rates?format=arrow", "kafka://h3/rates", "kafka://h3/old?format=ceilometer", "test://"]}
"""
FIELDS = {
    "document": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "info": {"title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs"},
    "server": {"host", "protocol", "protocolVersion", "pathname", "description", "title", "summary", "variables", "security", "tags", "externalDocs", "bindings"},
    "channel": {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "externalDocs", "bindings"},
    "operation": {"action", "channel", "title", "summary", "description", "security", "tags", "externalDocs", "bindings", "traits", "messages", "reply"},
    "message": {"headers", "payload", "correlationId", "contentType", "name", "title", "summary", "description", "tags", "externalDocs", "bindings", "examples", "traits"},
    "components": {"schemas", "servers", "channels", "operations", "messages"},
}  # fmt: skip


def at(made, ref):
    """What a reference points to."""
    assert ref.keys() == {"$ref"}
    assert ref["$ref"].startswith("#/")
    found = made
    for step in ref["$ref"][2:].split("/"):
        found = found[step]
    return found


def refs(value):
    if isinstance(value, dict):
        if "$ref" in value:
            yield value
        for inner in value.values():
            yield from refs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def check_rules(made):
    """The rules of the specification that a document like ours can break."""

    def fields(what, value):
        assert {k for k in value if not k.startswith("x-")} <= FIELDS[what]

    def named(values):
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in values)
        return values.values()

    fields("document", made)
    assert made["asyncapi"] == "3.0.0"
    fields("info", made["info"])
    assert made["info"].keys() >= {"title", "version"}
    for ref in refs(made):
        at(made, ref)
    for server in named(made["servers"]):
        fields("server", server)
        assert server.keys() >= {"host", "protocol"}
        assert "/" not in server["host"]
    for channel in named(made["channels"]):
        fields("channel", channel)
        assert all(r["$ref"].startswith("#/servers/") for r in channel["servers"])
        assert all(r["$ref"].startswith("#/components/messages/") for r in channel.get("messages", {}).values())
        assert "?" not in channel["address"]
    for operation in named(made["operations"]):
        fields("operation", operation)
        assert operation["action"] in {"send", "receive"}
        channel = operation["channel"]["$ref"]
        assert channel.startswith("#/channels/")
        # An operation's messages are those of its channel, referred to there.
        assert all(m["$ref"].startswith(f"{channel}/messages/") for m in operation["messages"])
    fields("components", made["components"])
    named(made["components"]["schemas"])
    for message in named(made["components"]["messages"]):
        fields("message", message)
        assert "payload" in message


def printed(tmp_path, *arguments):
    (tmp_path / "pipeline.yaml").write_text(PIPELINE)
    command = [sys.executable, "-m", "nephoscope.cli", "asyncapi", "pipeline.yaml", *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout


def test_the_publishers_of_a_pipeline(tmp_path):
    made = yaml.safe_load(printed(tmp_path, "--set", "log.url=kafka://h1:9092", "--set", "log.kafka.topic_prefix=eu."))

    check_rules(made)
    where = {c["address"]: [at(made, s)["host"] for s in c["servers"]] for c in made["channels"].values()}
    assert where == {
        "eu.telemetry.samples": ["h1:9092"],
        "eu.telemetry.events": ["h1:9092"],
        "eu.telemetry.dead-letters": ["h1:9092"],
        "metering": ["h1:9092", "h2"],
        "rates": ["h3"],
        "old": ["h3"],
    }
    # Two publishers write to a topic `rates`, of other brokers.
    assert sum(c["address"] == "rates" for c in made["channels"].values()) == 2
    kinds = {m["contentType"] for m in made["components"]["messages"].values()}
    assert "application/cloudevents+json" in kinds
    assert made["channels"]["samples"]["bindings"]["kafka"]["partitions"] == 64


def test_json_is_the_same(tmp_path):
    assert json.loads(printed(tmp_path, "--json")) == yaml.safe_load(printed(tmp_path))


def test_what_ships_is_in_the_docs_as_it_is():
    made = document(load_settings(environment={}))

    check_rules(made)
    assert yaml.safe_load(DOCS.read_text(encoding="utf-8")) == made, "nephoscope asyncapi > docs/asyncapi.yaml"


def test_the_schemas_are_those_of_what_is_written():
    made = document(load_settings(environment={}))
    letter = DeadLetter(reason="name", data=b"x", detail="why", origin=Origin("t", 1, 2))
    written = msgspec.json.decode(record_of(letter, 4).value)
    schema = made["components"]["schemas"]["Written"]

    assert written.keys() <= schema["properties"].keys()
    assert set(schema["required"]) <= written.keys()
    columns = made["components"]["messages"]["batch"]["payload"]["x-arrow-schema"]
    assert [c["name"] for c in columns] == SCHEMA.names


@pytest.mark.parametrize("broken", [
    lambda d: d["info"].pop("version"),
    lambda d: d["channels"]["samples"].update(servers=[{"$ref": "#/servers/none"}]),
    lambda d: d["operations"]["sendSamples"].update(action="publish"),
    lambda d: d["operations"]["sendSamples"].update(messages=[{"$ref": "#/components/messages/batch"}]),
    lambda d: d["channels"].update({"a b": d["channels"]["samples"]}),
    lambda d: d["servers"]["embedded"].update(url="x"),
])  # fmt: skip
def test_the_rules_can_be_broken(broken):
    made = document(load_settings(environment={}))
    broken(made)

    with pytest.raises((AssertionError, KeyError)):
        check_rules(made)


def test_the_publishers_of_the_event_pipeline(tmp_path):
    (tmp_path / "event_pipeline.yaml").write_text(
        "sources: [{name: a, events: ['*'], sinks: [out]}]\n"
        "sinks: [{name: out, publishers: ['store://', 'kafka://h1/events?format=cloudevents', 'kafka://h1/old?format=ceilometer']}]\n"
    )
    command = [
        sys.executable,
        "-m",
        "nephoscope.cli",
        "asyncapi",
        "--set",
        "event_pipeline_cfg_file=event_pipeline.yaml",
    ]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    made = yaml.safe_load(said)

    check_rules(made)
    messages = {c["address"]: list(c["messages"]) for c in made["channels"].values()}
    assert messages["events"] == ["event-cloudevents"]
    assert messages["old"] == ["event-ceilometer"]
    assert "EventForm" in made["components"]["schemas"]
