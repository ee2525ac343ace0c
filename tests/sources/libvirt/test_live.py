"""Instances of a real libvirtd under QEMU: a fleet of tiny guests, one that is off, and a Linux guest with a balloon driver."""

import json
import threading
import time
from collections import defaultdict

import pytest

from nephoscope.batch import decode
from nephoscope.pipeline import Polling, PollingSource
from nephoscope.settings import load_settings
from nephoscope.times import SECOND
from nephoscope.topics import SAMPLES
from nephoscope.topics.embedded import EmbeddedLog
from sources.agent import Agent
from sources.libvirt.messages import Ask
from sources.libvirt.meters import BY_NAME
from sources.libvirt.part import Parts
from sources.libvirt.pool import LibvirtError, Pool
from sources.libvirt.system import libvirt_system
from tests.servers import libvirt as servers
from tests.servers import linux_guest

pytestmark = pytest.mark.slow
ALL = set(BY_NAME)
FLEET = 6
OFF = 90
FIELDS = {
    "cpu": "cpu.time",
    "disk.read.requests": "block.0.rd.reqs",
    "disk.device.read.requests": "block.0.rd.reqs",
    "disk.device.read.bytes": "block.0.rd.bytes",
    "disk.device.read.latency": "block.0.rd.times",
    "disk.device.write.requests": "block.0.wr.reqs",
    "disk.device.write.bytes": "block.0.wr.bytes",
    "disk.device.write.latency": "block.0.wr.times",
    "disk.device.capacity": "block.0.capacity",
    "network.incoming.bytes": "net.0.rx.bytes",
    "network.incoming.packets": "net.0.rx.pkts",
    "network.incoming.packets.drop": "net.0.rx.drop",
    "network.outgoing.bytes": "net.0.tx.bytes",
    "network.outgoing.packets.error": "net.0.tx.errs",
}


@pytest.fixture(scope="module")
def fleet():
    """Tiny guests that each read and write a little, and one that is off."""
    with servers.running() as server:
        for number in range(1, FLEET + 1):
            server.add(number)
        server.add(OFF, start=False)
        yield server


@pytest.fixture(scope="module")
def linux(fleet):
    return linux_guest.start(fleet, 50, work=False)[0]


@pytest.fixture
def make(fleet):
    systems = []

    def make(timeout=20):
        flags = {"compute.libvirt_uri": fleet.uri, "compute.libvirt_timeout": str(timeout)}
        systems.append(libvirt_system(load_settings(flags=flags)))
        return systems[-1]

    yield make
    for system in systems:
        system.close()


def poll(system, meters=ALL, parts=None):
    """(readings of all parts, what went wrong). Without `parts` they are discovered."""
    (pollster,) = system.pollsters
    found, wrong = [], []
    for part in parts or system.discoveries["local_instances"](""):
        try:
            found.extend(pollster.poll(part, meters))
        except LibvirtError as error:
            wrong.append(str(error))
    return found, wrong


def by_guest(server, readings):
    """{guest: {meter: volume}}; a meter of its disk or interface by the meter alone."""
    out = defaultdict(dict)
    names = {uuid: name for name, uuid in server.guests.items()}
    for r in readings:
        out[next(name for uuid, name in names.items() if uuid in r.resource_id)][r.meter.name] = r.volume
    return out


def test_counters_lie_between_what_virsh_says_before_and_after(fleet, make):
    before = fleet.domstats()
    readings, wrong = poll(make())
    after = fleet.domstats()

    assert wrong == []
    found = by_guest(fleet, readings)
    running = [name for name in fleet.guests if name != f"guest-{OFF:04d}"]
    assert sorted(found) == sorted(fleet.guests)
    for name in running:
        for meter, field in FIELDS.items():
            assert int(before[name][field]) <= found[name][meter] <= int(after[name][field]), (name, meter)
        assert found[name]["instance"] == 1
        assert found[name]["disk.device.write.requests"] > 0
        assert found[name]["memory.resident"] == pytest.approx(int(after[name]["balloon.rss"]) / 1024, rel=0.1)
    assert found[f"guest-{OFF:04d}"] == {"instance": 1}


