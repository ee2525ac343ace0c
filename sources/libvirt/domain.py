"""What a domain's XML says: whose instance it is, what it was made from, its disks and interfaces.

Nova writes an element of its own into the XML (name, flavor, owner, image); the metadata of samples is made of it as Ceilometer's discovery by
libvirt_metadata did. A domain that Nova has not made gives samples as well, of no user and project.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, fromstring

from nephoscope.sample import metadata_text

_NOVA = ("{http://openstack.org/xmlns/libvirt/nova/1.1}", "{http://openstack.org/xmlns/libvirt/nova/1.0}")
_STATES = {
    0: ("building", "pending"),
    1: ("active", "running"),
    2: ("active", "running"),
    3: ("paused", "paused"),
    4: ("stopped", "shutdown"),
    5: ("stopped", "shutdown"),
    6: ("error", "crashed"),
    7: ("suspended", "suspended"),
}
"""libvirt's virDomainState: the status that Nova would tell (nearly always), and Nova's power state."""
SHUT_OFF = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A disk or interface: the resource_id of its samples and their metadata, as JSON."""

    resource: str
    metadata: str


@dataclass(frozen=True, slots=True)
class Instance:
    """What samples of a domain have in common. `disks` and `nics` by the name that libvirt's statistics use."""

    uuid: str
    name: str
    user: str
    project: str
    metadata: str
    disks: Mapping[str, Part]
    nics: Mapping[str, Part]


def instance_of(uuid: str, name: str, xml: str, state: int, host: str) -> Instance:
    """Read a domain's XML. ValueError, xml.etree.ElementTree.ParseError where it is none."""
    # libvirtd writes it itself, from its own objects: no DTD, so no entities.
    top = fromstring(xml)  # noqa: S314
    nova, space = _nova(top)
    owner = _child(nova, space, "owner")
    user = _attribute(_child(owner, space, "user"), "uuid")
    project = _attribute(_child(owner, space, "project"), "uuid")
    disks = [t for d in top.findall("devices/disk") if d.find("source") is not None and (t := _target(d))]
    about = _about(uuid, name, top, nova, space, project, state, host)
    about["device"] = disks
    of_disks = {d: Part(f"{uuid}-{d}", metadata_text({**about, "disk_name": d})) for d in disks}
    nics = {}
    for element in top.findall("devices/interface"):
        if dev := _target(element):
            nics[dev] = _nic(uuid, name, dev, element, about)
    return Instance(uuid, name, user, project, metadata_text(about), of_disks, nics)


def _nova(top: Element) -> tuple[Element | None, str]:
    """Nova's element, and the namespace of its children."""
    for space in _NOVA:
        found = top.find(f"metadata/{space}instance")
        if found is not None:
            return found, space
    return None, _NOVA[0]


def _about(
    uuid: str, name: str, top: Element, nova: Element | None, space: str, project: str, state: int, host: str
) -> dict[str, Any]:
    """The metadata of the instance."""
    vcpu = top.find("vcpu")
    cpus = _number(vcpu.get("current") or vcpu.text) if vcpu is not None else 1
    status, power = _STATES.get(state, _STATES[0])
    display = _child(nova, space, "name")
    image = _attribute(nova.find(f"{space}root[@type='image']") if nova is not None else None, "uuid") or None
    about: dict[str, Any] = {
        "display_name": (display.text or "") if display is not None else name,
        "name": name,
        "instance_id": uuid,
        # As Nova's API names a host to those who must not know it.
        "host": hashlib.sha224((project + host).encode()).hexdigest(),
        "instance_host": host,
        "status": status,
        "state": power,
        "task_state": "",
        "image": {"id": image} if image else None,
        "image_ref": image,
        "image_ref_url": None,
        "cpu_number": cpus or 1,
    }
    if (kind := top.find("os/type")) is not None:
        about |= {"architecture": kind.get("arch", ""), "os_type": kind.text or ""}
    flavor = _child(nova, space, "flavor")
    if flavor is None:
        return about | {"instance_type": None, "flavor": None, "vcpus": cpus}
    figures = {key: _number(_text(flavor, space, tag)) for key, tag in _FLAVOR.items()}
    flavor_id = flavor.get("id")
    about |= {
        "instance_type": flavor.get("name", ""),
        "flavor": {"id": flavor_id, "name": flavor.get("name", ""), **figures},
        "vcpus": figures["vcpus"],
        "memory_mb": figures["ram"],
        "disk_gb": figures["disk"],
        "ephemeral_gb": figures["ephemeral"],
        "root_gb": figures["disk"] - figures["ephemeral"],
    }
    return about


_FLAVOR = {"vcpus": "vcpus", "ram": "memory", "disk": "disk", "ephemeral": "ephemeral", "swap": "swap"}
"""Nova's API names a flavor's figures so, and its element in the XML so."""


def _nic(uuid: str, name: str, dev: str, element: Element, about: Mapping[str, Any]) -> Part:
    """An interface; one with a network filter is known by the filter's name, as Ceilometer has it."""
    filtered = element.find("filterref")
    fref = filtered.get("filter") if filtered is not None else None
    parameters: dict[str, Any] = {
        p.get("name", "").lower(): p.get("value") for p in element.findall("filterref/parameter")
    }
    port, source = element.find("virtualport/parameters"), element.find("source")
    parameters["interfaceid"] = port.get("interfaceid") if port is not None else None
    parameters["bridge"] = source.get("bridge") if source is not None else None
    more = {
        "name": dev,
        "mac": _attribute(element.find("mac"), "address"),
        "fref": fref,
        "parameters": parameters,
        "vnic_name": fref or dev,
    }
    return Part(fref or f"{name}-{uuid}-{dev}", metadata_text({**about, **more}))


def _target(element: Element) -> str:
    return _attribute(element.find("target"), "dev")


def _child(element: Element | None, space: str, tag: str) -> Element | None:
    return element.find(space + tag) if element is not None else None


def _text(element: Element, space: str, tag: str) -> str | None:
    found = element.find(space + tag)
    return found.text if found is not None else None


def _attribute(element: Element | None, name: str) -> str:
    return element.get(name, "") if element is not None else ""


def _number(text: str | None) -> int:
    return int(text) if text and text.strip().isdigit() else 0
