"""What is stored, asked for and pushed from the command line."""

import json

import pytest

from nephoscope import filters
from nephoscope.batch import batch_of
from nephoscope.cli.samples import parse_query
from nephoscope.errors import NephoscopeError, StoreError
from nephoscope.sample import sample_from_dict, verify
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sinks.sql import SQLStore


def made(volume, second, name="cpu", resource="vm", **more):
    return sample_from_dict(
        {
            "name": name,
            "type": "gauge",
            "unit": "%",
            "volume": volume,
            "resource_id": resource,
            "timestamp": f"2015-06-01T12:00:{second:02d}",
            "id": f"{name}-{resource}-{second}",
            **more,
        }
    )


@pytest.fixture
def stored(tmp_path):
    """A store with four samples, where commands in this folder look for it."""
    (tmp_path / "var" / "nephoscope").mkdir(parents=True)
    store = SQLStore(f"sqlite:///{tmp_path}/var/nephoscope/samples.db")
    samples = [made(1, 0), made(2, 10), made(6, 20), made(5, 0, "mem", "other", resource_metadata={"n": 2})]
    store.write(batch_of(samples).rows)
    store.close()


def lines(done):
    assert done.status == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_meters(nephoscope, stored):
    found = lines(nephoscope("meters", "--json"))

    assert [(m["name"], m["resource_id"]) for m in found] == [("mem", "other"), ("cpu", "vm")]


def test_samples_newest_first(nephoscope, stored):
    found = lines(nephoscope("sample", "list", "-m", "cpu", "-q", "volume<6;resource_id=vm", "--json"))

    assert [s["volume"] for s in found] == [2, 1]


def test_samples_as_ceilometer_wrote_them(nephoscope, stored):
    """Signed with the secret that is set, so that whoever has it can verify them; and read again as they are."""
    found = lines(nephoscope("sample", "list", "-m", "cpu", "--ceilometer", "--set", "telemetry_secret=s3cret"))

    assert [m["counter_volume"] for m in found] == [6, 2, 1]
    assert all(verify(m, "s3cret") and not verify(m, "other") for m in found)
    assert sample_from_dict(found[0]).id == made(6, 20).id


def test_samples_as_plain_lines(nephoscope, stored):
    done = nephoscope("sample", "list", "--limit", "1")

    assert done.out == "timestamp\tname\ttype\tvolume\tunit\tresource_id\n2015-06-01T12:00:20\tcpu\tgauge\t6\t%\tvm\n"
    assert "more than 1" in done.err


def test_samples_by_metadata(nephoscope, stored):
    (found,) = lines(nephoscope("sample", "list", "-q", "metadata.n>=2", "--json"))

    assert found["name"] == "mem"


def test_statistics(nephoscope, stored):
    (found,) = lines(nephoscope("statistics", "-m", "cpu", "-g", "resource_id", "--json"))

    assert (found["count"], found["sum"], found["avg"], found["resource_id"]) == (3, 9, 3, "vm")


def test_chosen_statistics_by_period_as_plain_lines(nephoscope, stored):
    done = nephoscope("statistics", "-m", "cpu", "-p", "15", "-a", "max")

    assert done.out.splitlines()[0] == "period_start\tperiod_end\tmax\tunit"
    assert [line.split("\t")[2] for line in done.out.splitlines()[1:]] == ["2", "6"]


def test_an_unknown_field_or_aggregate_says_what_there_is(nephoscope, stored):
    done = nephoscope("statistics", "-m", "cpu", "-a", "medain")

    assert done.status == 1
    assert "medain" in done.err
    assert nephoscope("sample", "list", "-q", "colour=red").status == 1


def test_expire_without_a_time_to_live_removes_nothing(nephoscope, stored):
    done = nephoscope("expire")

    assert done.status == 0
    assert "for ever" in done.err
    assert len(lines(nephoscope("sample", "list", "--json"))) == 4


def test_expire(nephoscope, stored):
    (done,) = lines(nephoscope("expire", "--set", "time_to_live=3600", "--json"))

    assert done["samples"] == 4
    assert lines(nephoscope("sample", "list", "--json")) == []


def test_a_pushed_sample_lies_on_the_topic(nephoscope, tmp_path):
    arguments = ("-r", "room-1", "-m", "temperature", "--sample-volume", "21.5", "--meter-unit", "C", "--id", "once")

    (one,) = lines(nephoscope("sample", "create", *arguments, "--json"))
    (two,) = lines(nephoscope("sample", "create", *arguments, "--json"))

    assert (one["volume"], one["unit"], one["type"], one["source"]) == (21.5, "C", "gauge", "openstack")
    assert one["id"] == two["id"]
    log = EmbeddedLog(tmp_path / "var" / "nephoscope" / "log.db")
    assert sum(log.end(SAMPLES)) == 2
    log.close()


@pytest.mark.parametrize(
    "arguments,status",
    [
        (("-r", "x", "-m", "y"), 2),
        (("-r", "x", "-m", "y", "--sample-volume", "1", "--meter-type", "histogram"), 1),
        (("-r", "x", "-m", "y", "--sample-volume", "1", "--resource-metadata", "{"), 1),
        (("-r", "x", "-m", "y", "--sample-volume", "1", "--timestamp", "tomorrow"), 1),
        (("-r", "x", "-m", "y", "--sample-volume", "nan"), 1),
    ],
)
def test_what_is_no_sample_is_not_pushed(nephoscope, arguments, status):
    assert nephoscope("sample", "create", *arguments).status == status


def test_samples_from_a_file_are_pushed_and_bad_lines_told(nephoscope, tmp_path):
    good = '{"name":"n","type":"gauge","unit":"","volume":1,"resource_id":"r%d","timestamp":"2026-01-01T00:00:00"}'
    (tmp_path / "in.jsonl").write_text("\n".join([good % 1, "no", good % 2]))

    done = nephoscope("sample", "create", "--samples", "in.jsonl", "--json")

    assert done.status == 1
    assert json.loads(done.out) == {"pushed": 2, "refused": 1}
    assert "in.jsonl:2: json" in done.err


@pytest.mark.parametrize(
    "text,field,op,value",
    [
        ("resource_id=a=b", "resource_id", "=", "a=b"),
        ("metadata.n >= 2", "metadata.n", ">=", 2.0),
        ("metadata.n=string::2", "metadata.n", "=", "2"),
        ("metadata.on=True", "metadata.on", "=", True),
        ("resource_id!=7", "resource_id", "!=", "7"),
        ("resource_id=~^a.*z$", "resource_id", "=~", "^a.*z$"),
    ],
)
def test_a_query_term(text, field, op, value):
    assert parse_query([text]) == filters.both(filters.Compare(field, op, value))


@pytest.mark.parametrize("text", ["volume", "=3", "volume~3", "volume=float::many"])
def test_what_is_no_query_is_refused(text):
    with pytest.raises((NephoscopeError, StoreError)):
        parse_query([text])
