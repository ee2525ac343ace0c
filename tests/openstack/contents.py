"""What the cloud of the job holds: a few of everything, and of ports more than a page."""

from __future__ import annotations

import time
from typing import Any

from tests.openstack.cloud import Cloud, say

PORTS = 45
IMAGES = {"small": 1000, "cirros": 100_000, "large": 3_000_000}
VOLUMES = {"one": 1, "two": 2, "three": 3}
CONTAINERS = {"logs": [1000, 2000, 3000], "empty": [], "bilder ä ü": [77]}


def fill(cloud: Cloud) -> None:
    """Make it all, as admin."""
    connection = cloud.connect()
    _images(connection)
    _networks(connection)
    _volumes(connection)
    _servers(connection)
    _balancer(connection)
    _objects(connection)
    say("the cloud is filled")


def _images(connection: Any) -> None:
    for name, size in IMAGES.items():
        connection.image.create_image(
            name=name,
            data=b"x" * size,
            disk_format="raw",
            container_format="bare",
            validate_checksum=False,
            tags=["test"],
        )
    connection.image.post("/images", json={"name": "to be uploaded", "disk_format": "raw", "container_format": "bare"})


def _networks(connection: Any) -> None:
    network = connection.network
    outside = network.create_network(
        name="outside", is_router_external=True, provider_network_type="flat", provider_physical_network="physical"
    )
    network.create_subnet(network_id=outside.id, ip_version=4, cidr="198.51.100.0/24")
    inside = network.create_network(name="inside")
    subnet = network.create_subnet(network_id=inside.id, ip_version=4, cidr="10.0.0.0/16", name="inside")
    router = network.create_router(name="router", external_gateway_info={"network_id": outside.id})
    added = network.put(f"/routers/{router.id}/add_router_interface", json={"subnet_id": subnet.id})
    assert added.status_code == 200, added.text
    ports = list(network.create_ports([{"network_id": inside.id, "name": f"port-{n}"} for n in range(PORTS)]))
    network.create_ip(floating_network_id=outside.id, port_id=ports[0].id)
    network.create_ip(floating_network_id=outside.id)
    vpn = network.post(
        "/vpn/vpnservices", json={"vpnservice": {"name": "tunnel", "router_id": router.id, "subnet_id": subnet.id}}
    )
    assert vpn.status_code == 201, vpn.text
    policies = {}
    for kind, path in (("ikepolicy", "/vpn/ikepolicies"), ("ipsecpolicy", "/vpn/ipsecpolicies")):
        policies[f"{kind}_id"] = network.post(path, json={kind: {"name": kind}}).json()[kind]["id"]
    connection_of_vpn = {
        "name": "site", "vpnservice_id": vpn.json()["vpnservice"]["id"], "peer_address": "203.0.113.1", "peer_id": "203.0.113.1",
        "peer_cidrs": ["10.9.0.0/24"], "psk": "the-pre-shared-key", **policies,
    }  # fmt: skip
    made = network.post("/vpn/ipsec-site-connections", json={"ipsec_site_connection": connection_of_vpn})
    assert made.status_code == 201, made.text


def _volumes(connection: Any) -> None:
    storage = connection.block_storage
    volumes = [storage.create_volume(name=name, size=size) for name, size in VOLUMES.items()]
    for volume in volumes:
        storage.wait_for_status(volume, "available", wait=60, interval=0.3)
    snapshot = storage.create_snapshot(volume_id=volumes[1].id, name="before")
    storage.wait_for_status(snapshot, "available", wait=60, interval=0.3)
    # The fake driver's volumes cannot be read: it ends as an error, with its size.
    storage.create_backup(volume_id=volumes[2].id, name="saved")


def _servers(connection: Any) -> None:
    compute = connection.compute
    flavor = compute.create_flavor(name="tiny", vcpus=2, ram=256, disk=3, ephemeral=1)
    image = connection.image.find_image("cirros")
    for name, marked in (("alpha", {"metering.stack": "blue", "other": "x"}), ("beta", {})):
        server = compute.create_server(
            name=name, flavor_id=flavor.id, image_id=image.id, networks="none", metadata=marked
        )
        compute.wait_for_server(server, wait=120, interval=0.5)


def _balancer(connection: Any) -> None:
    """All at once: while the load balancer is being made, for ever here, nothing can be added to it."""
    subnet = connection.network.find_subnet("inside")
    pool = {
        "name": "backends", "protocol": "HTTP", "lb_algorithm": "ROUND_ROBIN",
        "healthmonitor": {"name": "probe", "type": "HTTP", "delay": 5, "timeout": 3, "max_retries": 2},
        "members": [{"name": f"m{n}", "address": f"10.0.1.{n}", "protocol_port": 80, "subnet_id": subnet.id} for n in (1, 2)],
    }  # fmt: skip
    listener = {"name": "web", "protocol": "HTTP", "protocol_port": 80, "default_pool": pool}
    balancer = {"name": "front", "vip_subnet_id": subnet.id, "listeners": [listener]}
    made = connection.load_balancer.post("/lbaas/loadbalancers", json={"loadbalancer": balancer})
    assert made.status_code == 201, made.text


def _objects(connection: Any) -> None:
    for name, sizes in CONTAINERS.items():
        connection.object_store.create_container(name=name)
        for number, size in enumerate(sizes):
            connection.object_store.upload_object(container=name, name=f"o{number}", data=b"z" * size)
    objects = sum(map(len, CONTAINERS.values()))
    deadline = time.monotonic() + 120
    # A container tells the account what is in it when its updater comes by.
    while int(connection.object_store.head("/").headers["X-Account-Object-Count"]) != objects:
        assert time.monotonic() < deadline, "Swift's account does not get to know of its objects"
        time.sleep(1)
