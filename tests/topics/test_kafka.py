"""Kafka's own business: how topics are made, what is expired, large, refused or secret."""

import logging
import uuid

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from nephoscope.batch import MAX_MESSAGE
from nephoscope.errors import ConfigError, TopicError, Unavailable
from nephoscope.metrics import Counts
from nephoscope.settings import load_settings
from nephoscope.topics import DEAD_LETTERS, EVENTS, SAMPLES, Record
from nephoscope.topics.kafka import KafkaLog, Options, open_log, servers_of
from tests.servers import free_port
from tests.servers.kafka import PASSWORD, USER


@pytest.fixture
def prefix():
    return f"{uuid.uuid4()}."


@pytest.fixture
def admin(kafka):
    return AdminClient({"bootstrap.servers": kafka})


@pytest.fixture
def opened():
    """Open a log that is closed in the end."""
    logs = []

    def begin(*arguments, **options):
        logs.append(KafkaLog(*arguments, Options(**options)))
        return logs[-1]

    yield begin
    for log in logs:
        log.close()


def settings(**flags):
    return load_settings(environment={}, flags={k.replace("__", "."): v for k, v in flags.items()})


def read(log, offsets, count, timeout=10.0):
    consumer = log.consumer(SAMPLES, offsets)
    out = []
    while len(out) < count and (got := consumer.poll(timeout=timeout)):
        out += got
    consumer.close()
    return out


def expire(admin, topic, partition, before):
    (done,) = admin.delete_records([TopicPartition(topic, partition, before)]).values()
    assert done.result(10).low_watermark == before


def test_topics_are_made_with_the_times_of_the_broker_and_the_retention_asked_for(kafka, prefix, admin, opened):
    opened(kafka, 4, prefix=prefix, retention=7200.0, retention_bytes=4000)

    for topic in (SAMPLES, EVENTS, DEAD_LETTERS):
        (described,) = admin.describe_configs([ConfigResource("topic", prefix + topic)]).values()
        found = {name: entry.value for name, entry in described.result(10).items()}
        assert found["message.timestamp.type"] == "LogAppendTime"
        assert found["retention.ms"] == "7200000"
        assert found["retention.bytes"] == "1000"


def test_another_partition_count_is_refused(kafka, prefix, admin, opened):
    opened(kafka, 4, prefix=prefix)

    with pytest.raises(TopicError, match=r"telemetry\.samples has 4 partitions, not 8"):
        opened(kafka, 8, prefix=prefix)


def test_a_topic_that_somebody_else_made_is_refused_too_and_left_alone(kafka, prefix, admin, opened):
    admin.create_topics([NewTopic(prefix + EVENTS, 3, 1)])[prefix + EVENTS].result(10)

    with pytest.raises(TopicError, match=r"telemetry\.events has 3 partitions, not 4"):
        opened(kafka, 4, prefix=prefix)
    assert len(admin.list_topics(timeout=10).topics[prefix + EVENTS].partitions) == 3


def test_more_copies_than_brokers_are_refused(kafka, prefix, opened):
    with pytest.raises(TopicError, match=r"[Rr]eplication"):
        opened(kafka, 4, prefix=prefix, replication=3)


def test_writers_times_are_complained_about(kafka, prefix, admin, opened, caplog):
    plain = [NewTopic(prefix + t, 2, 1) for t in (SAMPLES, EVENTS, DEAD_LETTERS)]
    for done in admin.create_topics(plain).values():
        done.result(10)
    log = opened(kafka, 2, prefix=prefix)
    log.append(SAMPLES, [Record(0, b"a")])

    assert [m.value for m in read(log, {0: 0}, 1)] == [b"a"]
    assert "LogAppendTime" in caplog.text


def test_what_expired_before_it_was_read_is_told_with_its_range(kafka, prefix, admin, opened, caplog):
    log = opened(kafka, 3, prefix=prefix)
    log.append(SAMPLES, [Record(i % 2, b"%d" % i) for i in range(20)])
    expire(admin, prefix + SAMPLES, 0, 4)
    before = Counts("log").values().get("dropped.expired", 0)

    consumer = log.consumer(SAMPLES, {0: 1, 1: 0, 2: 0})
    got = []
    while messages := consumer.poll():
        got += messages

    assert [m.offset for m in got if m.partition == 0] == [4, 5, 6, 7, 8, 9]
    assert [m.offset for m in got if m.partition == 1] == list(range(10))
    assert consumer.missed == 3
    assert Counts("log").values()["dropped.expired"] - before == 3
    told = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [r.getMessage() for r in told] == [
        f"{prefix}{SAMPLES}: messages 1 to 3 of partition 0 were removed before they were read"
    ]
    assert log.begin(SAMPLES) == [4, 0, 0]
    # What comes later is read as if nothing had happened.
    log.append(SAMPLES, [Record(0, b"new")])
    assert [m.value for m in consumer.poll(timeout=10)] == [b"new"]
    consumer.close()


