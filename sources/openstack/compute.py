"""Nova's servers: that they exist, with the metadata that Ceilometer's samples of instances have."""

from __future__ import annotations

from typing import Any, Final

from nephoscope.sample import GAUGE
from sources.openstack.listing import Listing, one
from sources.pollster import Meter
from sources.user_metadata import user_metadata


def _server(server: Any, about: dict[str, Any]) -> None:
    """The flavor with its sizes, the image, and what users marked.

    disk_gb is root and ephemeral disk together, as Nova's notifications have it.
    """
    about["instance_id"] = server.id
    about["status"] = str(server.status or "").lower()
    flavor = server.flavor if isinstance(server.flavor, dict) else {}
    # Before Nova's 2.47 it is a mere reference.
    name = flavor.get("original_name", flavor.get("id"))
    about["flavor"] = {"name": name} | {
        k: flavor[k] for k in ("id", "vcpus", "ram", "disk", "ephemeral", "swap") if k in flavor
    }
    about["instance_type"] = name
    if "vcpus" in flavor:
        ephemeral = flavor.get("ephemeral", 0)
        about["vcpus"] = flavor["vcpus"]
        about["memory_mb"] = flavor.get("ram")
        about["root_gb"] = flavor.get("disk", 0)
        about["ephemeral_gb"] = ephemeral
        about["disk_gb"] = flavor.get("disk", 0) + ephemeral
    # Of a server that boots from a volume it is ''.
    image = server.image if isinstance(server.image, dict) else {}
    if image.get("id"):
        about["image"] = {"id": image["id"]}
        about["image_ref"] = image["id"]
    marked = user_metadata(server.metadata)
    if marked:
        about["user_metadata"] = marked


SERVERS: Final = Listing(
    name="openstack.servers",
    service="compute",
    path="/servers/detail",
    key="servers",
    meters=((Meter("instance", GAUGE, "instance", "instance ID", "Existence of the instance"), one),),
    metadata={
        "display_name": "name",
        "name": "OS-EXT-SRV-ATTR:instance_name",
        "host": "hostId",
        "instance_host": "OS-EXT-SRV-ATTR:host",
        "state": "OS-EXT-STS:vm_state",
        "task_state": "OS-EXT-STS:task_state",
        "OS-EXT-AZ:availability_zone": "OS-EXT-AZ:availability_zone",
        "created_at": "created",
        "launched_at": "OS-SRV-USG:launched_at",
    },
    more=_server,
    extra=("status", "flavor", "image", "metadata"),
    user=("user_id",),
    owner=("tenant_id", "project_id"),
    params={"all_tenants": "1"},
    microversion="2.47",
)
LISTINGS: Final = (SERVERS,)
