"""This host, by psutil: CPU, memory, disks, filesystems, network.

Names, types and units are Ceilometer's: ``hardware.*`` as its SNMP pollsters gave them (memory and swap in B, as its
documentation says), ``compute.node.cpu.*.time`` for CPU times (cumulative, ns). What Ceilometer had no name for is named in the same way.

Resources: the host; ``host.device`` for a filesystem or disk; ``host.interface``.

Guarantee: reads only what the operating system already counts, and changes nothing; counters start anew with the host, which
rate_of_change takes as a reset. A group that the system does not offer gives no readings; the others go on.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from nephoscope.sample import CUMULATIVE, GAUGE
from sources.hardware import DISK, LOAD, NETWORK, metered
from sources.pollster import Meter, Pollster, Reading

_log = logging.getLogger(__name__)
_PROC = Path("/proc")
_NANOSECONDS = 1e9
_BLOCK = 512
LOCAL_NAMES = ("", "local", "localhost", "local_host", "local_node")
"""What a source may call this host, beside its name."""


def host_name() -> str:
    """This host's name, as Ceilometer's `host` option has it."""
    return socket.gethostname()


_MODES = {
    "user": ("user", "in programs (guests included)"),
    "nice": ("nice", "in programs of low priority"),
    "system": ("kernel", "in the kernel"),
    "idle": ("idle", "with nothing to do"),
    "iowait": ("iowait", "with nothing to do but wait for a disk"),
    "irq": ("irq", "in interrupts"),
    "softirq": ("softirq", "in soft interrupts"),
    "steal": ("steal", "taken by other guests of the hypervisor"),
    "guest": ("guest", "in guests of this host"),
}
"""psutil's modes, and Ceilometer's words for them."""
_BUSY = "compute.node.cpu.time"
_CPU = metered(
    CUMULATIVE,
    "ns",
    "host",
    {_BUSY: "CPU time used, all modes but idle and iowait, all CPUs"}
    | {f"compute.node.cpu.{word}.time": f"CPU time {text}, all CPUs" for word, text in _MODES.values()},
)
_MEMORY = metered(
    GAUGE,
    "B",
    "host",
    {
        "hardware.memory.total": "Physical memory",
        "hardware.memory.used": "Physical memory that programs could not get without swapping",
        "hardware.memory.buffer": "Physical memory that buffers take",
        "hardware.memory.cached": "Physical memory that the page cache takes",
    },
)
_SWAP = metered(
    GAUGE,
    "B",
    "host",
    {"hardware.memory.swap.total": "Swap space", "hardware.memory.swap.avail": "Swap space that is free"},
)
_FILESYSTEM = metered(
    GAUGE,
    "B",
    "host.device",
    {"hardware.disk.size.total": "Size of a filesystem", "hardware.disk.size.used": "Used part of a filesystem"},
) | metered(
    GAUGE,
    "inode",
    "host.device",
    {"hardware.disk.inode.total": "Inodes of a filesystem", "hardware.disk.inode.used": "Used inodes of a filesystem"},
)
_IP = metered(
    CUMULATIVE,
    "datagrams",
    "host",
    {
        "hardware.network.ip.incoming.datagrams": "IP datagrams received",
        "hardware.network.ip.outgoing.datagrams": "IP datagrams to send",
    },
)
_BLOCKS = metered(
    CUMULATIVE,
    "blocks",
    "host",
    {
        "hardware.system_stats.io.incoming.blocks": "Blocks of 512 B received from disks",
        "hardware.system_stats.io.outgoing.blocks": "Blocks of 512 B sent to disks",
    },
)


def _load(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    for meter, volume in zip(LOAD.values(), psutil.getloadavg(), strict=True):
        yield Reading(meter, volume, host, about)


def _cpu(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    times = psutil.cpu_times()._asdict()
    # psutil's user and nice hold the guests' time already.
    busy = sum(t for mode, t in times.items() if mode not in {"idle", "iowait", "guest", "guest_nice"})
    yield Reading(_CPU[_BUSY], round(busy * _NANOSECONDS), host, about)
    for mode, (word, _) in _MODES.items():
        if mode in times:
            yield Reading(_CPU[f"compute.node.cpu.{word}.time"], round(times[mode] * _NANOSECONDS), host, about)


def _memory(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    memory = psutil.virtual_memory()
    volumes = (
        memory.total,
        memory.total - memory.available,
        getattr(memory, "buffers", None),
        getattr(memory, "cached", None),
    )
    for meter, volume in zip(_MEMORY.values(), volumes, strict=True):
        if volume is not None:
            yield Reading(meter, volume, host, about)


def _swap(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    swap = psutil.swap_memory()
    yield Reading(_SWAP["hardware.memory.swap.total"], swap.total, host, about)
    yield Reading(_SWAP["hardware.memory.swap.avail"], swap.free, host, about)


def _filesystems(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    seen = set()
    mounted = psutil.disk_partitions(all=False)
    # A container's root is no disk, yet it is what fills up.
    mounted += [p for p in psutil.disk_partitions(all=True) if p.mountpoint == "/"]
    for part in mounted:
        if part.device in seen:
            continue
        seen.add(part.device)
        try:
            stat = os.statvfs(part.mountpoint)
        except OSError as error:
            _log.debug("cannot read the filesystem at %s: %s", part.mountpoint, error)
            continue
        if not stat.f_blocks:
            continue
        named = {**about, "device": part.device, "path": part.mountpoint, "fstype": part.fstype}
        volumes = (
            stat.f_blocks * stat.f_frsize,
            (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            stat.f_files,
            stat.f_files - stat.f_ffree,
        )
        for meter, volume in zip(_FILESYSTEM.values(), volumes, strict=True):
            yield Reading(meter, volume, f"{host}.{part.device}", named)


def _disks(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    for device, count in (psutil.disk_io_counters(perdisk=True) or {}).items():
        if device.startswith(("loop", "ram")):
            continue  # They show other disks' files, whose disks are counted.
        named = {**about, "device": device}
        volumes = (count.read_bytes, count.write_bytes, count.read_count, count.write_count)
        for meter, volume in zip(DISK.values(), volumes, strict=True):
            yield Reading(meter, volume, f"{host}.{device}", named)


def _networks(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    addresses = psutil.net_if_addrs()
    states = psutil.net_if_stats()
    for name, count in psutil.net_io_counters(pernic=True).items():
        named = {**about, "name": name}
        for address in addresses.get(name, ()):
            if address.family == psutil.AF_LINK:
                named["mac"] = address.address
            elif address.family == socket.AF_INET:
                named.setdefault("ip", address.address)
        if name in states and states[name].speed:
            named["speed"] = states[name].speed * 1_000_000 // 8  # B/s, as Ceilometer has it
        volumes = (
            count.bytes_recv,
            count.bytes_sent,
            count.packets_recv,
            count.packets_sent,
            count.errin,
            count.errout,
            count.dropin,
            count.dropout,
        )
        for meter, volume in zip(NETWORK.values(), volumes, strict=True):
            yield Reading(meter, volume, f"{host}.{name}", named)


def _datagrams(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    names, values = [
        line.split()[1:]
        for line in (_PROC / "net/snmp").read_text(encoding="ascii").splitlines()
        if line.startswith("Ip:")
    ][:2]
    counts = dict(zip(names, values, strict=True))
    for meter, field in zip(_IP.values(), ("InReceives", "OutRequests"), strict=True):
        yield Reading(meter, int(counts[field]), host, about)


def _blocks(host: str, about: dict[str, Any]) -> Iterator[Reading]:
    counts = dict(line.split() for line in (_PROC / "vmstat").read_text(encoding="ascii").splitlines())
    for meter, field in zip(_BLOCKS.values(), ("pgpgin", "pgpgout"), strict=True):
        yield Reading(meter, int(counts[field]) * 1024 // _BLOCK, host, about)


_GROUPS: tuple[tuple[dict[str, Meter], Callable[[str, dict[str, Any]], Iterator[Reading]]], ...] = (
    (_CPU, _cpu),
    (LOAD, _load),
    (_MEMORY, _memory),
    (_SWAP, _swap),
    (_FILESYSTEM, _filesystems),
    (DISK, _disks),
    (NETWORK, _networks),
    (_IP, _datagrams),
    (_BLOCKS, _blocks),
)
_silent: set[Callable[..., Any]] = set()
"""Groups that failed: said once, not every period."""
METERS = tuple(meter for table, _ in _GROUPS for meter in table.values())


def poll(resource: str, meters: Collection[str]) -> Iterable[Reading]:
    """This host, by psutil: CPU, memory, disks, filesystems, network."""
    host = host_name() if resource in LOCAL_NAMES else resource
    about = {"host": host, "cpu_number": psutil.cpu_count() or 1}
    for table, read in _GROUPS:
        if table.keys().isdisjoint(meters):
            continue
        try:
            readings = [r for r in read(host, about) if r.meter.name in meters]
        except (OSError, NotImplementedError, RuntimeError, AttributeError, KeyError, ValueError) as error:
            if read not in _silent:
                _silent.add(read)
                _log.warning("this host does not tell %s: %s", ", ".join(sorted(table)), error)
            continue
        yield from readings


def takes(resource: str) -> bool:
    """Whether a resource that a source names is this host."""
    return resource in LOCAL_NAMES or resource == host_name()


def local_node(_parameter: str = "") -> list[str]:
    """The discovery that finds the host that the agent runs on."""
    return [host_name()]


HOST = Pollster("host", METERS, poll, discovery="local_node", takes=takes, namespace="compute")