def test_a_reader_that_retention_overtakes_goes_on_at_the_oldest(kafka, prefix, admin, opened):
    log = opened(kafka, 1, prefix=prefix, prefetch_bytes=1 << 20)
    consumer = log.consumer(SAMPLES, {0: 0})
    log.append(SAMPLES, [Record(0, b"first")])
    assert [m.value for m in consumer.poll(timeout=10)] == [b"first"]
    # More than is read ahead: the rest is still with the broker when it goes.
    for _ in range(10):
        log.append(SAMPLES, [Record(0, bytes(800_000))])
    expire(admin, prefix + SAMPLES, 0, 10)

    offsets = []
    while not offsets or offsets[-1] < 10:
        offsets += [m.offset for m in consumer.poll(1, timeout=10)]

    assert offsets == [*range(1, len(offsets)), 10]
    assert consumer.missed == 10 - len(offsets) > 0
    consumer.close()


def test_a_message_of_the_greatest_size_goes_through_and_a_larger_one_is_refused_for_good(kafka, prefix, opened):
    log = opened(kafka, 2, prefix=prefix, prefetch_bytes=1 << 20)
    # Nothing that could be compressed to less.
    blob = b"".join(uuid.uuid4().bytes for _ in range(MAX_MESSAGE // 16))
    assert log.append(SAMPLES, [Record(i % 2, blob) for i in range(12)]) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]

    with pytest.raises(TopicError, match="too large"):
        log.append(SAMPLES, [Record(0, bytes(2_000_000))])
    assert log.append(SAMPLES, [Record(0, b"small")]) == [6]

    assert [len(m.value) for m in read(log, {0: 0, 1: 0}, 13)].count(len(blob)) == 12


def test_nobody_there_is_unavailable(prefix, opened):
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        opened(f"127.0.0.1:{free_port()}", 4, prefix=prefix, timeout=1.0)


def test_a_password_opens_the_log_and_is_told_to_nobody(kafka_addresses, prefix, caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    flags = {
        "log__url": f"kafka://{kafka_addresses[1]}",
        "partitions": "2",
        "log__kafka__topic_prefix": prefix,
        "log__kafka__security_protocol": "sasl_plaintext",
        "log__kafka__sasl_mechanism": "PLAIN",
        "log__kafka__sasl_username": USER,
        "log__kafka__timeout": "5",
    }
    good = load_settings(
        environment={"KAFKA_PASSWORD": PASSWORD},
        flags={k.replace("__", "."): v for k, v in flags.items()}
        | {"log.kafka.sasl_password": "${env:KAFKA_PASSWORD}"},
    )
    log = open_log(good)
    assert log.append(SAMPLES, [Record(1, b"x")]) == [0]
    assert [m.value for m in read(log, {1: 0}, 1)] == [b"x"]
    log.close()
    assert PASSWORD not in repr(good) + repr(log.__dict__["_options"]) + caplog.text

    bad = settings(**{**flags, "log__kafka__timeout": "1", "log__kafka__sasl_password": "wrong-horse"})
    with pytest.raises(Unavailable, match=r"[Aa]uthentication") as told:
        open_log(bad)
    assert "wrong-horse" not in str(told.value) + caplog.text


def test_librdkafkas_own_options_are_passed_on(kafka, prefix, opened):
    with pytest.raises(TopicError, match=r"no\.such\.option"):
        opened(kafka, 1, prefix=prefix, client={"no.such.option": "1"})


@pytest.mark.parametrize("name", ["acks", "enable.idempotence", "auto.offset.reset", "bootstrap.servers"])
def test_what_the_guarantees_rest_on_is_not_the_users_to_set(name):
    with pytest.raises(ConfigError, match="not yours"):
        open_log(settings(log__url="kafka://127.0.0.1:1", log__kafka__options=f"{name}=1"))


@pytest.mark.parametrize(
    "url,expected",
    [
        ("kafka://a:1,b:2", "a:1,b:2"),
        ("kafka://a/", "a"),
        ("kafka://", None),
        ("kafka://user:secret@a", None),
        ("kafka://a/topic", None),
    ],
)
def test_the_url_names_brokers_and_nothing_else(url, expected):
    if expected:
        assert servers_of(url) == expected
        return
    with pytest.raises(ConfigError, match=r"log\.url") as told:
        servers_of(url)
    assert "secret" not in str(told.value)
