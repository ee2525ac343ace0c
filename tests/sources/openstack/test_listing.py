"""Lists: pages, fields, what an entry becomes, and the meters' names, types and units."""

import pytest

from nephoscope.sample import TYPES
from sources.openstack.failures import CloudError
from tests.servers.openstack_apis import PROJECT, port

IMAGE = {
    "id": "i1", "name": "cirros", "status": "active", "size": 100, "owner": "p1", "visibility": "public",
    "created_at": "2026-11-20T12:00:00Z", "checksum": None, "protected": False, "tags": [], "self": "/v2/images/i1",
}  # fmt: skip
VOLUME = {
    "id": "v1", "name": "data", "status": "in-use", "size": 3, "user_id": "u1", "os-vol-tenant-attr:tenant_id": "p1",
    "os-vol-host-attr:host": "h@b#p", "volume_type": "gold", "snapshot_id": None, "links": [],
    "attachments": [{"server_id": "s1", "device": "/dev/vdb"}], "volume_image_metadata": {"image_id": "i1"},
}  # fmt: skip
POOL = {
    "name": "host@lvm#pool",
    "capabilities": {
        "total_capacity_gb": 100.0, "free_capacity_gb": 60, "allocated_capacity_gb": 30, "provisioned_capacity_gb": 40,
        "reserved_percentage": 10, "thin_provisioning_support": True, "max_over_subscription_ratio": "2.0", "pool_name": "pool",
    },
}  # fmt: skip
SERVER = {
    "id": "s1", "name": "vm", "status": "ACTIVE", "tenant_id": "p1", "user_id": "u1", "hostId": "abc", "image": {"id": "i1", "links": []},
    "flavor": {"original_name": "m1.tiny", "vcpus": 2, "ram": 512, "disk": 5, "ephemeral": 3, "swap": 0, "extra_specs": {}},
    "OS-EXT-SRV-ATTR:instance_name": "instance-00000001", "OS-EXT-SRV-ATTR:host": "node1", "OS-EXT-STS:vm_state": "active",
    "OS-EXT-STS:task_state": None, "metadata": {"metering.stack": "blue", "other": "x"}, "created": "2026-11-20T12:00:00Z",
}  # fmt: skip


def volumes(readings):
    return {r.meter.name: r.volume for r in readings}


def test_every_meter_is_told_once_and_typed(make):
    meters = [m for p in make().pollsters for m in p.meters]

    assert len({m.name for m in meters}) == len(meters)
    assert {m.type for m in meters} <= set(TYPES)
    assert all(m.unit and m.description and m.resource for m in meters)
    assert all(p.description.startswith("OpenStack's ") and p.namespace == "central" for p in make().pollsters)


@pytest.mark.parametrize(
    "meter,kind,unit",
    [
        ("image", "gauge", "image"),
        ("image.size", "gauge", "B"),
        ("volume", "gauge", "volume"),
        ("volume.size", "gauge", "GB"),
        ("snapshot", "gauge", "snapshot"),
        ("volume.snapshot.size", "gauge", "GB"),
        ("volume.backup.size", "gauge", "GB"),
        ("volume.provider.pool.capacity.virtual_free", "gauge", "GB"),
        ("network", "gauge", "network"),
        ("subnet", "gauge", "subnet"),
        ("port", "gauge", "port"),
        ("router", "gauge", "router"),
        ("ip.floating", "gauge", "ip"),
        ("instance", "gauge", "instance"),
        ("network.services.lb.pool", "gauge", "pool"),
        ("network.services.lb.listener", "gauge", "listener"),
        ("network.services.lb.member", "gauge", "member"),
        ("network.services.lb.health_monitor", "gauge", "health_monitor"),
        ("network.services.lb.loadbalancer", "gauge", "loadbalancer"),
        ("network.services.lb.active.connections", "gauge", "connection"),
        ("network.services.lb.total.connections", "cumulative", "connection"),
        ("network.services.lb.incoming.bytes", "cumulative", "B"),
        ("network.services.vpn", "gauge", "vpnservice"),
        ("network.services.vpn.connections", "gauge", "ipsec_site_connection"),
        ("network.services.firewall", "gauge", "firewall"),
        ("storage.objects", "gauge", "object"),
        ("storage.objects.size", "gauge", "B"),
        ("storage.objects.containers", "gauge", "container"),
        ("storage.containers.objects", "gauge", "object"),
        ("storage.containers.objects.size", "gauge", "B"),
    ],
)
def test_names_types_and_units_are_ceilometers(make, meter, kind, unit):
    (found,) = [m for p in make().pollsters for m in p.meters if m.name == meter]

    assert (found.type, found.unit) == (kind, unit)


