"""kafka://: what consumers of a real broker read."""

import json
import time
import uuid

import pyarrow as pa
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from nephoscope import publishers
from nephoscope.batch import batch_of
from nephoscope.errors import ConfigError, Unavailable
from nephoscope.event import Event, Trait
from nephoscope.identity import format_id
from nephoscope.partition import partition
from nephoscope.sample import Sample, sample_to_dict, verify
from nephoscope.store import Refused
from sinks.kafka import KafkaPublisher
from tests.servers.kafka import PASSWORD, USER

PARTITIONS = 8


def sample(number, **more):
    fields = {"name": "cpu", "type": "gauge", "unit": "%", "resource_id": f"vm-{number % 5}", "volume": float(number)}
    return Sample(**fields | {"timestamp": 1_700_000_000_000_000 + number, "id": number.to_bytes(16, "big")} | more)


def rows(*numbers):
    return batch_of([sample(n) for n in numbers]).rows


@pytest.fixture
def topic(kafka):
    """A topic of our own with 8 partitions."""
    name = f"published.{uuid.uuid4()}"
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(10)
    return name


def read(kafka, topic, count):
    """`count` messages of a topic, by partition and offset."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "none", "enable.auto.commit": "false"})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(PARTITIONS)])
    found, deadline = [], time.monotonic() + 60
    while len(found) < count:
        message = consumer.poll(1)
        if message is None:
            assert time.monotonic() < deadline, f"{len(found)} of {count}"
            continue
        assert message.error() is None
        found.append(message)
    consumer.close()
    return sorted(found, key=lambda m: (m.partition(), m.offset()))


def published(kafka, topic, options, some, *more, count=None):
    publisher = KafkaPublisher(f"kafka://{kafka}/{topic}{options}", *more)
    publisher.publish(some)
    publisher.flush()
    publisher.close()
    return read(kafka, topic, count or sum(r.num_rows for r in some))


def test_a_message_a_sample_with_its_id_in_the_order_of_the_log(kafka, topic):
    messages = published(kafka, topic, "", [rows(*range(20)), rows(*range(20, 30))])

    by_resource = {}
    for message in messages:
        value = json.loads(message.value())
        assert value == sample_to_dict(sample(int(value["volume"])))
        assert dict(message.headers()) == {"id": value["id"].encode(), "content-type": b"application/json"}
        assert message.key() == value["resource_id"].encode()
        by_resource.setdefault(value["resource_id"], []).append((message.partition(), value["volume"]))
    for number, found in enumerate(by_resource[f"vm-{n}"] for n in range(5)):
        assert len({p for p, _ in found}) == 1
        assert [v for _, v in found] == [float(v) for v in range(number, 30, 5)]


def test_as_cloud_events_and_in_the_partitions_of_the_log(kafka, topic):
    messages = published(kafka, topic, "?format=cloudevents&key=partition", [rows(*range(10))])

    for message in messages:
        event = json.loads(message.value())
        assert dict(message.headers())["content-type"] == b"application/cloudevents+json"
        assert dict(message.headers())["id"] == event["id"].encode() == format_id(sample(int(event["data"]["volume"])).id).encode()  # fmt: skip
        assert message.key() is None
        assert message.partition() == partition(event["subject"], PARTITIONS)


def test_ceilometers_messages_are_signed(kafka, topic):
    (message,) = published(kafka, topic, "?format=ceilometer", [rows(3)], "s3cret")

    assert verify(json.loads(message.value()), "s3cret")
    assert json.loads(message.value())["counter_volume"] == 3


@pytest.mark.parametrize("key,count", [("partition", len({partition(f"vm-{n}", PARTITIONS) for n in range(5)})), ("resource", 5)])  # fmt: skip
def test_arrow_streams_that_anybody_can_open(kafka, topic, key, count):
    messages = published(kafka, topic, f"?format=arrow&key={key}", [rows(*range(20))], count=count)

    volumes = []
    for message in messages:
        table = pa.ipc.open_stream(message.value()).read_all()
        assert dict(message.headers()) == {
            "rows": str(table.num_rows).encode(),
            "content-type": b"application/vnd.apache.arrow.stream",
        }
        resources = set(table.column("resource_id").to_pylist())
        if key == "resource":
            assert resources == {message.key().decode()}
        assert key == "resource" or {partition(r, PARTITIONS) for r in resources} == {message.partition()}
        volumes += table.column("volume").to_pylist()
    assert sorted(volumes) == [float(n) for n in range(20)]


def test_arrow_is_cut_to_what_brokers_take(kafka, topic):
    some = batch_of([sample(n, resource_id="vm", metadata=json.dumps({"a": f"{n:0200000}"})) for n in range(6)]).rows

    messages = published(kafka, topic, "?format=arrow", [some], count=2)

    tables = [pa.ipc.open_stream(m.value()).read_all() for m in messages]
    assert [t.num_rows for t in tables] == [3, 3]


def test_what_is_too_large_is_refused_and_the_rest_is_there(kafka, topic):
    large = sample(1, resource_id="vm-0", metadata=json.dumps({"a": "x" * 2_000_000}))
    publisher = KafkaPublisher(f"kafka://{kafka}/{topic}")
    publisher.publish([batch_of([sample(0), large, sample(2, resource_id="vm-0")]).rows])

    with pytest.raises(Refused, match="too large") as caught:
        publisher.flush()

    assert [r.column("volume").to_pylist() for r in caught.value.rows] == [[1.0]]
    assert [json.loads(m.value())["volume"] for m in read(kafka, topic, 2)] == [0.0, 2.0]
    publisher.close()


def test_with_a_password(kafka_addresses, topic, monkeypatch):
    monkeypatch.setenv("KAFKA_SECRET", PASSWORD)
    options = f"?security_protocol=sasl_plaintext&sasl_mechanism=PLAIN&sasl_username={USER}&sasl_password=${{env:KAFKA_SECRET}}"
    publisher = KafkaPublisher(f"kafka://{kafka_addresses[1]}/{topic}{options}")
    publisher.publish([rows(1)])
    publisher.flush()
    publisher.close()

    assert len(read(kafka_addresses[0], topic, 1)) == 1


def test_brokers_that_are_away_and_what_is_given_up():
    publisher = KafkaPublisher("kafka://127.0.0.1:1/t?timeout=1")
    publisher.publish([rows(1, 2, 3)])
    with pytest.raises(Unavailable, match="topic t: "):
        publisher.flush()

    assert publisher.discard() == 3
    publisher.flush()
    publisher.close()


@pytest.mark.parametrize(
    "url,problem",
    [
        ("kafka://h/t?fromat=json", "there is no option 'fromat' of kafka:// (did you mean 'format'?)"),
        ("kafka://h/t?format=avro", "format=avro (did you mean 'arrow'?)"),
        ("kafka://h/t?key=resorce", "key=resorce (did you mean 'resource'?)"),
        ("kafka://h/t?sasl_password=open", "sasl_password=… (a secret stands here by reference"),
        ("kafka://u:open@h/t", "no passwords here"),
        ("kafka://h", "names no topic (kafka://HOST:PORT/TOPIC)"),
        ("kafka:///t", "names no brokers"),
        ("kafka://h:x/t", "names no brokers"),
        ("kafka://h/t/u", "'t/u' is no topic"),
        ("kafka://h/t?topic=u", "twice"),
        ("kafka://h/t?polcy=wait", "did you mean 'policy'?"),
    ],
)
def test_mistakes_in_a_url_are_told_when_it_is_loaded(url, problem):
    found = [str(p) for p in publishers.check(url)]

    assert any(problem in p for p in found), found
    assert not any("open" in p for p in found)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://h/t",
        "kafka://h:1,[::1]:2,h3/t.x_y-z?format=arrow&key=resource&policy=drop&max_queue_length=5",
        "kafka://h:9092?topic=t&policy=default&max_queue_length=1024&max_retry=100",
        "kafka://h/t?sasl_password=${file:/run/secrets/kafka}",
    ],
)
def test_urls_that_are_right(url):
    assert publishers.check(url) == []


def test_what_librdkafka_does_not_take_is_a_mistake_in_the_url():
    with pytest.raises(ConfigError, match="kafka://"):
        KafkaPublisher("kafka://h/t?security_protocol=ssl&ssl_ca_location=/no/such/file")


def event(number, **more):
    traits = (Trait("number", "int", number),)
    return Event(**{"message_id": f"m-{number}", "event_type": "a.b", "generated": 1, "traits": traits, **more})


@pytest.mark.parametrize("options", ["", "?format=cloudevents&key=partition", "?format=ceilometer"])
def test_a_message_an_event(kafka, topic, options):
    publisher = KafkaPublisher(f"kafka://{kafka}/{topic}{options}", "s3cret")
    publisher.publish_events([event(i) for i in range(10)])
    publisher.flush()
    publisher.close()
    messages = read(kafka, topic, 10)

    for message in messages:
        name = dict(message.headers())["id"].decode()
        value = json.loads(message.value())
        assert value.get("message_id", value.get("id")) == name
        assert message.key() == (None if "partition" in options else name.encode())
        if "partition" in options:
            assert message.partition() == partition(name, PARTITIONS)
        if "ceilometer" in options:
            assert verify(value, "s3cret")
    assert sorted(dict(m.headers())["id"] for m in messages) == sorted(f"m-{i}".encode() for i in range(10))


def test_an_event_larger_than_the_brokers_take_is_refused_and_the_others_are_there(kafka, topic):
    publisher = KafkaPublisher(f"kafka://{kafka}/{topic}?compression=none")
    publisher.publish_events([event(1), event(2, raw=json.dumps({"x": "y" * 3_000_000})), event(3)])

    with pytest.raises(Refused) as caught:
        publisher.flush()
    publisher.close()
    assert [e.message_id for e in caught.value.events] == ["m-2"]
    assert sorted(m.key() for m in read(kafka, topic, 2)) == [b"m-1", b"m-3"]


def test_arrow_is_no_form_of_events():
    url = "kafka://h:1/t?format=arrow"
    assert publishers.check(url) == []
    assert "arrow" in str(publishers.check(url, events=True)[0])
