"""What becomes of a host's answers, where they are not as usual."""

import pytest

from nephoscope.times import SECOND
from sources.snmp import m
from sources.snmp.readings import (
    Ask,
    Known,
    disk_readings,
    filesystem_readings,
    host_readings,
    interface_readings,
    is_narrow,
)

ALL = frozenset(meter.name for meter in m.METERS)
NOW = 1_700_000_000 * SECOND


def volumes(readings):
    return {(r.meter.name, r.resource_id): r.volume for r in readings}


def test_memory_beyond_what_32_bits_of_kilobytes_hold_is_asked_for_again():
    small, large = m.SIZES["hardware.memory.total"]
    ask = Ask(ALL, Known(), NOW)
    assert small in ask.get
    assert ask.larger({small: 2**31 - 2}) == []
    assert ask.larger({small: 2**31 - 1}) == [large]

    found = volumes(host_readings({small: 2**31 - 1, large: 2**32}, ALL, "h", {}, NOW))
    assert found["hardware.memory.total", "h"] == 2**42


def test_an_agent_that_has_not_counted_yet_gives_no_cpu_time():
    ticks = dict.fromkeys(m.RAW.values(), 0)
    assert volumes(host_readings(ticks, ALL, "h", {}, NOW)) == {}
    ticks[m.RAW["hardware.cpu.idle"]] = 5
    assert volumes(host_readings(ticks, {"hardware.cpu.user"}, "h", {}, NOW)) == {("hardware.cpu.user", "h"): 0}
    assert m.RAW["hardware.cpu.idle"] in Ask({"hardware.cpu.user"}, Known(), NOW).get


def test_load_is_a_text_and_used_the_rest_of_what_is_available():
    values = {m.LOADS["hardware.cpu.load.1min"]: b"0.25", m.SIZES["hardware.memory.used"][0]: 30}
    assert volumes(host_readings(values, ALL, "h", {}, NOW)) == {("hardware.cpu.load.1min", "h"): 0.25}
    values[m.SIZES["hardware.memory.total"][0]] = 100
    assert volumes(host_readings(values, {"hardware.memory.used"}, "h", {}, NOW)) == {
        ("hardware.memory.used", "h"): 70 * 1024
    }


def test_rows_that_are_called_the_same_are_resources_of_their_own():
    columns = {
        m.DISK_DEVICE: {(1,): b"/dev/sda", (5,): b"tmpfs", (9,): b"tmpfs"},
        m.DISK_PATH: {(1,): b"/", (5,): b"/run", (9,): b"/tmp"},
        m.DISK_SIZES["hardware.disk.size.total"][0]: {(1,): 10, (5,): 20, (9,): 2**31 - 1},
        m.DISK_SIZES["hardware.disk.size.total"][1]: {(1,): 10, (9,): 7},
        m.DISK_SIZES["hardware.disk.size.total"][2]: {(1,): 0, (9,): 1},
    }
    assert volumes(filesystem_readings(columns, {"hardware.disk.size.total"}, "h", {}, NOW)) == {
        ("hardware.disk.size.total", "h./dev/sda"): 10 * 1024,
        ("hardware.disk.size.total", "h.tmpfs"): 20 * 1024,
        ("hardware.disk.size.total", "h.tmpfs./tmp"): (2**32 + 7) * 1024,
    }


