"""`dead-letters`: listed, shown, sent again, and what cannot be is told."""

import json

import pytest

from nephoscope.batch import Header, batch_of, decode, encode
from nephoscope.dead_letters import KEPT, DeadLetter, Origin, bury, letters
from nephoscope.filters import Compare
from nephoscope.push import push
from nephoscope.sample import sample_from_dict, sample_to_ceilometer, sample_to_dict, to_json
from nephoscope.topics import DEAD_LETTERS, SAMPLES, Record
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore


def made(name="cpu", **more):
    about = {"type": "gauge", "unit": "%", "volume": 1.5, "resource_id": "vm", "timestamp": "2015-06-01T12:00:00"}
    return sample_from_dict({"name": name, **about, **more})


@pytest.fixture
def log(tmp_path):
    """The log where commands in this folder look for it."""
    (tmp_path / "var" / "nephoscope").mkdir(parents=True)
    log = EmbeddedLog(tmp_path / "var" / "nephoscope" / "log.db")
    yield log
    log.close()


def on_topic(log):
    """(partition, batch) of every message on telemetry.samples."""
    consumer = log.consumer(SAMPLES, dict(enumerate(log.begin(SAMPLES))))
    try:
        return [(m.partition, decode(m.value)) for m in consumer.poll()]
    finally:
        consumer.close()


def listed(nephoscope, *arguments):
    done = nephoscope("dead-letters", "list", "--json", *arguments)
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_none(nephoscope, log):
    assert listed(nephoscope) == []
    assert "0 dead letters" in nephoscope("dead-letters", "list").err
    assert nephoscope("dead-letters", "replay", "--yes").status == 0


def test_they_are_listed_by_time_with_their_origin(nephoscope, log):
    bury(log, [DeadLetter(reason="undecodable", data=b"1", origin=Origin(SAMPLES, 7, 3), detail="why")])
    bury(log, [DeadLetter(reason="volume", data=b"22", key="vm")])

    first, second = listed(nephoscope)
    assert (first["letter"], first["reason"], first["origin"]) == ("7:0", "undecodable", "telemetry.samples[7]@3")
    assert (first["detail"], second["size"], second["origin"]) == ("why", 2, "")

    assert [one["reason"] for one in listed(nephoscope, "--reason", "volume")] == ["volume"]
    # The newest of them.
    assert [one["reason"] for one in listed(nephoscope, "--limit", "1")] == ["volume"]
    assert (
        "2 dead letters (1 undecodable, 1 volume), the newest 1 are shown"
        in nephoscope("dead-letters", "list", "-l", "1").err
    )


def test_more_than_one_read_of_the_log_takes(log):
    bury(log, [DeadLetter(reason="volume", data=b"%d" % i, key=str(i)) for i in range(2500)])

    assert sorted(int(one.data) for one in letters(log)) == list(range(2500))


def test_one_is_shown_as_a_whole(nephoscope, log):
    bury(log, [DeadLetter(reason="volume", data=b'{"name": "\x1b[31mred"}', origin=Origin(SAMPLES, 1, 0))])
    bury(log, [DeadLetter(reason="undecodable", data=bytes(range(256)), origin=Origin(SAMPLES, 2, 0))])

    done = nephoscope("dead-letters", "show", "1:0", "2:0")

    assert done.status == 0
    assert '{"name": "\N{REPLACEMENT CHARACTER}[31mred"}' in done.out
    assert "000030  30 31 32 33 34 35 36 37 38 39 3a 3b 3c 3d 3e 3f  0123456789:;<=>?" in done.out


@pytest.mark.parametrize("name,word", [("1:0", "there is no dead letter 1:0"), ("x", "PARTITION:OFFSET")])
def test_one_that_there_is_not(nephoscope, log, name, word):
    done = nephoscope("dead-letters", "show", name)

    assert done.status == 1
    assert word in done.err


@pytest.mark.parametrize("form", [sample_to_dict, sample_to_ceilometer])
def test_a_sample_in_either_form_goes_on_its_way_again(nephoscope, log, form):
    sample = made(resource_metadata={"flavor": "m1"})
    bury(log, [DeadLetter(reason="timestamp", data=to_json(form(sample)), key="vm")])

    done = nephoscope("dead-letters", "replay", "--yes")

    assert done.status == 0, done.err
    ((_, batch),) = on_topic(log)
    assert list(batch.samples()) == [sample]
    assert "1 samples onto telemetry.samples, 0 into the store" in done.err


def test_a_sample_without_an_id_has_the_same_each_time(nephoscope, log):
    text = b'{"name":"cpu","type":"gauge","volume":1,"resource_id":"vm","timestamp":"2015-06-01T12:00:00"}'
    bury(log, [DeadLetter(reason="x", data=text, key="vm"), DeadLetter(reason="x", data=text, key="vm")])

    nephoscope("dead-letters", "replay", "--yes")
    nephoscope("dead-letters", "replay", "--yes")

    ids = [s.id for _, batch in on_topic(log) for s in batch.samples()]
    assert len(ids) == 4
    assert len(set(ids)) == 2


