"""From statistics to readings: units, sums, and that nothing is told that libvirt has not told."""

from nephoscope.sample import CUMULATIVE, GAUGE, TYPES
from sources.libvirt.domain import Instance, Part
from sources.libvirt.meters import BY_NAME, METERS, groups_of
from sources.libvirt.readings import is_complete, readings_of

ALL = set(BY_NAME)
VM = Instance(
    "u",
    "instance-1",
    "user",
    "project",
    "{}",
    {"vda": Part("u-vda", '{"disk_name":"vda"}'), "vdb": Part("u-vdb", "{}")},
    {"tap1": Part("instance-1-u-tap1", "{}")},
)
TOLD = {
    "state.state": 1,
    "cpu.time": 5_000_000_000,
    "vcpu.0.time": 1,
    "balloon.current": 2048,
    "balloon.rss": 51_200,
    "balloon.last-update": 1_700_000_000,
    "balloon.available": 8192,
    "balloon.unused": 1024,
    "balloon.usable": 3072,
    "balloon.swap_in": 512,
    "balloon.swap_out": 1024,
    "perf.cpu_cycles": 7,
    "perf.cmt": 4096,
    "perf.mbmt": 11,
    "block.count": 2,
    "block.0.name": "vda",
    "block.0.rd.reqs": 1,
    "block.0.rd.bytes": 4096,
    "block.0.rd.times": 9000,
    "block.0.wr.reqs": 2,
    "block.0.wr.bytes": 8192,
    "block.0.wr.times": 8000,
    "block.0.capacity": 1 << 30,
    "block.0.allocation": 1 << 20,
    "block.0.physical": 1 << 21,
    "block.1.name": "vdb",
    "block.1.rd.reqs": 10,
    "block.1.rd.bytes": 40_960,
    "block.1.wr.reqs": 20,
    "block.1.wr.bytes": 81_920,
    "net.count": 2,
    "net.0.name": "tap1",
    "net.0.rx.bytes": 100,
    "net.0.rx.pkts": 3,
    "net.0.rx.errs": 4,
    "net.0.rx.drop": 5,
    "net.0.tx.bytes": 200,
    "net.0.tx.pkts": 6,
    "net.0.tx.errs": 7,
    "net.0.tx.drop": 8,
}


def volumes(told=TOLD, meters=ALL):
    return {(r.meter.name, r.resource_id): r.volume for r in readings_of(VM, told, meters, 42)}


def without(*starts):
    return {k: v for k, v in TOLD.items() if not k.startswith(starts)}


def test_every_meter_is_typed_and_described():
    assert len(BY_NAME) == len(METERS)
    assert {m.type for m in METERS} <= set(TYPES)
    assert all(m.unit and m.resource and m.description for m in METERS)
    table = {m.name: (m.type, m.unit) for m in METERS}
    assert table["cpu"] == (CUMULATIVE, "ns")
    assert table["memory.usage"] == (GAUGE, "MB")
    assert table["disk.device.read.latency"] == (CUMULATIVE, "ns")
    assert table["network.incoming.packets.drop"] == (CUMULATIVE, "packet")


def test_volumes_have_ceilometers_units():
    found = volumes()

    assert found["instance", "u"] == 1
    assert found["cpu", "u"] == 5e9
    assert found["memory.usage", "u"] == (8192 - 3072) / 1024
    assert found["memory.resident", "u"] == 50
    assert (found["memory.swap.in", "u"], found["memory.swap.out", "u"]) == (0.5, 1)
    assert (found["perf.cpu.cycles", "u"], found["cpu_l3_cache", "u"]) == (7, 4096)
    assert found["disk.device.write.latency", "u-vda"] == 8000
    assert found["disk.device.usage", "u-vda"] == 1 << 21
    assert found["network.incoming.bytes", "instance-1-u-tap1"] == 100
    assert found["network.incoming.packets.error", "instance-1-u-tap1"] == 4
    assert found["network.outgoing.packets.drop", "instance-1-u-tap1"] == 8


def test_an_instances_disks_are_summed_where_all_of_them_tell():
    found = volumes()

    assert found["disk.read.bytes", "u"] == 4096 + 40_960
    assert found["disk.write.requests", "u"] == 22
    # vdb does not tell its capacity, so there is no sum.
    assert ("disk.capacity", "u") not in found
    assert found["disk.device.capacity", "u-vda"] == 1 << 30
    assert not [name for name, _ in found if name in {"disk.read.latency", "disk.write.latency"}]


def test_memory_usage_is_absent_without_a_driver_and_not_0():
    silent = TOLD | {"balloon.last-update": 0}

    for told in (without("balloon.available"), silent, without("balloon.us", "balloon.unused"), without("balloon")):
        assert "memory.usage" not in {name for name, _ in volumes(told)}
    assert volumes(without("balloon.usable"))["memory.usage", "u"] == 7
    assert volumes(silent)["memory.resident", "u"] == 50


def test_what_is_not_told_gives_nothing():
    assert volumes({"state.state": 1}) == {("instance", "u"): 1}


def test_a_domain_that_is_off_is_still_an_instance():
    assert volumes(TOLD | {"state.state": 5}) == {("instance", "u"): 1}


def test_only_what_is_wanted_is_told_and_asked():
    assert volumes(meters={"cpu"}) == {("cpu", "u"): 5e9}
    assert groups_of({"cpu"}) == ["cpu", "state"]
    assert groups_of({"instance", "disk.device.usage", "nonsense"}) == ["block", "state"]


def test_readings_of_a_resource_come_together_and_share_their_metadata():
    readings = list(readings_of(VM, TOLD, ALL, 42))
    resources = [r.resource_id for r in readings]

    assert [r for i, r in enumerate(resources) if i == 0 or resources[i - 1] != r] == list(dict.fromkeys(resources))
    assert len({id(r.metadata) for r in readings}) == len({r.metadata for r in readings})
    assert {(r.user_id, r.project_id, r.measured_at) for r in readings} == {("user", "project", 42)}


def test_a_domain_whose_qemu_was_not_asked_is_known_by_what_lacks():
    # What libvirt 9 tells with NOWAIT of a guest whose QEMU is stopped.
    hung = without("balloon", "block") | {
        "balloon.current": 2048,
        "balloon.maximum": 2048,
        "block.count": 1,
        "block.0.name": "vda",
        "block.0.path": "/disk",
    }

    assert is_complete(TOLD, ["balloon", "block", "cpu", "state"])
    assert not is_complete(hung, ["block"])
    assert not is_complete(hung, ["balloon"])
    assert is_complete(hung, ["cpu", "interface"])
    assert is_complete(hung | {"state.state": 5}, ["balloon", "block"])


def test_a_domain_without_disks_or_balloon_is_complete_without_them():
    assert is_complete({"state.state": 1, "block.count": 0}, ["balloon", "block"])
    assert is_complete({"state.state": 1}, ["balloon", "block"])
