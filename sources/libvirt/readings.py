"""From libvirt's bulk statistics of a domain to readings. What is not told gives none.

The fields are those of virConnectGetAllDomainStats: https://libvirt.org/html/libvirt-libvirt-domain.html#virConnectGetAllDomainStats
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from sources.libvirt.domain import SHUT_OFF, Instance
from sources.libvirt.meters import BY_NAME
from sources.pollster import Reading

_KIB = 1024
"""In a KiB there are so many B, and in a MiB so many KiB."""
_PERF = {
    "perf.cpu.cycles": "perf.cpu_cycles",
    "perf.instructions": "perf.instructions",
    "perf.cache.references": "perf.cache_references",
    "perf.cache.misses": "perf.cache_misses",
    "memory.bandwidth.total": "perf.mbmt",
    "memory.bandwidth.local": "perf.mbml",
    "cpu_l3_cache": "perf.cmt",
}
_BLOCK = {
    "read.requests": "rd.reqs",
    "read.bytes": "rd.bytes",
    "read.latency": "rd.times",
    "write.requests": "wr.reqs",
    "write.bytes": "wr.bytes",
    "write.latency": "wr.times",
    "capacity": "capacity",
    "allocation": "allocation",
    "usage": "physical",
}
_NET = {
    "incoming.bytes": "rx.bytes",
    "incoming.packets": "rx.pkts",
    "incoming.packets.drop": "rx.drop",
    "incoming.packets.error": "rx.errs",
    "outgoing.bytes": "tx.bytes",
    "outgoing.packets": "tx.pkts",
    "outgoing.packets.drop": "tx.drop",
    "outgoing.packets.error": "tx.errs",
}
_Told = Mapping[str, Any]


def readings_of(instance: Instance, told: _Told, meters: Collection[str], measured_at: int) -> Iterator[Reading]:
    """The readings of the wanted meters: those of the instance, then those of each disk and interface."""

    def of(name: str, volume: float, resource: str, metadata: str) -> Reading:
        return Reading(
            BY_NAME[name], volume, resource, metadata, instance.user, instance.project, measured_at=measured_at
        )

    running = told.get("state.state") != SHUT_OFF
    blocks = list(_each(told, "block", instance.disks)) if running else []
    for tell in (_instance, _cpu, _memory, _perf) if running else (_instance,):
        for name, volume in tell(told):
            if name in meters:
                yield of(name, volume, instance.uuid, instance.metadata)
    for name, volume in _totals(blocks):
        if name in meters:
            yield of(name, volume, instance.uuid, instance.metadata)
    for dev, fields in blocks:
        disk = instance.disks[dev]
        for name, field in _BLOCK.items():
            if field in fields and (full := f"disk.device.{name}") in meters:
                yield of(full, fields[field], disk.resource, disk.metadata)
    for dev, fields in _each(told, "net", instance.nics) if running else ():
        nic = instance.nics[dev]
        for name, field in _NET.items():
            if field in fields and (full := f"network.{name}") in meters:
                yield of(full, fields[field], nic.resource, nic.metadata)


def is_complete(told: _Told, groups: Collection[str]) -> bool:
    """Whether a domain's QEMU was asked: of one that hangs, or that another client works on, NOWAIT tells only what libvirt knows itself.

    That is the size of the balloon and the names of the disks, so what QEMU tells beside them is looked for.
    """
    if told.get("state.state") == SHUT_OFF:
        return True
    if "balloon" in groups and "balloon.current" in told and "balloon.rss" not in told:
        return False
    disks = range(told.get("block.count", 0)) if "block" in groups else ()
    return not disks or any(f"block.{n}.rd.reqs" in told for n in disks)


def _instance(_told: _Told) -> Iterable[tuple[str, float]]:
    yield "instance", 1


def _cpu(told: _Told) -> Iterable[tuple[str, float]]:
    # Not the sum over vCPUs: that falls where one is taken away (docs/decisions/0102-what-libvirt-tells.md).
    if "cpu.time" in told:
        yield "cpu", told["cpu.time"]


def _memory(told: _Told) -> Iterable[tuple[str, float]]:
    if "balloon.rss" in told:
        yield "memory.resident", told["balloon.rss"] / _KIB
    if not told.get("balloon.last-update"):
        return  # The guest has no driver, or it has not said anything yet.
    free = told.get("balloon.usable", told.get("balloon.unused"))
    if free is not None and "balloon.available" in told:
        yield "memory.usage", (told["balloon.available"] - free) / _KIB
    if "balloon.swap_in" in told and "balloon.swap_out" in told:
        yield "memory.swap.in", told["balloon.swap_in"] / _KIB
        yield "memory.swap.out", told["balloon.swap_out"] / _KIB


def _perf(told: _Told) -> Iterable[tuple[str, float]]:
    for name, field in _PERF.items():
        if field in told:
            yield name, told[field]


def _totals(blocks: list[tuple[str, dict[str, Any]]]) -> Iterable[tuple[str, float]]:
    """Of all disks together; a figure that one of them lacks would be no sum."""
    for name, field in _BLOCK.items():
        if blocks and not name.endswith("latency") and all(field in fields for _, fields in blocks):
            yield f"disk.{name}", sum(fields[field] for _, fields in blocks)


def _each(told: _Told, what: str, known: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The fields of each disk or interface that the XML knows too: `block.0.rd.reqs` is `rd.reqs` of `block.0.name`."""
    for number in range(told.get(f"{what}.count", 0)):
        start = f"{what}.{number}."
        dev: str = told.get(start + "name", "")
        if dev in known:
            yield dev, {key[len(start) :]: value for key, value in told.items() if key.startswith(start)}