def test_what_the_flow_refused_row_by_row_is_a_sample_again(nephoscope, log, tmp_path):
    """A timestamp in the future is refused; later it no longer is."""
    from flows.outlet import letter_of
    from flows.plan import compile_plan
    from flows.stage import process
    from flows.state import State
    from nephoscope.pipeline import parse_pipeline
    from nephoscope.topics import Message

    text = "sources: [{name: s, meters: ['*'], sinks: [k]}]\nsinks: [{name: k, transformers: [], publishers: ['database://']}]\n"
    plan = compile_plan(parse_pipeline(text, publisher_schemes=()))
    sample = made(resource_metadata={"a": [1]}, user_id="u")
    # To this message's clock, the sample is of a far future.
    out = process(plan, State(plan), [Message(3, 0, 1_000_000, encode(batch_of([sample])))])
    assert [d.reason for d in out.dead] == ["timestamp"]
    bury(log, [letter_of(d) for d in out.dead])

    assert nephoscope("dead-letters", "replay", "--yes").status == 0

    ((_, batch),) = on_topic(log)
    assert list(batch.samples()) == [sample]


def test_a_whole_message_goes_where_it_was_under_its_own_header(nephoscope, log):
    message = encode(batch_of([made(), made("mem")], Header(interval=60, polling=("host",))))
    bury(log, [DeadLetter(reason="undecodable", data=message, origin=Origin(SAMPLES, 9, 0))])

    assert nephoscope("dead-letters", "replay", "9:0", "--yes").status == 0

    ((partition, batch),) = on_topic(log)
    assert (partition, len(batch), batch.header.interval, batch.header.polling) == (9, 2, 60, ("host",))


def test_what_the_store_refused_goes_to_the_store(nephoscope, log, tmp_path):
    sample = made("cpu_util", id="derived")
    bury(log, [DeadLetter(reason="store_refused", data=to_json(sample_to_dict(sample)), key="vm")])

    assert nephoscope("dead-letters", "replay", "--yes").status == 0

    assert on_topic(log) == []
    store = SQLStore(f"sqlite:///{tmp_path}/var/nephoscope/samples.db")
    assert [s.name for s in store.each_sample(Compare("timestamp", ">", 0))] == ["cpu_util"]
    store.close()


@pytest.mark.parametrize(
    "letter,problem",
    [
        (DeadLetter(reason="too_large", data=b"{" + b"x" * KEPT), f"truncated: {KEPT} of {KEPT + 1} bytes are kept"),
        (DeadLetter(reason="undecodable", data=b"NEPH\x01rubbish"), "still no batch"),
        (DeadLetter(reason="json", data=b"\xff\x00"), "still no sample: neither a batch nor JSON"),
        (DeadLetter(reason="json", data=b"[1]"), "still no sample: a sample is a JSON object"),
        (DeadLetter(reason="volume", data=b'{"timestamp": 5, "id": 7, "resource_metadata": "{}"}'), "still no sample"),
        (DeadLetter(reason="timestamp", data=to_json(sample_to_dict(made(timestamp="2199-01-01T00:00:00")))), "max_future"),
        (DeadLetter(reason="too_large", data=to_json(sample_to_dict(made(user_id="x" * 2000)))), "the limit is 1024"),
    ],
    ids=["truncated", "batch", "bytes", "list", "row", "future", "large"],
)  # fmt: skip
def test_what_would_be_refused_again_stays_and_is_told(nephoscope, log, letter, problem):
    bury(log, [letter])

    done = nephoscope("dead-letters", "replay", "--yes", "--set", "max_sample_bytes=1024")

    assert done.status == 1
    assert problem in done.err
    assert on_topic(log) == []
    # Nothing was buried anew.
    assert sum(log.end(DEAD_LETTERS)) == 1


def test_some_of_them(nephoscope, log):
    good = to_json(sample_to_dict(made()))
    bury(log, [DeadLetter(reason=r, data=d, key="vm") for r, d in (("a", good), ("a", b"?"), ("b", good))])

    done = nephoscope("dead-letters", "replay", "--yes", "--reason", "a")

    assert done.status == 0
    assert "replayed 1 of 2 dead letters" in done.err
    assert len(on_topic(log)) == 1


def test_nothing_happens_without_consent(nephoscope, log):
    bury(log, [DeadLetter(reason="a", data=to_json(sample_to_dict(made())))])

    done = nephoscope("dead-letters", "replay")

    assert done.status == 1
    assert "say --yes" in done.err
    assert on_topic(log) == []


def test_what_somebody_else_wrote_onto_the_topic_is_listed_as_well(nephoscope, log):
    log.append(DEAD_LETTERS, [Record(4, b"{}"), Record(4, b'{"reason":"r","size":1,"data_base64":"?"}')])

    found = listed(nephoscope)

    assert [(one["letter"], one["reason"], one["size"]) for one in found] == [
        ("4:0", "no_letter", 2),
        ("4:1", "no_letter", 41),
    ]


def test_what_push_refuses_comes_back_with_a_larger_limit(nephoscope, log):
    push(log, [made(user_id="x" * 2000, id="big")], max_sample_bytes=1024)
    assert on_topic(log) == []

    assert nephoscope("dead-letters", "replay", "--yes").status == 0

    ((_, batch),) = on_topic(log)
    assert len(batch) == 1
