"""From readings to messages: the same samples, ids and partitions as a sample at a time would give."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nephoscope import identity
from nephoscope.batch import MAX_MESSAGE, Header, decode
from nephoscope.partition import partition
from nephoscope.times import NEVER, SECOND
from sources.gather import Gatherer
from sources.pollster import Meter, Reading

CPU = Meter("cpu", "cumulative", "ns", "instance", "CPU time")
DISK = Meter("disk.read", "cumulative", "B", "instance", "Read")
LOAD = Meter("load", "gauge", "process", "host", "Load")
SHORT, LONG = Header(interval=60, polling=("a",)), Header(interval=600, polling=("a", "b"))
HEADERS = {"cpu": SHORT, "disk.read": LONG, "load": SHORT}
DUE = 1_500_000_000 * SECOND


def samples(gathered, partitions=8):
    out = []
    for record in gathered.records:
        batch = decode(record.value)
        for s in batch.samples():
            assert partition(s.resource_id, partitions) == record.partition
            out.append((batch.header, s))
    return out


def test_every_reading_becomes_a_sample_with_all_that_belongs_to_it():
    gatherer = Gatherer(8, "mine")
    about = {"display_name": "vm é", "vcpus": 2}
    readings = [
        Reading(CPU, 12, "vm1", about, "user", "project"),
        Reading(DISK, 3.5, "vm1", about, "user", "project", measured_at=DUE + 7),
        Reading(CPU, 13, "vm2", '{"a":1}'),
    ]

    assert gatherer.add(readings, HEADERS, DUE, DUE + 5, late=True) == 3
    assert gatherer.rows == 3
    gathered = gatherer.take()

    got = {(s.name, s.resource_id): (h, s) for h, s in samples(gathered)}
    assert gathered.rows == len(got) == 3
    header, cpu = got["cpu", "vm1"]
    assert header == SHORT
    assert (cpu.type, cpu.unit, cpu.volume, cpu.user_id, cpu.project_id) == (
        "cumulative",
        "ns",
        12.0,
        "user",
        "project",
    )
    assert (cpu.timestamp, cpu.measured_at, cpu.source, cpu.origin, cpu.late) == (DUE, DUE + 5, "mine", "", True)
    assert cpu.resource_metadata == about
    assert cpu.id == identity.polled_id("mine", "cpu", "vm1", DUE)
    header, disk = got["disk.read", "vm1"]
    assert (header, disk.measured_at, disk.unit) == (LONG, DUE + 7, "B")
    assert got["cpu", "vm2"][1].resource_metadata == {"a": 1}
    assert got["cpu", "vm2"][1].id == identity.polled_id("mine", "cpu", "vm2", DUE)


WILD = st.sampled_from([CPU, LOAD, DISK, Meter("unwanted", "gauge", "u", "r", "d")])


@given(
    st.lists(
        st.tuples(
            WILD,
            st.sampled_from([1, 2.5, True, math.inf, math.nan, None, "7", 10**400]),
            st.sampled_from(["vm1", "vm2", "", 5]),
            st.sampled_from(["{}", '{"a":1}']),
            st.sampled_from([NEVER, DUE + 3]),
        ),
        max_size=4,
    ),
    st.booleans(),
)
def test_readings_alike_give_what_each_by_itself_gives(given_, alike):
    """A list whose readings have most in common takes a shorter way."""
    if alike and given_:
        given_ = [(meter, volume if isinstance(volume, float) else 1.0, *given_[0][2:]) for meter, volume, *_ in given_]
    readings = [Reading(m, v, r, text, "u", "p", at) for m, v, r, text, at in given_]
    together, apart = Gatherer(8), Gatherer(8)

    for _ in range(2):
        assert together.add(readings, HEADERS, DUE, DUE) == sum(
            apart.add(iter([r]), HEADERS, DUE, DUE) for r in readings
        )
        assert together.rows == apart.rows
        one, other = together.take(), apart.take()
        assert sorted(map(repr, samples(one))) == sorted(map(repr, samples(other)))
        assert [(x.reason, x.data) for x in one.letters] == [(x.reason, x.data) for x in other.letters]


def test_polls_of_several_targets_share_a_batch_a_partition_and_header():
    gatherer = Gatherer(8)
    for i in range(200):
        gatherer.add(
            [Reading(CPU, i, f"vm{i}"), Reading(LOAD, i, f"vm{i}"), Reading(DISK, i, f"vm{i}")], HEADERS, DUE, DUE
        )
    gathered = gatherer.take()

    assert len(gathered.records) == 16
    got = samples(gathered)
    assert len(got) == 600
    assert {s.id for _, s in got} == {
        identity.polled_id("openstack", m, f"vm{i}", DUE) for i in range(200) for m in HEADERS
    }
    assert all(s.volume == float(s.resource_id[2:]) for _, s in got)
    assert gatherer.take().records == []


def test_meters_that_nobody_asked_for_are_left_out():
    gatherer = Gatherer(8)

    assert gatherer.add([Reading(CPU, 1, "vm"), Reading(LOAD, 1, "vm")], {"load": SHORT}, DUE, DUE) == 1
    assert [s.name for _, s in samples(gatherer.take())] == ["load"]


@pytest.mark.parametrize(
    "bad,reason",
    [
        (Reading(CPU, math.nan, "vm"), "volume"),
        (Reading(CPU, "many", "vm"), "reading"),
        (Reading(CPU, None, "vm"), "reading"),
        (Reading(CPU, 10**400, "vm"), "reading"),
        (Reading(CPU, 1, ""), "resource_id"),
        (Reading(CPU, 1, None), "reading"),
        (Reading(CPU, 1, "vm", user_id=None), "reading"),
        (Reading(CPU, 1, "\ud800"), "text"),
        (Reading(CPU, 1, "vm", project_id="\ud800"), "text"),
        (Reading(CPU, 1, "vm", {"a": "\ud800"}), "metadata"),
        (Reading(CPU, 1, "vm", {"a": object()}), "metadata"),
        (Reading(CPU, 1, "vm", {"a": "x" * 10_000_000}), "too_large"),
        (Reading(CPU, 1, "v" * 300_000), "too_large"),
        (Reading(CPU, 1, "vm", {"a": "€" * 100_000}), "too_large"),
        (Reading(CPU, 1, "vm", measured_at=10**30), "timestamp"),
        (Reading(CPU, 1, "vm", measured_at="now"), "reading"),
        ("no reading at all", "reading"),
    ],
)
def test_a_bad_reading_goes_to_the_dead_letters_and_the_rest_goes_on(bad, reason):
    gatherer = Gatherer(8)
    gatherer.add([Reading(CPU, 1, "before"), bad, Reading(CPU, 2, "after")], HEADERS, DUE, DUE)
    gathered = gatherer.take()

    assert [letter.reason for letter in gathered.letters] == [reason]
    assert {s.resource_id for _, s in samples(gathered)} == {"before", "after"}
    assert gathered.rows == 2


def test_whatever_stands_between_two_readings_they_keep_what_is_theirs():
    """Resources, owners, metadata, headers and refusals in any order."""
    gatherer = Gatherer(2)
    about = [{"n": 0}, {"n": 1}]
    readings = []
    for i in range(400):
        volume = float("nan") if i % 13 == 0 else i
        readings.append(
            Reading(
                (CPU, DISK, LOAD)[i % 3],
                volume,
                f"vm{i // 5 % 4}",
                about[i // 7 % 2],
                f"u{i // 11 % 2}",
                measured_at=DUE + i if i % 2 else NEVER,
            )
        )
    gatherer.add(readings, HEADERS, DUE, DUE + 1)

    got = {s.volume: (h, s) for h, s in samples(gatherer.take(), 2)}
    assert len(got) == len([r for r in readings if r.volume == r.volume])
    for i, reading in enumerate(readings):
        if i % 13:
            header, s = got[i]
            assert header == HEADERS[reading.meter.name]
            assert (s.name, s.unit, s.type) == (reading.meter.name, reading.meter.unit, reading.meter.type)
            assert (s.resource_id, s.user_id, s.resource_metadata) == (
                reading.resource_id,
                reading.user_id,
                reading.metadata,
            )
            assert s.measured_at == (DUE + i if i % 2 else DUE + 1)
            assert s.id == identity.polled_id("openstack", s.name, s.resource_id, DUE)


def test_readings_that_share_bad_metadata_are_all_refused():
    about = {"a": object()}
    gatherer = Gatherer(8)
    gatherer.add([Reading(CPU, 1, "vm", about), Reading(LOAD, 1, "vm", about)], HEADERS, DUE, DUE)

    gathered = gatherer.take()
    assert [letter.reason for letter in gathered.letters] == ["metadata"] * 2
    assert gathered.rows == 0


def test_long_and_foreign_texts_within_the_limit_pass():
    gatherer = Gatherer(8)
    about = {"a": "€" * 50_000}
    gatherer.add([Reading(CPU, 1, "vmé", about, user_id="ü" * 600)], HEADERS, DUE, NEVER)

    ((_, sample),) = samples(gatherer.take())
    assert (sample.resource_id, sample.user_id, sample.resource_metadata) == ("vmé", "ü" * 600, about)


def test_a_large_batch_is_split_below_the_brokers_limit():
    gatherer = Gatherer(1)
    for i in range(30):
        gatherer.add([Reading(CPU, i, f"vm{i}", json.dumps({"pad": f"{i}" * 60_000}))], HEADERS, DUE, DUE)

    gathered = gatherer.take()
    assert len(gathered.records) > 1
    assert max(len(r.value) for r in gathered.records) <= MAX_MESSAGE
    assert len(samples(gathered, 1)) == 30
