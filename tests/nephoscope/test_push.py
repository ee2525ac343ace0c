"""push: samples onto the topic, each on its resource's partition; what cannot be read lies in the dead letters."""

import json
import math

import msgspec
import pytest

from nephoscope import identity
from nephoscope.batch import MAX_MESSAGE, Header, decode
from nephoscope.dead_letters import KEPT, DeadLetter, Origin, bury, data_of
from nephoscope.errors import Unavailable
from nephoscope.partition import partition
from nephoscope.push import marks, push
from nephoscope.sample import Sample
from nephoscope.topics import DEAD_LETTERS, SAMPLES
from nephoscope.topics.embedded import EmbeddedLog


@pytest.fixture
def log(tmp_path):
    log = EmbeddedLog(tmp_path / "log.db", 8)
    yield log
    log.close()


def sample(resource="r", volume=1.0, **more):
    given = {"name": "m", "type": "gauge", "unit": "B", "timestamp": 1_000_000, "id": identity.drawn_id()} | more
    return Sample(resource_id=resource, volume=volume, **given)


def messages(log, topic=SAMPLES):
    consumer = log.consumer(topic, dict.fromkeys(range(8), 0))
    got = consumer.poll(100_000)
    consumer.close()
    return got


def letters(log):
    return [json.loads(m.value) for m in messages(log, DEAD_LETTERS)]


def test_every_sample_lies_on_its_resources_partition_in_the_order_given(log):
    samples = [sample(f"r{i % 20}", float(i)) for i in range(200)]

    pushed = push(log, iter(samples))

    assert (pushed.sent, pushed.dropped) == (200, 0)
    got = {m.partition: list(decode(m.value).samples()) for m in messages(log)}
    assert all(partition(s.resource_id, 8) == p for p, batch in got.items() for s in batch)
    for p, batch in got.items():
        assert batch == [s for s in samples if partition(s.resource_id, 8) == p]


def test_the_header_travels_along(log):
    header = Header(interval=60, polling=("a", "b"), member="me")
    push(log, [sample()], header)

    assert decode(messages(log)[0].value).header == header


def test_either_json_form_is_taken_parsed_or_as_text(log):
    own = {
        "name": "m",
        "type": "gauge",
        "unit": "",
        "volume": 1,
        "resource_id": "r",
        "timestamp": "2015-06-01T12:00:00",
    }
    old = {"counter_name": "m", "counter_type": "gauge", "counter_volume": "2", "message_id": "k"} | {
        k: own[k] for k in ("resource_id", "timestamp")
    }

    assert push(log, [own, json.dumps(old), json.dumps(old).encode()]).sent == 3
    (message,) = messages(log)
    got = list(decode(message.value).samples())
    assert [s.volume for s in got] == [1, 2, 2]
    assert got[1].id == got[2].id == identity.parse_id("k")


@pytest.mark.parametrize(
    "bad,reason",
    [
        (b"{", "json"),
        ("[1]", "json"),
        (b"\xff\xfe", "json"),
        ({"name": "m"}, "type"),
        (sample(volume=math.nan), "volume"),
        (sample(volume=-math.inf), "volume"),
        (sample(metadata=json.dumps({"a": "x" * 300_000})), "too_large"),
        (sample(name="n" * 300_000), "too_large"),
        (sample(metadata=json.dumps({"a": "€" * 100_000}, ensure_ascii=False)), "too_large"),
        (sample(resource="\ud800"), "text"),
        ({"name": "m", "type": "gauge", "volume": 1, "resource_id": "\ud800", "timestamp": "2015-06-01"}, "text"),
        (b'"' + b"x" * 2_000_000 + b'"', "too_large"),
        ({"name": object()}, "type"),
    ],
)
def test_what_cannot_be_used_lies_in_the_dead_letters_and_the_rest_goes_on(log, bad, reason):
    pushed = push(log, [sample("before"), bad, sample("after")])

    assert pushed.sent == 2
    assert pushed.refused == {reason: 1}
    (letter,) = letters(log)
    assert letter["reason"] == reason
    assert {s.resource_id for m in messages(log) for s in decode(m.value).samples()} == {"before", "after"}


def test_a_deeply_nested_sample_is_refused(log):
    nested = []
    for _ in range(100_000):
        nested = [nested]
    bad = {
        "name": "m",
        "type": "gauge",
        "volume": 1,
        "resource_id": "r",
        "timestamp": "2015-06-01",
        "resource_metadata": {"a": nested},
    }

    assert push(log, [bad]).refused == {"metadata": 1}
    while nested:  # Taken apart by hand: the interpreter's own way is recursive.
        nested = nested.pop()


def test_a_dead_letter_keeps_64_kib_and_says_how_much_there_was(log):
    data = bytes(range(256)) * 40_000
    bury(log, [DeadLetter(reason="checksum", detail="why", data=data, origin=Origin(SAMPLES, 5, 77))])

    (message,) = messages(log, DEAD_LETTERS)
    letter = json.loads(message.value)
    assert message.partition == 5
    assert letter["origin"] == {"topic": SAMPLES, "partition": 5, "offset": 77}
    assert letter["size"] == len(data)
    assert data_of(message.value) == data[:KEPT]
    assert len(message.value) < 100_000


def test_a_large_push_makes_messages_that_every_broker_takes(log):
    metadata = [json.dumps({"pad": f"{i}" * 20_000}) for i in range(9)]
    push(log, [sample("r", float(i), metadata=metadata[i % 9] + " " * i) for i in range(60)])

    got = messages(log)
    assert len(got) > 1
    assert max(len(m.value) for m in got) <= MAX_MESSAGE
    assert [s.volume for m in got for s in decode(m.value).samples()] == [float(i) for i in range(60)]


def test_nothing_of_a_push_stays_where_the_log_is_away(log, monkeypatch):
    def away(topic, records):
        raise Unavailable("away")

    monkeypatch.setattr(log, "append", away)
    with pytest.raises(Unavailable):
        push(log, [sample()])


def test_marks_go_to_every_partition(log):
    log.append(SAMPLES, marks(5_000_000, 8, "me"))

    got = messages(log)
    assert [m.partition for m in got] == list(range(8))
    assert {decode(m.value).header for m in got} == {Header(mark=5_000_000, member="me")}
    assert sum(len(decode(m.value)) for m in got) == 0
    assert msgspec.json.encode(got[0].offset) == b"0"