@pytest.mark.parametrize("size", [1, 7, 24, 25, 26, 1000])
def test_a_list_is_whole_whatever_the_size_of_a_page(apis, read, size):
    apis.lists["/ports"] = [port(n) for n in range(25)]

    assert [r.resource_id for r in read("ports", page_size=size)] == [port(n)["id"] for n in range(25)]


def test_a_service_that_gives_smaller_pages_than_asked_gives_them_all(apis, read):
    apis.largest = 4
    apis.lists["/ports"] = [port(n) for n in range(10)]
    apis.lists["/images"] = [{**IMAGE, "id": f"i{n}"} for n in range(10)]

    assert len(read("ports")) == 10
    assert len(read("images", meters={"image.size"})) == 10


def test_only_the_fields_that_are_needed_are_asked_for(apis, read):
    apis.lists["/ports"] = [port(1)]
    read("ports")
    _, params, _ = apis.asked[-1]

    assert {"id", "project_id", "status", "mac_address"} <= set(params["fields"])
    assert "security_groups" not in params["fields"]


def test_an_entry_that_goes_between_two_pages_ends_nothing(apis, read_until_it_fails):
    ports = [port(n) for n in range(10)]
    apis.lists["/ports"] = list(ports)

    def delete():  # The third, and the fourth: the marker.
        del apis.lists["/ports"][2:4]

    seen, error = read_until_it_fails("ports", {"port"}, page_size=4, after=4, then=delete)
    assert not error
    assert list(dict.fromkeys(seen)) == [p["id"] for p in ports]


def test_a_service_that_gives_one_page_for_ever_is_given_up(apis, read):
    entry = port(1)
    apis.faults["/network/v2.0/ports"] = (
        f'{{"ports": [{{"id": "{entry["id"]}"}}], "ports_links": [{{"rel": "next"}}]}}'.encode()
    )

    with pytest.raises(CloudError, match="again and again"):
        read("ports")


def test_what_was_read_before_an_error_is_given(apis, read_until_it_fails):
    apis.lists["/ports"] = [port(n) for n in range(10)]
    seen, error = read_until_it_fails(
        "ports", {"port"}, page_size=4, after=1, then=lambda: apis.faults.update({"/network": 500})
    )

    assert seen == [port(n)["id"] for n in range(4)]
    assert "HTTP 500" in error


def test_an_image_that_has_no_size_yet_gives_none(apis, read):
    apis.lists["/images"] = [IMAGE, {**IMAGE, "id": "i2", "size": None}]
    readings = read("images")

    assert [(r.meter.name, r.volume, r.resource_id) for r in readings] == [
        ("image", 1, "i1"),
        ("image.size", 100, "i1"),
        ("image", 1, "i2"),
    ]
    assert readings[0].metadata is readings[1].metadata
    assert (readings[0].project_id, readings[0].user_id) == ("p1", "")
    assert readings[0].metadata == {
        "name": "cirros", "status": "active", "visibility": "public", "protected": False, "size": 100, "tags": [],
        "created_at": "2026-11-20T12:00:00Z",
    }  # fmt: skip


def test_a_volume_tells_its_image_instance_project_and_user(apis, read):
    apis.lists["/volumes/detail"] = [VOLUME]
    readings = read("volumes")

    assert volumes(readings) == {"volume": 1, "volume.size": 3}
    about = readings[0].metadata
    assert (about["instance_id"], about["image_id"], about["os-vol-host-attr:host"]) == ("s1", "i1", "h@b#p")
    assert (readings[0].project_id, readings[0].user_id) == ("p1", "u1")
    _, params, headers = apis.asked[-1]
    assert params["all_tenants"] == ["1"]
    assert headers["OpenStack-API-Version"] == "volume 3.64"