def test_resources_owners_and_metadata_are_those_of_nova(fleet, make):
    readings, _ = poll(make())
    uuid = fleet.guests["guest-0001"]
    ours = [r for r in readings if uuid in r.resource_id]

    assert {r.resource_id for r in ours} == {uuid, f"{uuid}-vda", f"guest-0001-{uuid}-tap0001"}
    assert {(r.user_id, r.project_id) for r in ours} == {("5f1e4c4c", "9a9dba6f")}
    about = json.loads(next(r.metadata for r in ours if r.meter.name == "cpu"))
    assert about["display_name"] == "VM & 1"
    assert about["flavor"]["name"] == "m1.tiny"
    assert (about["cpu_number"], about["status"], about["device"]) == (1, "active", ["vda"])
    off = next(r for r in readings if r.resource_id == fleet.guests[f"guest-{OFF:04d}"])
    assert json.loads(off.metadata)["status"] == "stopped"


def test_memory_that_no_balloon_driver_tells_is_absent_and_what_one_tells_is_right(fleet, linux, make):
    def used(stats):
        return (int(stats["balloon.available"]) - int(stats["balloon.usable"])) / 1024

    system = make()
    servers.wait_for("the balloon driver tells", lambda: "memory.usage" in by_guest(fleet, poll(system)[0])[linux])
    before = fleet.domstats()
    found = by_guest(fleet, poll(system)[0])
    after = fleet.domstats()

    assert not [name for name in found if "memory.usage" in found[name] and name != linux]
    # It changes each second by a little.
    assert found[linux]["memory.usage"] == pytest.approx((used(before[linux]) + used(after[linux])) / 2, rel=0.1)
    assert found[linux]["memory.usage"] < 128
    assert (found[linux]["memory.swap.in"], found[linux]["memory.swap.out"]) == (0, 0)
    assert found[linux]["network.outgoing.bytes"] > 0


def rows_of(log):
    """(period, resource, meter) of all samples in a log."""
    consumer = log.consumer(SAMPLES, dict.fromkeys(range(4), 0))
    out = set()
    for record in consumer.poll(100_000):
        rows = decode(record.value).rows.to_pylist()
        out |= {(round(r["timestamp"].timestamp()), r["resource_id"], r["name"]) for r in rows}
    consumer.close()
    return out


def polled(system, folder, enough, *, interval=5, meters=("cpu", "disk.device.read.bytes"), limit=120.0):
    """Run an agent until `enough(its samples)`; those samples."""
    log = EmbeddedLog(folder / "log.db", 4)
    agent = Agent(
        Polling((PollingSource("a", interval, meters),)),
        {p.name: p for p in system.pollsters},
        log,
        discoveries=dict(system.discoveries),
        spread=0.0,
    )
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        servers.wait_for("the samples", lambda: enough(rows_of(log)), limit)
        return rows_of(log)
    finally:
        stop.set()
        thread.join()
        log.close()


def test_one_stopped_guest_costs_only_its_own_samples(fleet, make, tmp_path):
    hung = "guest-0003"
    others = {uuid for name, uuid in fleet.guests.items() if name not in {hung, f"guest-{OFF:04d}"}}
    fleet.signal(hung, servers.STOP)
    try:

        def in_one_period(rows):
            """Periods of which all others have all."""
            found = defaultdict(set)
            for period, resource, meter in rows:
                found[period].add((resource, meter))
            wanted = {(u, "cpu") for u in others} | {(f"{u}-vda", "disk.device.read.bytes") for u in others}
            return [p for p, there in found.items() if wanted <= there]

        # The first call hangs, and is given up after two seconds; in later periods libvirtd passes the guest over at once.
        rows = polled(make(timeout=2), tmp_path, lambda rows: len(in_one_period(rows)) >= 2)
    finally:
        fleet.signal(hung, servers.CONTINUE)

    assert max(in_one_period(rows)) - min(in_one_period(rows)) >= 5
    # Its CPU time libvirt knows without it; its disk it would have to ask.
    assert (fleet.guests[hung] + "-vda") not in {resource for _, resource, _ in rows}


