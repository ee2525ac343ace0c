"""Instances as a System: the pollster `libvirt`, and the discovery `local_instances`."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator

from nephoscope.errors import NephoscopeError, Problem
from nephoscope.settings import Settings
from sources.host import host_name
from sources.libvirt.messages import PARTS, Ask, Found, part_of
from sources.libvirt.meters import METERS
from sources.libvirt.part import Parts
from sources.libvirt.pool import LibvirtError, Pool
from sources.pollster import Pollster, Reading, System

_URIS = {"lxc": "lxc:///", "parallels": "parallels:///system", "uml": "uml:///system", "xen": "xen:///"}
_PART = re.compile(r"instances/(\d{2})")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def uri_of(settings: Settings) -> str:
    """Where libvirt is: `libvirt_uri`, else what belongs to `libvirt_type`."""
    return settings.compute.libvirt_uri or _URIS.get(settings.compute.libvirt_type, "qemu:///system")


def libvirt_system(settings: Settings) -> System:
    """The instances of this host. Connects to nothing, imports no client."""
    instances = Instances(
        Pool(uri_of(settings), settings.compute.libvirt_connections), host_name(), settings.compute.libvirt_timeout
    )
    pollster = Pollster(
        "libvirt", METERS, instances.poll, discovery="local_instances", takes=takes, namespace="compute"
    )
    return System((pollster,), {"local_instances": instances.discover}, instances.check, instances.close)


def takes(resource: str) -> bool:
    """Whether a resource is a part of the host's instances, or an instance by its UUID."""
    part = _PART.fullmatch(resource)
    return int(part[1]) < PARTS if part else _UUID.fullmatch(resource) is not None


class Instances:
    """The instances of this host."""

    def __init__(self, pool: Pool, host: str, patience: float) -> None:
        self._pool = pool
        self._parts = Parts(pool, host, patience)
        self._patience = patience

    def poll(self, resource: str, meters: Collection[str]) -> Iterable[Reading]:
        """Instances of this host, by libvirt: CPU, memory, disks, network."""
        part = _PART.fullmatch(resource)
        return self._parts.poll(Ask(part=int(part[1])) if part else Ask(only=[resource]), meters)

    def discover(self, _parameter: str = "") -> list[str]:
        """The parts that have instances."""
        return [f"instances/{part:02d}" for part in sorted({part_of(uuid) for uuid in self._list()})]

    def check(self, _meters: Collection[str]) -> Iterator[Problem]:
        """Whether libvirt can be asked."""
        try:
            self._list()
        except (LibvirtError, NephoscopeError) as error:
            yield Problem(str(error), field="compute.libvirt_uri")

    def close(self) -> None:
        """End the processes that ask."""
        self._pool.close()

    def _list(self) -> list[str]:
        deadline = time.monotonic() + 2 * self._patience
        answers = self._pool.ask(Ask(), self._patience, deadline)
        return [d.uuid for answer in answers if isinstance(answer, Found) for d in answer.domains]
