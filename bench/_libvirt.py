"""libvirt-200: seconds for a cycle over 200 domains, against Ceilometer's calls a domain over one connection.

Ours is the whole of a poll: discovery, all parts at once as the agent's threads do it, readings of every meter. Theirs is only the calls that
Ceilometer's inspector makes for those meters (Queens; `calls`), nothing made of what they give. Both ask the same libvirtd, in turns.
Guests are boot sectors under QEMU that read, write and halt: 200 of them take 8 GB. Needs root and the packages of tests/servers/libvirt.py.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from nephoscope.settings import load_settings
from sources.libvirt.meters import BY_NAME
from sources.libvirt.system import libvirt_system
from sources.pollster import System
from tests.servers.libvirt import running

DOMAINS: Final = 200
_AT_ONCE: Final = 16
"""Calls at once of an agent: polling.concurrency."""
_WARM: Final = 1


def cases(repeat: int = 3) -> Iterator[dict[str, Any]]:
    """The case."""
    import libvirt

    with running() as server:
        began = time.monotonic()
        for number in range(1, DOMAINS + 1):
            server.add(number, ticks=0)
        print(f"{DOMAINS} guests after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        time.sleep(10)  # Their BIOS is done.
        system = libvirt_system(
            load_settings(flags={"compute.libvirt_uri": server.uri, "compute.libvirt_timeout": "30"})
        )
        to = libvirt.openReadOnly(server.uri)
        ours, theirs = [], []
        try:
            for turn in range(_WARM + repeat):
                ours.append(_timed(lambda: _poll(system)))
                theirs.append(_timed(lambda: _ask_each(to)))
                print(f"turn {turn}: {ours[-1]:.3f} s, {theirs[-1]:.3f} s", file=sys.stderr, flush=True)
        finally:
            to.close()
            system.close()
    value, against = statistics.median(ours[_WARM:]), statistics.median(theirs[_WARM:])
    yield {
        "case": "libvirt-200",
        "value": round(value, 3),
        "unit": "s",
        "against": round(against, 3),
        "ratio": round(against / value, 2),
    }


def _timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _poll(system: System) -> None:
    (pollster,) = system.pollsters
    parts = system.discoveries["local_instances"]("")
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        polled = list(threads.map(lambda part: list(pollster.poll(part, BY_NAME)), parts))
    found = sum(r.meter.name == "disk.device.read.bytes" for readings in polled for r in readings)
    assert found == DOMAINS, found


def _ask_each(to: Any) -> None:
    for one in to.listAllDomains(0):
        calls(to, one.UUIDString())


def calls(to: Any, uuid: str) -> None:
    """Ceilometer's 16 calls for a domain of one disk and one interface."""
    # inspect_vnics
    domain = to.lookupByUUIDString(uuid)
    domain.info()
    xml = domain.XMLDesc(0)
    domain.interfaceStats("tap" + xml.partition("<target dev='tap")[2].partition("'")[0])
    # inspect_disks
    domain = to.lookupByUUIDString(uuid)
    domain.info()
    domain.XMLDesc(0)
    domain.blockStats("vda")
    domain.blockStatsFlags("vda", 0)
    # inspect_disk_info
    domain = to.lookupByUUIDString(uuid)
    domain.info()
    domain.XMLDesc(0)
    domain.blockInfo("vda")
    # inspect_instance, whose lookup and info are left out: the discovery has just made them.
    domain.memoryStats()
    to.domainListGetStats([domain], 0)
    # The state of its discovery.
    domain.state()