def test_counters_of_64_bits_go_first_and_an_old_row_has_its_own():
    wide, old = m.TRAFFIC["hardware.network.incoming.bytes"][0][0], m.TRAFFIC["hardware.network.incoming.bytes"][1][0]
    wanted = {"hardware.network.incoming.bytes"}
    columns = {
        m.IF_NAME: {(1,): b"eth0", (2,): b"eth1", (3,): b"eth1", (4,): b""},
        m.IF_MAC: {(1,): bytes([2, 0, 0, 0, 0, 1])},
        m.IF_SPEED: {(1,): 2**32 - 1, (2,): 8000},
        m.IF_HIGH_SPEED: {(1,): 40_000},
        wide: {(1,): 2**40, (3,): 5},
    }
    assert is_narrow(columns, m.IF_NAME, m.TRAFFIC, wanted)
    columns[old] = {(1,): 1, (2,): 2, (3,): 3, (4,): 4}
    found = list(interface_readings(columns, wanted, "h", {}, NOW, {(10, 0, 0, 1): 1}))
    assert {r.resource_id: r.volume for r in found} == {"h.eth0": 2**40, "h.eth1": 2, "h.eth1.3": 5, "h.4": 4}
    assert found[0].metadata == {"name": "eth0", "mac": "020000000001", "ip": "10.0.0.1", "speed": 5_000_000_000}
    assert found[1].metadata["speed"] == 1000

    columns[wide] |= {(2,): 1, (4,): 1}
    assert not is_narrow(columns, m.IF_NAME, m.TRAFFIC, wanted)
    assert wide in Ask(wanted, Known(), NOW).tables["interfaces"]
    assert old not in Ask(wanted, Known(), NOW).tables["interfaces"]
    for known, is_old in ((Known(narrow={"interfaces"}), False), (Known(), True)):
        assert {wide, old} <= set(Ask(wanted, known, NOW, old=is_old).tables["interfaces"])


def test_disks_that_show_other_disks_files_are_left_out():
    columns = {m.IO_DEVICE: {(1,): b"sda", (2,): b"loop0"}, m.IO["hardware.disk.read.requests"][0]: {(1,): 3, (2,): 4}}
    assert volumes(disk_readings(columns, ALL, "h", {}, NOW)) == {("hardware.disk.read.requests", "h.sda"): 3}


def test_values_of_another_kind_do_no_harm():
    size = m.DISK_SIZES["hardware.disk.size.total"][0]
    columns = {m.DISK_DEVICE: {(1,): 2**62, (2,): b"a\0b"}, m.DISK_PATH: {}, size: {(1,): 1, (2,): 2}}
    found = filesystem_readings(columns, {"hardware.disk.size.total"}, "h", {}, NOW)
    assert {r.resource_id: r.volume for r in found} == {"h.1": 1024, "h.ab": 2048}
    with pytest.raises(ValueError, match="b'12' is no number"):
        list(host_readings({m.COUNTERS["hardware.system_stats.io.incoming.blocks"][0]: b"12"}, ALL, "h", {}, NOW))


def test_only_what_is_wanted_is_asked_for():
    ask = Ask({"hardware.cpu.load.5min"}, Known(), NOW)
    assert (ask.get, ask.tables) == ([m.LOADS["hardware.cpu.load.5min"]], {})
    counted = Known(processors=4, counted_at=NOW)
    assert "processors" in Ask({"hardware.cpu.user"}, Known(), NOW).tables
    assert "processors" not in Ask({"hardware.cpu.user"}, counted, NOW + 60 * SECOND).tables
    assert "processors" in Ask({"hardware.cpu.user"}, counted, NOW + 3600 * SECOND).tables


def test_meters_have_names_types_and_units_of_ceilometer_once():
    names = [meter.name for meter in m.METERS]
    table = {meter.name: (meter.type, meter.unit) for meter in m.METERS}
    assert len(set(names)) == len(names)
    assert all(meter.description and meter.resource for meter in m.METERS)
    assert table["hardware.cpu.load.1min"] == ("gauge", "process")
    assert table["hardware.cpu.util"] == table["hardware.system_stats.cpu.idle"] == ("gauge", "%")
    assert table["hardware.cpu.user"] == ("cumulative", "tick")
    assert table["hardware.disk.size.used"] == table["hardware.memory.used"] == ("gauge", "B")
    assert table["hardware.network.incoming.bytes"] == ("cumulative", "B")
    assert table["hardware.network.outgoing.errors"] == ("cumulative", "packet")
    assert table["hardware.network.ip.outgoing.datagrams"] == ("cumulative", "datagrams")
    assert table["hardware.system_stats.io.incoming.blocks"] == ("cumulative", "blocks")
