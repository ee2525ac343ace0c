"""The meters of instances: Ceilometer's names, types and units, and which group of libvirt's statistics tells each.

cpu_util and the rates come from these by the pipeline. libvirt tells no latency and no operations per second of the moment, which
Ceilometer's disk.latency and disk.iops were (on Hyper-V): disk.device.*.latency are the totals that they follow from.
"""

from __future__ import annotations

from collections.abc import Collection

from nephoscope.sample import CUMULATIVE, GAUGE
from sources.pollster import Meter

_INSTANCE = "instance"
_DISK = "instance-disk"
_NIC = "instance name-instance-vnic, or the vnic's filter"


def _table(*rows: tuple[str, str, str, str, str, str]) -> tuple[dict[str, Meter], dict[str, str]]:
    meters = {r[0]: Meter(r[0], r[1], r[2], r[3], r[5]) for r in rows}
    return meters, {r[0]: r[4] for r in rows}


BY_NAME, _GROUPS = _table(
    ("instance", GAUGE, "instance", _INSTANCE, "state", "1 for an instance that is there, whether it runs or not"),
    ("cpu", CUMULATIVE, "ns", _INSTANCE, "cpu", "CPU time used"),
    ("memory.usage", GAUGE, "MB", _INSTANCE, "balloon", "Memory that the guest uses, as its balloon driver says"),
    ("memory.resident", GAUGE, "MB", _INSTANCE, "balloon", "Memory of the host that the instance takes"),
    ("memory.swap.in", CUMULATIVE, "MB", _INSTANCE, "balloon", "Memory that the guest swapped in"),
    ("memory.swap.out", CUMULATIVE, "MB", _INSTANCE, "balloon", "Memory that the guest swapped out"),
    ("memory.bandwidth.total", GAUGE, "B/s", _INSTANCE, "perf", "Bandwidth from one level of cache to another"),
    ("memory.bandwidth.local", GAUGE, "B/s", _INSTANCE, "perf", "Bandwidth of memory traffic for a memory controller"),
    ("cpu_l3_cache", GAUGE, "B", _INSTANCE, "perf", "L3 cache used"),
    ("perf.cpu.cycles", GAUGE, "cycle", _INSTANCE, "perf", "CPU cycles, of an instance that counts them"),
    ("perf.instructions", GAUGE, "instruction", _INSTANCE, "perf", "Instructions, of an instance that counts them"),
    ("perf.cache.references", GAUGE, "count", _INSTANCE, "perf", "Cache hits, of an instance that counts them"),
    ("perf.cache.misses", GAUGE, "count", _INSTANCE, "perf", "Cache misses, of an instance that counts them"),
    ("disk.read.requests", CUMULATIVE, "request", _INSTANCE, "block", "Reads of all disks"),
    ("disk.read.bytes", CUMULATIVE, "B", _INSTANCE, "block", "Read from all disks"),
    ("disk.write.requests", CUMULATIVE, "request", _INSTANCE, "block", "Writes to all disks"),
    ("disk.write.bytes", CUMULATIVE, "B", _INSTANCE, "block", "Written to all disks"),
    ("disk.capacity", GAUGE, "B", _INSTANCE, "block", "Size of all disks, as the guest sees them"),
    ("disk.allocation", GAUGE, "B", _INSTANCE, "block", "Highest places written of all disks"),
    ("disk.usage", GAUGE, "B", _INSTANCE, "block", "What the images of all disks take on the host"),
    ("disk.device.read.requests", CUMULATIVE, "request", _DISK, "block", "Reads of a disk"),
    ("disk.device.read.bytes", CUMULATIVE, "B", _DISK, "block", "Read from a disk"),
    ("disk.device.read.latency", CUMULATIVE, "ns", _DISK, "block", "Time that reads of a disk took, in all"),
    ("disk.device.write.requests", CUMULATIVE, "request", _DISK, "block", "Writes to a disk"),
    ("disk.device.write.bytes", CUMULATIVE, "B", _DISK, "block", "Written to a disk"),
    ("disk.device.write.latency", CUMULATIVE, "ns", _DISK, "block", "Time that writes to a disk took, in all"),
    ("disk.device.capacity", GAUGE, "B", _DISK, "block", "Size of a disk, as the guest sees it"),
    ("disk.device.allocation", GAUGE, "B", _DISK, "block", "Highest place written of a disk"),
    ("disk.device.usage", GAUGE, "B", _DISK, "block", "What the image of a disk takes on the host"),
    ("network.incoming.bytes", CUMULATIVE, "B", _NIC, "interface", "Received by the guest"),
    ("network.incoming.packets", CUMULATIVE, "packet", _NIC, "interface", "Packets received by the guest"),
    (
        "network.incoming.packets.drop",
        CUMULATIVE,
        "packet",
        _NIC,
        "interface",
        "Packets to the guest that were dropped",
    ),
    ("network.incoming.packets.error", CUMULATIVE, "packet", _NIC, "interface", "Packets to the guest with an error"),
    ("network.outgoing.bytes", CUMULATIVE, "B", _NIC, "interface", "Sent by the guest"),
    ("network.outgoing.packets", CUMULATIVE, "packet", _NIC, "interface", "Packets sent by the guest"),
    (
        "network.outgoing.packets.drop",
        CUMULATIVE,
        "packet",
        _NIC,
        "interface",
        "Packets of the guest that were dropped",
    ),
    ("network.outgoing.packets.error", CUMULATIVE, "packet", _NIC, "interface", "Packets of the guest with an error"),
)
METERS = tuple(BY_NAME.values())


def groups_of(meters: Collection[str]) -> list[str]:
    """The groups of statistics that these meters need: each group costs calls to the guest's QEMU."""
    return sorted({"state"} | {_GROUPS[m] for m in meters if m in _GROUPS})
