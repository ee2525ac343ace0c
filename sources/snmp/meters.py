"""The meters that SNMP gives, and the objects that they are read from.

Names, types and units are those of Ceilometer's snmp.yaml, sizes in B, as its documentation has them (the objects are in kB). Objects are of
UCD-SNMP-MIB (1.3.6.1.4.1.2021), UCD-DISKIO-MIB, IF-MIB, IP-MIB and HOST-RESOURCES-MIB. Counters of 64 bits go before those of 32.
"""

from __future__ import annotations

from typing import Final

from nephoscope.sample import CUMULATIVE, GAUGE
from sources.hardware import DISK, LOAD, NETWORK, metered

Oid = tuple[int, ...]


def _oid(text: str) -> Oid:
    return tuple(map(int, text.split(".")))


_UCD: Final = "1.3.6.1.4.1.2021"
_IF: Final = "1.3.6.1.2.1.2.2.1"
_IFX: Final = "1.3.6.1.2.1.31.1.1.1"

# The host

LOADS: Final = {name: _oid(f"{_UCD}.10.1.3.{i}") for i, name in enumerate(LOAD, 1)}
"""laLoad, a text."""

TICKS: Final = metered(
    CUMULATIVE,
    "tick",
    "host",
    {
        "hardware.cpu.user": "CPU time in programs, all CPUs, in hundredths of a second",
        "hardware.cpu.nice": "CPU time in programs of low priority, all CPUs",
        "hardware.cpu.system": "CPU time in the kernel, all CPUs",
        "hardware.cpu.idle": "CPU time with nothing to do, all CPUs",
        "hardware.cpu.wait": "CPU time with nothing to do but wait for a disk, all CPUs",
        "hardware.cpu.kernel": "CPU time in the kernel, where the agent tells it from hardware.cpu.system, all CPUs",
        "hardware.cpu.interrupt": "CPU time in interrupts, all CPUs",
    },
)
RAW: Final = {name: _oid(f"{_UCD}.11.{i}.0") for i, name in enumerate(TICKS, 50)}
"""ssCpuRawUser to ssCpuRawInterrupt. In its first seconds net-snmp's agent gives 0 for all of them."""

SHARES: Final = metered(
    GAUGE,
    "%",
    "host",
    {
        "hardware.cpu.util": "CPU use, all that is not idle, mean of the past minute",
        "hardware.system_stats.cpu.idle": "Idle CPU, mean of the past minute",
    },
)
IDLE: Final = _oid(f"{_UCD}.11.11.0")
"""ssCpuIdle. An agent has none in its first half minute."""
PROCESSORS: Final = _oid("1.3.6.1.2.1.25.3.3.1.1")
"""hrProcessorFrwID: a row a CPU. (hrProcessorLoad is not there in an agent's first minute.)"""

MEMORY: Final = metered(
    GAUGE,
    "B",
    "host",
    {
        "hardware.memory.total": "Physical memory",
        "hardware.memory.used": "Physical memory in use, buffers and page cache included",
        "hardware.memory.buffer": "Physical memory that buffers take",
        "hardware.memory.cached": "Physical memory that the page cache takes",
        "hardware.memory.swap.total": "Swap space",
        "hardware.memory.swap.avail": "Swap space that is free",
    },
)
SIZES: Final = {
    # in kB: 32 bits, and 64 where those do not do.
    "hardware.memory.total": (_oid(f"{_UCD}.4.5.0"), _oid(f"{_UCD}.4.20.0")),
    "hardware.memory.used": (_oid(f"{_UCD}.4.6.0"), _oid(f"{_UCD}.4.21.0")),
    "hardware.memory.buffer": (_oid(f"{_UCD}.4.14.0"), _oid(f"{_UCD}.4.25.0")),
    "hardware.memory.cached": (_oid(f"{_UCD}.4.15.0"), _oid(f"{_UCD}.4.26.0")),
    "hardware.memory.swap.total": (_oid(f"{_UCD}.4.3.0"), _oid(f"{_UCD}.4.18.0")),
    "hardware.memory.swap.avail": (_oid(f"{_UCD}.4.4.0"), _oid(f"{_UCD}.4.19.0")),
}
"""memTotalReal, memAvailReal (which `used` is the rest of), memBuffer, memCached, memTotalSwap, memAvailSwap; their …X."""

