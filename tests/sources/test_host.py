"""The host pollster: names, units, sensible volumes, and what it does where the system is silent."""

import math
import os
import re

import pytest

from nephoscope.sample import TYPES
from sources import host

ALL = {m.name for m in host.METERS}


@pytest.fixture(scope="module")
def readings():
    return list(host.HOST.poll("local", ALL))


def volumes(readings, name):
    return {r.resource_id: r.volume for r in readings if r.meter.name == name}


def test_every_meter_is_told_once_and_typed():
    names = [m.name for m in host.METERS]

    assert len(set(names)) == len(names)
    assert {m.type for m in host.METERS} <= set(TYPES)
    assert all(m.unit and m.description and m.resource for m in host.METERS)


def test_ceilometer_names_keep_their_types_and_units():
    table = {m.name: (m.type, m.unit) for m in host.METERS}

    assert table["hardware.cpu.load.1min"] == ("gauge", "process")
    assert table["hardware.memory.used"] == table["hardware.memory.swap.avail"] == ("gauge", "B")
    assert table["hardware.disk.size.total"] == ("gauge", "B")
    assert table["hardware.network.outgoing.errors"] == ("cumulative", "packet")
    assert table["hardware.network.ip.incoming.datagrams"] == ("cumulative", "datagrams")
    assert table["hardware.system_stats.io.incoming.blocks"] == ("cumulative", "blocks")
    assert table["compute.node.cpu.idle.time"] == ("cumulative", "ns")


def test_volumes_are_finite_and_never_negative(readings):
    assert readings
    assert all(math.isfinite(r.volume) and r.volume >= 0 for r in readings)


def test_no_resource_gives_a_meter_twice(readings):
    keys = [(r.meter.name, r.resource_id) for r in readings]

    assert len(set(keys)) == len(keys)


def test_parts_do_not_exceed_the_whole(readings):
    (total,) = volumes(readings, "hardware.memory.total").values()
    (used,) = volumes(readings, "hardware.memory.used").values()
    assert 0 < used <= total

    sizes, uses = volumes(readings, "hardware.disk.size.total"), volumes(readings, "hardware.disk.size.used")
    assert sizes.keys() == uses.keys()
    assert all(uses[r] <= sizes[r] for r in sizes)


def test_busy_time_is_all_but_idle_and_waiting(readings):
    def one(name):
        return volumes(readings, name).get(host.host_name(), 0)

    parts = sum(one(f"compute.node.cpu.{m}.time") for m in ("user", "nice", "kernel", "irq", "softirq", "steal"))
    assert one("compute.node.cpu.time") == pytest.approx(parts)
    assert readings[0].metadata["cpu_number"] == os.cpu_count()


def test_resources_are_the_host_its_devices_and_interfaces(readings):
    name = re.escape(host.host_name())

    assert all(re.fullmatch(name + r"(\..+)?", r.resource_id) for r in readings)
    assert f"{host.host_name()}.lo" in volumes(readings, "hardware.network.incoming.bytes")


def test_only_what_is_wanted_is_read(monkeypatch):
    monkeypatch.setattr(host.psutil, "net_io_counters", lambda **_: pytest.fail("the network was read"))

    wanted = {"hardware.cpu.load.5min"}
    assert [r.meter.name for r in host.HOST.poll("local", wanted)] == ["hardware.cpu.load.5min"]


def test_a_silent_group_does_not_silence_the_others(monkeypatch):
    def away(*_, **__):
        raise OSError("no such file")

    monkeypatch.setattr(host.psutil, "swap_memory", away)

    names = {r.meter.name for r in host.HOST.poll("local", ALL)}
    assert "hardware.memory.swap.total" not in names
    assert "hardware.memory.total" in names
    assert "hardware.network.incoming.bytes" in names


def test_it_takes_its_own_names_only():
    assert host.HOST.takes(host.host_name())
    assert host.HOST.takes("localhost")
    assert not host.HOST.takes("snmp://10.0.0.1")
    assert host.local_node() == [host.host_name()]