def test_a_guest_that_hangs_is_named_and_comes_back(fleet, make):
    hung = "guest-0005"
    system = make(timeout=5)
    fleet.signal(hung, servers.STOP)
    try:
        readings, (wrong,) = poll(system)
    finally:
        fleet.signal(hung, servers.CONTINUE)

    assert f"no answer from the QEMU of {hung} ({fleet.guests[hung]})" in wrong
    assert "disk.device.read.bytes" not in by_guest(fleet, readings)[hung]
    servers.wait_for("it comes back", lambda: "disk.device.read.bytes" in by_guest(fleet, poll(system)[0])[hung])


def test_two_that_hang_in_one_call_cost_only_their_own(fleet):
    hung = ["guest-0002", "guest-0004"]
    pool = Pool(fleet.uri, 1)
    found = []
    for guest in hung:
        fleet.signal(guest, servers.STOP)
    try:
        with pytest.raises(LibvirtError, match=r"no answer from the QEMU of guest-0002 \(.*\), guest-0004 \(.*\)$"):
            found.extend(Parts(pool, "host", 6).poll(Ask(), ["cpu", "disk.device.read.bytes"]))
    finally:
        for guest in hung:
            fleet.signal(guest, servers.CONTINUE)
        pool.close()

    told = by_guest(fleet, found)
    running = {name for name in fleet.guests if name != f"guest-{OFF:04d}"}
    assert {name for name in told if "cpu" in told[name]} >= running.difference(hung)
    assert {name for name in told if "disk.device.read.bytes" in told[name]} == running.difference(hung)
    # Nothing is told twice.
    assert len(found) == len({(r.meter.name, r.resource_id) for r in found})


def test_libvirtd_killed_in_the_middle_of_a_cycle_and_restarted(fleet, make):
    system = make()
    found, wrong = poll(system)
    assert wrong == []
    resources = {r.resource_id for r in found}
    parts = system.discoveries["local_instances"]("")
    fleet.stop_daemon()  # So that the call is under way.
    result = []
    asking = threading.Thread(target=lambda: result.append(poll(system, parts=parts)))
    asking.start()
    time.sleep(0.5)
    fleet.kill_daemon()
    time.sleep(0.5)
    fleet.restore_daemon()
    asking.join()

    ((found, wrong),) = result
    assert wrong == []
    assert {r.resource_id for r in found} == resources


def test_an_agent_goes_on_over_a_restart_of_libvirtd(fleet, make, tmp_path):
    running = {uuid for name, uuid in fleet.guests.items() if name != f"guest-{OFF:04d}"}
    went = []

    def enough(rows):
        """Periods after the restart of which all is there."""
        found = defaultdict(set)
        for period, resource, meter in rows:
            if meter == "cpu":
                found[period].add(resource)
        if found and not went:
            fleet.kill_daemon()
            went.append(max(found))
            threading.Timer(2.5, fleet.restore_daemon).start()
        return went and sum(there == running for period, there in found.items() if period > went[0]) >= 2

    polled(make(timeout=1), tmp_path, enough, interval=2)


def test_samples_are_timed_by_the_call_that_read_them(fleet, make):
    began = time.time() * SECOND
    readings, _ = poll(make(), {"cpu"})

    assert all(began <= r.measured_at <= time.time() * SECOND for r in readings)


def test_check_says_nothing_where_all_is_well(fleet, make):
    assert list(make().check(ALL)) == []
