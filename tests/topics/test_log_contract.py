"""What every log does, whatever it is made of (nephoscope.topics.Log)."""

import time
import uuid

import pytest

from nephoscope import times
from nephoscope.errors import TopicError
from nephoscope.topics import DEAD_LETTERS, SAMPLES, TOPICS, Record
from nephoscope.topics.embedded import EmbeddedLog


@pytest.fixture(params=["embedded", "kafka"])
def log(request, tmp_path):
    if request.param == "embedded":
        log = EmbeddedLog(tmp_path / "log.db", 4)
    else:
        from nephoscope.topics.kafka import KafkaLog, Options

        log = KafkaLog(request.getfixturevalue("kafka"), 4, Options(prefix=f"{uuid.uuid4()}."))
    yield log
    log.close()


def everything(log, topic=SAMPLES, offsets=None, limit=1000):
    consumer = log.consumer(topic, dict.fromkeys(range(log.partitions(topic)), 0) if offsets is None else offsets)
    out = []
    while got := consumer.poll(limit):
        out += got
    consumer.close()
    return out


def test_every_topic_has_the_partitions_asked_for(log):
    assert [log.partitions(t) for t in TOPICS] == [4, 4, 4]
    assert log.begin(SAMPLES) == log.end(SAMPLES) == [0, 0, 0, 0]


def test_offsets_are_dense_in_each_partition_of_each_topic(log):
    assert log.append(SAMPLES, [Record(1, b"a"), Record(3, b"b"), Record(1, b"c")]) == [0, 0, 1]
    assert log.append(SAMPLES, [Record(1, b"d")]) == [2]
    assert log.append(DEAD_LETTERS, [Record(1, b"e")]) == [0]

    assert log.end(SAMPLES) == [0, 3, 0, 1]
    assert log.end(DEAD_LETTERS) == [0, 1, 0, 0]


def test_what_is_read_is_what_was_appended_in_each_partitions_order(log):
    log.append(SAMPLES, [Record(1, b"a", b"key"), Record(3, b"b")])
    log.append(SAMPLES, [Record(1, b"c")])

    got = everything(log)

    assert [(m.offset, m.value, m.key) for m in got if m.partition == 1] == [(0, b"a", b"key"), (1, b"c", b"")]
    assert [(m.offset, m.value, m.key) for m in got if m.partition == 3] == [(0, b"b", b"")]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
def test_a_consumer_reads_its_partitions_from_their_offsets_only(log, limit):
    log.append(SAMPLES, [Record(i % 4, b"%d" % i) for i in range(40)])

    got = everything(log, offsets={1: 3, 2: 9}, limit=limit)

    assert [m.value for m in got if m.partition == 1] == [b"%d" % i for i in range(13, 40, 4)]
    assert [m.value for m in got] == [b"%d" % i for i in range(40) if (i % 4 == 1 and i >= 13) or i == 38]


def test_append_times_are_the_logs_and_never_fall_in_a_partition(log):
    before = times.now()
    for i in range(20):
        log.append(SAMPLES, [Record(0, b"%d" % i)])

    moments = [m.append_time for m in everything(log)]
    assert moments == sorted(moments)
    # To a millisecond: no log need know it better.
    assert before - 1000 <= moments[0] <= moments[-1] <= times.now()


def test_a_waiting_consumer_wakes_up(log):
    consumer = log.consumer(SAMPLES, {0: 0})
    started = time.monotonic()
    assert consumer.poll(timeout=0.05) == []
    assert time.monotonic() - started >= 0.05

    log.append(SAMPLES, [Record(0, b"x")])
    assert [m.value for m in consumer.poll(timeout=5)] == [b"x"]
    assert consumer.poll() == []
    consumer.close()


def test_other_partitions_messages_do_not_wake_it_up(log):
    consumer = log.consumer(SAMPLES, {0: 0})
    log.append(SAMPLES, [Record(1, b"x")])
    log.append(DEAD_LETTERS, [Record(0, b"y")])

    assert consumer.poll() == []
    consumer.close()


def test_nothing_appended_is_no_message(log):
    assert log.append(SAMPLES, []) == []
    assert everything(log) == []


@pytest.mark.parametrize("partition", [-1, 4])
def test_a_partition_that_is_not_there_is_refused_and_nothing_of_the_call_stays(log, partition):
    with pytest.raises(TopicError, match="4 partitions"):
        log.append(SAMPLES, [Record(0, b"a"), Record(partition, b"b")])
    with pytest.raises(TopicError, match="4 partitions"):
        log.consumer(SAMPLES, {partition: 0})

    assert log.end(SAMPLES) == [0, 0, 0, 0]


def test_an_unknown_topic_is_refused_with_the_nearest(log):
    with pytest.raises(TopicError, match=r"telemetry\.samples"):
        log.append("telemetry.sample", [Record(0, b"")])


def test_an_offset_that_was_never_given_out_is_refused(log):
    log.append(SAMPLES, [Record(0, b"a")])
    log.consumer(SAMPLES, {0: 1}).close()

    with pytest.raises(TopicError, match="ends at 1"):
        log.consumer(SAMPLES, {0: 2})