BLOCKS: Final = metered(
    CUMULATIVE,
    "blocks",
    "host",
    {
        "hardware.system_stats.io.outgoing.blocks": "Blocks sent to disks",
        "hardware.system_stats.io.incoming.blocks": "Blocks received from disks",
    },
)
DATAGRAMS: Final = metered(
    CUMULATIVE,
    "datagrams",
    "host",
    {
        "hardware.network.ip.outgoing.datagrams": "IP datagrams to send",
        "hardware.network.ip.incoming.datagrams": "IP datagrams received",
    },
)
COUNTERS: Final = {
    "hardware.system_stats.io.outgoing.blocks": (_oid(f"{_UCD}.11.57.0"),),
    "hardware.system_stats.io.incoming.blocks": (_oid(f"{_UCD}.11.58.0"),),
    "hardware.network.ip.outgoing.datagrams": (_oid("1.3.6.1.2.1.4.31.1.1.21.1"), _oid("1.3.6.1.2.1.4.10.0")),
    "hardware.network.ip.incoming.datagrams": (_oid("1.3.6.1.2.1.4.31.1.1.4.1"), _oid("1.3.6.1.2.1.4.3.0")),
}
"""ssIORawSent, ssIORawReceived; ipSystemStatsHCOutRequests and …HCInReceives of IPv4, else ipOutRequests and ipInReceives."""

# Filesystems: dskTable

FILESYSTEM: Final = metered(
    GAUGE,
    "B",
    "host.device",
    {"hardware.disk.size.total": "Size of a filesystem", "hardware.disk.size.used": "Used part of a filesystem"},
)
DISK_PATH, DISK_DEVICE = _oid(f"{_UCD}.9.1.2"), _oid(f"{_UCD}.9.1.3")
DISK_SIZES: Final = {
    # 32 bits of kB, and the halves of 64.
    "hardware.disk.size.total": (_oid(f"{_UCD}.9.1.6"), _oid(f"{_UCD}.9.1.11"), _oid(f"{_UCD}.9.1.12")),
    "hardware.disk.size.used": (_oid(f"{_UCD}.9.1.8"), _oid(f"{_UCD}.9.1.15"), _oid(f"{_UCD}.9.1.16")),
}
"""dskTotal and dskUsed; dskTotalLow and dskTotalHigh, dskUsedLow and dskUsedHigh."""

# Disks: diskIOTable

IO_DEVICE: Final = _oid(f"{_UCD}.13.15.1.1.2")
IO: Final = {
    "hardware.disk.read.bytes": (_oid(f"{_UCD}.13.15.1.1.12"), _oid(f"{_UCD}.13.15.1.1.3")),
    "hardware.disk.write.bytes": (_oid(f"{_UCD}.13.15.1.1.13"), _oid(f"{_UCD}.13.15.1.1.4")),
    "hardware.disk.read.requests": (_oid(f"{_UCD}.13.15.1.1.5"),),
    "hardware.disk.write.requests": (_oid(f"{_UCD}.13.15.1.1.6"),),
}
"""diskIONReadX, diskIONWrittenX, else diskIONRead, diskIONWritten; diskIOReads, diskIOWrites."""

# Interfaces: ifTable, ifXTable

IF_NAME, IF_SPEED, IF_MAC = (_oid(f"{_IF}.{i}") for i in (2, 5, 6))
"""ifDescr, ifSpeed (bit/s), ifPhysAddress."""
IF_HIGH_SPEED: Final = _oid(f"{_IFX}.15")
"""ifHighSpeed, Mbit/s."""
IF_ADDRESS: Final = _oid("1.3.6.1.2.1.4.20.1.2")
"""ipAdEntIfIndex: the interface of an IPv4 address."""
TRAFFIC: Final = {
    "hardware.network.incoming.bytes": ((_oid(f"{_IFX}.6"),), (_oid(f"{_IF}.10"),)),
    "hardware.network.outgoing.bytes": ((_oid(f"{_IFX}.10"),), (_oid(f"{_IF}.16"),)),
    "hardware.network.incoming.packets": (
        (_oid(f"{_IFX}.7"), _oid(f"{_IFX}.8"), _oid(f"{_IFX}.9")),
        (_oid(f"{_IF}.11"), _oid(f"{_IF}.12")),
    ),
    "hardware.network.outgoing.packets": (
        (_oid(f"{_IFX}.11"), _oid(f"{_IFX}.12"), _oid(f"{_IFX}.13")),
        (_oid(f"{_IF}.17"), _oid(f"{_IF}.18")),
    ),
    "hardware.network.incoming.errors": ((_oid(f"{_IF}.14"),),),
    "hardware.network.outgoing.errors": ((_oid(f"{_IF}.20"),),),
    "hardware.network.incoming.drop": ((_oid(f"{_IF}.13"),),),
    "hardware.network.outgoing.drop": ((_oid(f"{_IF}.19"),),),
}
"""Columns whose sum it is: ifHCInOctets, else ifInOctets; ifHCIn{Ucast,Multicast,Broadcast}Pkts, else ifIn{Ucast,NUcast}Pkts; and so on."""

METERS: Final = tuple(
    meter
    for table in (LOAD, TICKS, SHARES, MEMORY, BLOCKS, DATAGRAMS, FILESYSTEM, DISK, NETWORK)
    for meter in table.values()
)