def test_snapshots_and_backups_have_sizes(apis, read):
    apis.lists["/snapshots/detail"] = [
        {"id": "n1", "size": 4, "volume_id": "v1", "user_id": "u1", "os-extended-snapshot-attributes:project_id": "p1"}
    ]
    apis.lists["/backups/detail"] = [
        {
            "id": "b1",
            "size": 5,
            "volume_id": "v1",
            "user_id": "u1",
            "os-backup-project-attr:project_id": "p1",
            "is_incremental": True,
        }
    ]

    (_, snapshot), (backup,) = read("volume_snapshots"), read("volume_backups")
    assert (snapshot.meter.name, snapshot.volume, snapshot.project_id) == ("volume.snapshot.size", 4, "p1")
    assert (backup.meter.name, backup.volume, backup.project_id, backup.user_id) == (
        "volume.backup.size",
        5,
        "p1",
        "u1",
    )


def test_a_pool_tells_its_capacities_and_what_is_virtually_free(apis, read):
    apis.lists["/get_pools"] = [POOL]
    readings = read("volume_pools")
    name = "volume.provider.pool.capacity."

    assert volumes(readings) == {
        name + "total": 100, name + "free": 60, name + "allocated": 30, name + "provisioned": 40,
        name + "virtual_free": 2 * (100 - 10) - 40,
    }  # fmt: skip
    assert {r.resource_id for r in readings} == {"host@lvm#pool"}
    assert readings[0].metadata == {"name": "host@lvm#pool", "provider": "host@lvm", "pool_name": "pool"}


def test_a_capacity_that_is_no_number_is_left_out(apis, read):
    said = {"total_capacity_gb": "infinite", "free_capacity_gb": "unknown", "allocated_capacity_gb": 1}
    apis.lists["/get_pools"] = [{"name": "h@b#p", "capabilities": said}, {"name": "h@b#q"}]

    assert volumes(read("volume_pools")) == {"volume.provider.pool.capacity.allocated": 1}


def test_a_server_has_ceilometers_metadata(apis, read):
    apis.lists["/servers/detail"] = [SERVER, {**SERVER, "id": "s2", "image": "", "flavor": {"id": "7"}, "metadata": {}}]
    one, two = read("servers")

    assert (one.meter.name, one.volume, one.project_id, one.user_id) == ("instance", 1, "p1", "u1")
    assert one.metadata == {
        "display_name": "vm", "name": "instance-00000001", "instance_id": "s1", "instance_type": "m1.tiny", "host": "abc",
        "instance_host": "node1", "status": "active", "state": "active", "created_at": "2026-11-20T12:00:00Z",
        "flavor": {"name": "m1.tiny", "vcpus": 2, "ram": 512, "disk": 5, "ephemeral": 3, "swap": 0},
        "vcpus": 2, "memory_mb": 512, "root_gb": 5, "ephemeral_gb": 3, "disk_gb": 8,
        "image": {"id": "i1"}, "image_ref": "i1", "user_metadata": {"stack": "blue"},
    }  # fmt: skip
    assert two.metadata["flavor"] == {"name": "7", "id": "7"}
    assert "image" not in two.metadata
    assert apis.asked[-1][2]["OpenStack-API-Version"] == "compute 2.47"


def test_network_services_tell_their_state_as_ceilometers_number(apis, read):
    apis.lists["/vpnservices"] = [
        {"id": f"w{n}", "status": s, "tenant_id": PROJECT}
        for n, s in enumerate(["ACTIVE", "PENDING_CREATE", "DOWN", "ODD"])
    ]
    apis.lists["/ipsec-site-connections"] = [
        {"id": "x1", "psk": "pre-shared", "tenant_id": PROJECT, "peer_id": "10.1.1.1"}
    ]

    assert [r.volume for r in read("vpn_services")] == [1, 2, 3, -1]
    (connection,) = read("ipsec_connections")
    assert connection.volume == 1
    assert connection.metadata == {"peer_id": "10.1.1.1"}
    assert "psk" not in apis.asked[-1][1]["fields"]


def test_a_floating_ip_is_one_whatever_its_state(apis, read):
    apis.lists["/floatingips"] = [
        {"id": "f1", "status": "DOWN", "floating_ip_address": "198.51.100.7", "tenant_id": PROJECT}
    ]

    (reading,) = read("floating_ips")
    assert (reading.volume, reading.metadata["status"], reading.project_id) == (1, "DOWN", PROJECT)


def test_only_meters_that_are_wanted_are_given(apis, read):
    apis.lists["/volumes/detail"] = [VOLUME]

    assert list(volumes(read("volumes", meters={"volume.size"}))) == ["volume.size"]
